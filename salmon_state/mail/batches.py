"""What the outbox writes down: batches of envelopes that share a message.

An OUTGOING entry is a batch; its name begins with the id of the mail, which grows with time, and
its time is the earliest at which one of its groups is due. While a dispatcher has it, the time is
another one: the end of the claim.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from salmon_state.entries import Entry, from_microseconds
from salmon_state.errors import StorageError
from salmon_state.keys import Sender

__all__ = ["Batch", "Envelope", "Group", "Mail", "decode", "in_groups", "mail_of"]

Envelope = tuple[str, str]
"""The recipient, and the sender in the envelope: ``''`` is the null sender."""

_VERSION = 1
_encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: each mark needs it
_MOST_RECIPIENTS = 100
"""In a batch, and so in a transaction; what every mail server takes (RFC 5321, 4.5.3.1.8)."""
_MOST_GROUPS = 25
"""Each of which rewrites the batch when it is sent."""


class Group(NamedTuple):
    """Recipients of one envelope sender, who are sent the message in one transaction."""

    sender: str
    recipients: Sequence[str]
    due: int
    """When to try next, in microseconds since 1970 UTC."""
    attempts: int = 0
    """How often it was tried in vain."""
    answer: str = ""
    """What the relay said the last time."""


class Batch(NamedTuple):
    """Up to a hundred envelopes of one message."""

    body: str
    """The name of the BODY entry with the message."""
    since: int
    """When it was recorded, in microseconds since 1970 UTC."""
    groups: Sequence[Group]

    def encode(self) -> bytes:
        """Returns it as it is stored."""
        return _encode([_VERSION, *self]).encode("ascii")

    @property
    def recipients(self) -> set[str]:
        """All of them."""
        return {recipient for group in self.groups for recipient in group.recipients}

    @property
    def due(self) -> int:
        """When the first of its groups is due."""
        return min(group.due for group in self.groups)


def decode(entry: Entry) -> Batch:
    """Returns the batch in an entry.

    Raises:
        StorageError: It is damaged, or of a later version.
    """
    try:
        version, body, since, groups = json.loads(entry.value)
        if version == _VERSION:
            return Batch(body, since, [Group(*group) for group in groups])
        problem = f"version {version!r:.20}, and this salmon-state knows {_VERSION}"
    except (ValueError, TypeError) as error:
        problem = f"damaged: {error}"
    raise StorageError(f"{entry.kind.name} {entry.name!r:.200} of the outbox: {problem}")


def in_groups(envelopes: Iterable[Envelope], now: int) -> Iterator[list[Group]]:
    """Yields the groups of one batch after the other."""
    found: dict[str, list[str]] = {}
    count = 0
    for recipient, sender in envelopes:
        if count == _MOST_RECIPIENTS or (len(found) == _MOST_GROUPS and sender not in found):
            yield [Group(*each, now) for each in found.items()]
            found, count = {}, 0
        found.setdefault(sender, []).append(recipient)
        count += 1
    if found:
        yield [Group(*each, now) for each in found.items()]


def mail_of(name: str) -> str:
    """Returns the id of the mail that a batch belongs to."""
    return name.partition("-")[0]


class Mail(NamedTuple):
    """A batch as an operator sees it: what is to be sent, or was given up."""

    sender: Sender
    """Whose mail it is a consequence of; what it sends to one recipient leaves in its order."""
    name: str
    since: datetime | None
    """When it was recorded."""
    due: datetime | None
    """When it is tried next, or if it is being sent now, until when; of a dead letter, when it is
    forgotten."""
    groups: Sequence[Group]
    entry: Entry
    """What is in the store."""

    @classmethod
    def of(cls, entry: Entry) -> Mail:
        """Returns what is in an entry."""
        batch = decode(entry)
        since, due = from_microseconds(batch.since), from_microseconds(entry.at)
        return cls(entry.sender, entry.name, since, due, batch.groups, entry)
