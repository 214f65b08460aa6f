"""Outbox: what handlers send, written down in the commit of their mail."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from salmon.mail import MailResponse

from salmon_state.conversation import Conversation
from salmon_state.entries import (
    ABSENT,
    CHECK,
    EVER,
    Kind,
    Seen,
    Where,
    Write,
    from_microseconds,
    in_order,
)
from salmon_state.errors import ConfigurationError, Overtaken
from salmon_state.keys import Sender
from salmon_state.mail.batches import Batch, Envelope, Mail, decode, in_groups
from salmon_state.mail.bodies import LOOK_AFTER, is_needed
from salmon_state.mail.messages import address, as_bytes, header, recipients_in
from salmon_state.storage import StateStorage

__all__ = ["Backlog", "Outbox"]


class Backlog(NamedTuple):
    """How much there is to send; found without reading it."""

    pending: int
    """Batches that are to be sent, of up to a hundred recipients each."""
    first_due: datetime | None
    """When the first of them is due; long ago if no dispatcher runs, or the relay is down."""
    dead: int
    """Batches that were given up."""


class Outbox:
    """Stands where Salmon's `Relay` stands, and sends what is committed, as if it were a state.

    In a conversation of the store (in a handler, if the store is attached) `deliver`, `reply`,
    `send` and `fan_out` record a mail, and it is written in the commit of the states: it is there
    if these are there. When the mail that is being handled comes again, or its handler raises,
    nothing is sent. Outside of a conversation each call is a commit of its own.

    A `Dispatcher` sends, in a thread of this process or in another one.

    >>> from salmon_state import MemoryStorage
    >>> store = MemoryStorage()
    >>> outbox = Outbox(store, relay=None)
    >>> with store.conversation("anna@example.com"):
    ...     outbox.send("anna@example.com", "list@example.com", "Welcome", "Hello!")
    >>> outbox.backlog().pending
    1

    Args:
        storage: Where the mails are kept until they are sent; the store of the states.
        relay: What a dispatcher of this outbox sends through: `salmon.server.Relay`,
            `salmon_state.mail.relays.SMTPRelay` or whatever has their method ``deliver``.

    Raises:
        TypeError: `storage` is no store.
        ConfigurationError: The store keeps states only.

    Attributes:
        given_up: Called by a dispatcher of this process with each `Mail` that it gives up, before
            that is committed: after a crash in between once more. What it raises is logged.
        listeners: Called when something was recorded by this process; must neither raise nor wait.
    """

    given_up: Callable[[Mail], object] | None = None

    def __init__(self, storage: StateStorage, relay: Any = None) -> None:
        if not isinstance(storage, StateStorage):
            raise TypeError(f"storage must be a StateStorage, not {type(storage).__name__}")
        if not storage._has_hooks:
            raise ConfigurationError(
                f"{storage!r} has get, set and clear only and cannot keep what is to be sent"
            )
        self.storage = storage
        self.relay = relay
        self.listeners: list[Callable[[], None]] = []
        self._bodies: WeakKeyDictionary[Conversation, dict[bytes, str]] = WeakKeyDictionary()
        self._naming = threading.Lock()
        self._last = 0

    # ---------------------------------------------------------------- what handlers call

    def deliver(self, message: Any, To: Any = None, From: str | None = None) -> None:  # noqa: N803
        """Records a message to be sent, as `salmon.server.Relay.deliver` would send it.

        Args:
            message: A `salmon.mail.MailResponse` or `MailRequest`, an `email.message.Message`,
                text or bytes. If it has no ``Message-ID`` or no ``Date`` it gets one.
            To: The recipient in the envelope, or several, also in one text with commas; by default
                all that are in the message's ``To``.
            From: The sender in the envelope; by default the message's, and ``''`` is the null
                sender.

        Raises:
            ValueError: An address is missing, or has characters that none may have.
            StorageUnavailable: Outside of a conversation: it cannot be written now.
            StorageError: It is too large for the store.
        """
        to = To or getattr(message, "To", None) or header(message, "To")
        sender: Any = From
        if From is None:
            sender = getattr(message, "From", None) or header(message, "From")
        self.fan_out(message, [(recipient, sender) for recipient in recipients_in(to)])

    def reply(self, original: Any, From: str, Subject: str, Body: str) -> None:  # noqa: N803
        """Records an answer to whom a mail came from."""
        self.send(original.From, From=From, Subject=Subject, Body=Body)

    def send(self, To: str, From: str, Subject: str, Body: str) -> None:  # noqa: N803
        """Records a mail made of these."""
        self.deliver(MailResponse(To=To, From=From, Subject=Subject, Body=Body))

    def fan_out(self, message: Any, envelopes: Iterable[Envelope]) -> None:
        """Records one message to any number of recipients, each with its own envelope sender.

        The message is kept once. Recipients who follow each other with the same envelope sender
        are sent it together.

        Args:
            message: As for `deliver`.
            envelopes: Pairs of a recipient and an envelope sender; ``''`` is the null sender. They
                may be an iterator of a hundred thousand.

        Raises:
            ValueError, StorageError: As for `deliver`; nothing is recorded.
        """
        data, wrong = as_bytes(message), list[Exception]()
        checked = _checked(envelopes, wrong)
        first = next(checked, None)
        if first is None:
            return
        checked = itertools.chain([first], checked)
        conversation = self.storage._active.conversation
        if conversation is None:
            writes = self._writes(data, checked, first[1], self._new_name())
            self._commit_all(writes, wrong)
            self._announce()
            return
        outermost = conversation
        while outermost._outer is not None:
            outermost = outermost._outer
        body = self._body_of(conversation, data)
        for write in list(self._writes(data, checked, outermost.sender, body)):
            conversation.add(write)
        conversation.afterwards(self._announce)

    def _commit_all(self, writes: Iterator[Write], wrong: list[Exception]) -> None:
        self.storage._check_open()
        try:
            self.storage._commit(writes)
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; see _raise
            if wrong:  # and it is not the store that failed
                raise wrong[0] from None
            self.storage._raise(error)

    def _body_of(self, conversation: Conversation, data: bytes) -> str:
        """Returns the name for a message, of which a conversation keeps each once."""
        names = self._bodies.setdefault(conversation, {})
        return names.setdefault(hashlib.sha256(data).digest(), self._new_name())

    def _writes(
        self, data: bytes, envelopes: Iterable[Envelope], whose: Sender, body: str
    ) -> Iterator[Write]:
        """Yields what is to be written, in the order in which it is."""
        mail, now = self._new_name(), self.storage._clock()
        for number, groups in enumerate(in_groups(envelopes, now)):
            value = Batch(body, now, groups).encode()
            yield Write(Kind.OUTGOING, whose, f"{mail}-{number:06}", value, now, ABSENT)
        yield Write(Kind.BODY, whose, body, data, now + LOOK_AFTER, ABSENT)

    def _new_name(self) -> str:
        """Returns what nothing else is called, after all that was called so before."""
        with self._naming:
            self._last = max(self.storage._clock(), self._last + 1)
            return f"{self._last:016x}{secrets.token_hex(6)}"

    def _announce(self) -> None:
        for listener in self.listeners:
            listener()

    # ---------------------------------------------------------------- for operators

    def backlog(self) -> Backlog:
        """Returns how much there is to send, and how long it has been waiting.

        Raises:
            StorageUnavailable: The store cannot be read now.
        """
        count, page = self.storage._count, self.storage._page
        pending = self.storage._call(count, Kind.OUTGOING)
        first = self.storage._call(page, Kind.OUTGOING, Where(before=EVER), None).entries[:1]
        dead = self.storage._call(count, Kind.DEAD)
        return Backlog(pending, from_microseconds(first[0].at) if first else None, dead)

    def pending(self) -> Iterator[Mail]:
        """Yields what is to be sent, what is due first at first, a page at a time."""
        return self._mails(Kind.OUTGOING)

    def dead(self) -> Iterator[Mail]:
        """Yields what was given up, the oldest first, a page at a time."""
        return self._mails(Kind.DEAD)

    def _mails(self, kind: Kind) -> Iterator[Mail]:
        return self.storage._go_through(kind, Where(before=EVER), partial(map, Mail.of))

    def retry(self, mail: Mail) -> bool:
        """Makes a mail be tried at once, one that was given up as if it were new.

        Args:
            mail: One of `pending` or `dead`.

        Returns:
            Whether it is; not if it is being sent now, or somebody was quicker.
        """
        entry, now = mail.entry, self.storage._clock()
        batch = decode(entry)
        groups = [group._replace(due=now) for group in batch.groups]
        if entry.kind is Kind.OUTGOING:
            value = batch._replace(groups=groups).encode()
            return entry.at == batch.due and self._try([_over(mail, value, now)])
        name = f"{self._new_name()}-000000"
        again = batch._replace(since=now, groups=[group._replace(attempts=0) for group in groups])
        return self._try(
            [
                _over(mail, None, None),
                Write(Kind.OUTGOING, entry.sender, name, again.encode(), now, ABSENT),
                Write(Kind.BODY, entry.sender, batch.body, CHECK, None, Seen()),
            ]
        )

    def drop(self, mail: Mail) -> bool:
        """Forgets a mail: it is not sent to those who have not had it.

        Args:
            mail: One of `pending` or `dead`.

        Returns:
            Whether it is forgotten; not if it is being sent now, or somebody was quicker.
        """
        batch = decode(mail.entry)
        if mail.entry.kind is Kind.OUTGOING and mail.entry.at != batch.due:
            return False
        writes = [_over(mail, None, None)]
        if not is_needed(self.storage, mail.sender, batch.body, besides=mail.entry[:3]):
            writes.append(Write(Kind.BODY, mail.sender, batch.body, None))
        return self._try(writes)

    def _try(self, writes: list[Write]) -> bool:
        try:
            self.storage._call(self.storage._commit, in_order(writes))
        except Overtaken:
            return False
        self._announce()
        return True

    def __repr__(self) -> str:
        return f"<Outbox of {self.storage!r} to {self.relay!r}>"


def _checked(envelopes: Iterable[Envelope], wrong: list[Exception]) -> Iterator[Envelope]:
    """Yields envelopes that can be written down; what is raised meanwhile is noted as well."""
    try:
        for recipient, sender in envelopes:
            yield (
                address(recipient, "recipient"),
                address(sender, "envelope sender", null=True),
            )
    except Exception as error:
        wrong.append(error)
        raise


def _over(mail: Mail, value: bytes | None, at: int | None) -> Write:
    """Returns the write that changes what somebody saw, and nothing newer."""
    return Write(*mail.entry[:3], value, at, Seen(mail.entry.value, mail.entry.at))
