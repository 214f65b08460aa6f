"""The inbox: a mail that was handled is known when it comes again."""

from __future__ import annotations

import re
from datetime import timedelta
from hashlib import sha256
from typing import Any, NamedTuple

from salmon_state.checks import check_lifetime
from salmon_state.conversation import Conversation
from salmon_state.entries import ABSENT, MICROSECOND, Condition, Kind, Seen, Write
from salmon_state.errors import ConfigurationError
from salmon_state.storage import StateStorage

__all__ = ["NO_MARKS", "Inbox", "Receipt", "fingerprint"]

NO_MARKS = (
    "%r has get, set and clear only and cannot keep which mails were handled: with it, once_within "
    "does nothing"
)

_TRACE = re.compile(
    rb"\n(?:return-path|(?:x-)?received(?:-spf)?|delivered-to|delivery-date|x-original-to"
    rb"|(?:x-)?envelope-(?:from|to)|authentication-results|arc-[a-z-]+"
    rb"|x-(?:spam|virus|rspamd|greylist)[a-z-]*)[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*",
    re.IGNORECASE,
)
"""The headers that mail servers add on the way, other ones each time that they take a mail."""


class Inbox:
    """Marks each mail that was handled, in the commit of its conversation.

    Args:
        once_within: How long a mail is known.

    Raises:
        TypeError, ValueError: That is no ``timedelta``, or not positive, or too long.
    """

    def __init__(self, once_within: timedelta) -> None:
        check_lifetime("once_within", once_within)
        self._microseconds = once_within // MICROSECOND

    def check(self, store: StateStorage) -> None:
        """Raises `ConfigurationError` if a store cannot keep marks."""
        if not store._has_hooks:
            raise ConfigurationError(NO_MARKS % store)

    def look(self, conversation: Conversation, name: str) -> Receipt:
        """Returns what there is about a mail of the conversation's sender.

        Args:
            conversation: Whose snapshot has the mark, if there is one.
            name: The mail's `fingerprint`.
        """
        now = conversation._store._clock()
        mark = conversation.find(Kind.HANDLED, conversation.sender, name)
        # The time is the value as well, because that is what a conversation finds. A mark that has
        # expired is there until somebody removes it.
        is_known = mark is not None and int(mark) > now
        return Receipt(conversation, name, is_known, mark, now + self._microseconds)


class Receipt(NamedTuple):
    """What there is about a mail, and is to be."""

    conversation: Conversation
    name: str
    is_known: bool
    """Whether the mail was handled before."""
    mark: bytes | None
    until: int

    def sign(self) -> None:
        """Marks the mail as handled, with everything else that its conversation commits.

        Where no lock keeps two of the same mail apart, as with a null sender, one of them is
        overtaken.
        """
        expect: Condition = ABSENT if self.mark is None else Seen(value=self.mark)
        sender, value = self.conversation.sender, b"%d" % self.until
        write = Write(Kind.HANDLED, sender, self.name, value, self.until, expect)
        self.conversation.add(write)


def fingerprint(message: Any) -> str:
    """Returns what tells a mail from all others of its sender: its recipient and its content.

    The content as it was received, and not as this Python would write it; without the headers
    that mail servers add on the way, whichever line ends it has.
    """
    data = message.Data
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    data = data.rstrip(b"\n")  # of which SMTP and LMTP leave one more or less
    end = 0 if data.startswith(b"\n") else data.find(b"\n\n")
    if end < 0:
        end = len(data)
    digest = sha256(ascii(message.To).encode())
    digest.update(_TRACE.sub(b"", b"\n" + data[:end]))
    digest.update(memoryview(data)[end:])
    return digest.hexdigest()
