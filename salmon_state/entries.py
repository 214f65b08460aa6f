"""What a store holds, and what it is asked to write: entries of several kinds, in one shape."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, MutableMapping
from datetime import datetime, timedelta, timezone
from enum import Enum, IntEnum
from typing import Any, Final, Literal, NamedTuple

from salmon_state.errors import Overtaken
from salmon_state.keys import Sender

__all__ = [
    "ABSENT",
    "ANYTHING",
    "CHECK",
    "EVER",
    "EVERY",
    "MICROSECOND",
    "SECOND",
    "STATE",
    "Condition",
    "Entry",
    "Kind",
    "Page",
    "Place",
    "Position",
    "Seen",
    "Value",
    "Want",
    "Where",
    "Write",
    "as_plain",
    "change",
    "from_microseconds",
    "holds",
    "in_order",
    "to_microseconds",
]

Value = str | bytes
"""What an entry says: text for a STATE, bytes for every other kind; text is never empty."""


class Kind(IntEnum):
    """What an entry is about; the number is what stores write, and the order of writes.

    Attributes:
        due: Whether entries are found by their time, as what is to be done or to expire is. Every
            entry of such a kind has one.
    """

    due: bool

    STATE = 1, False
    HANDLED = 2, True
    OUTGOING = 3, True
    BODY = 4, True
    CONFIRMATION = 5, True
    FAILURE = 6, True
    LEASE = 7, False
    CURSOR = 8, False
    TRANSITION = 9, True
    DEAD = 10, True

    def __new__(cls, number: int, due: bool = False) -> Kind:
        """Makes one of the members above."""
        kind = int.__new__(cls, number)
        kind._value_ = number
        kind.due = due
        return kind

    __hash__ = int.__hash__  # that of an Enum is made anew each time, from its name


STATE: Final = Kind.STATE
"""For what every mail does: to look a member up in an Enum takes as long as one in a dict does."""


class _Mark(Enum):
    EVERY = "EVERY"
    CHECK = "CHECK"
    ANYTHING = "ANYTHING"
    ABSENT = "ABSENT"

    def __repr__(self) -> str:
        return self.name


EVERY: Final = _Mark.EVERY
"""Stands for all names, and in a `Where` for all senders."""
CHECK: Final = _Mark.CHECK
"""Stands for a value where nothing is written and only the expectation is asked for."""
ANYTHING: Final = _Mark.ANYTHING
"""No expectation: the entry may be there or not, and be anything."""
ABSENT: Final = _Mark.ABSENT
"""The expectation that there is no such entry."""


EVER: Final = 1 << 62
"""A time after all others, in microseconds."""


class Entry(NamedTuple):
    """One thing that a store holds; kind, sender and name tell it from all others."""

    kind: Kind
    sender: Sender
    """Whose it is; the entries of one sender are what every store changes atomically."""
    name: str
    """What it is called among the sender's entries of its kind: of a STATE, the module."""
    value: Value
    at: int | None
    """Microseconds since 1970-01-01 UTC; ``None`` if unknown, which no kind that is due has."""


class Seen(NamedTuple):
    """The expectation that an entry is there, and is still what somebody saw of it."""

    value: Value | None = None
    """What it must still say; ``None`` does not compare."""
    at: int | Literal[_Mark.ANYTHING] | None = ANYTHING
    """The time that it must still have, ``None`` included; `ANYTHING` does not compare."""


Condition = Seen | Literal[_Mark.ANYTHING, _Mark.ABSENT]


def holds(expect: Condition, found: Any) -> bool:
    """Returns whether an expectation holds.

    Args:
        expect: What is expected.
        found: The entry that there is, or whatever has its ``value`` and ``at``; ``None`` if there
            is none.
    """
    if not isinstance(expect, Seen):
        return expect is ANYTHING or found is None
    value, at = expect
    return (
        found is not None
        and (value is None or value == found.value)
        and (at is ANYTHING or at == found.at)
    )


class Write(NamedTuple):
    """What a store is asked to write about one entry, or about all of a sender and kind."""

    kind: Kind
    sender: Sender
    name: str | Literal[_Mark.EVERY]
    """`EVERY` stands for all that exist when the write is made; it goes without expectation."""
    value: Value | Literal[_Mark.CHECK] | None
    """``None`` removes; to remove what is not there is no error."""
    at: int | None = None
    expect: Condition = ANYTHING


class Where(NamedTuple):
    """Which entries of a kind; what is left out does not filter."""

    sender: Sender | Literal[_Mark.EVERY] = EVERY
    name: str | Literal[_Mark.EVERY] = EVERY
    value: Value | None = None
    before: int | None = None
    """Only those with a time before this moment; those without a known time do not match."""

    def matches(self, entry: Entry) -> bool:
        """Returns whether an entry is one of these."""
        sender, name, value, before = self
        return (
            (sender is EVERY or sender == entry.sender)
            and (name is EVERY or name == entry.name)
            and (value is None or value == entry.value)
            and (before is None or (entry.at is not None and entry.at < before))
        )


Want = tuple[Kind, str | Literal[_Mark.EVERY]]
"""What somebody wants to read of a sender: a kind and a name, or all names."""

Place = tuple[Kind, Sender, str]
"""What tells an entry from all others."""

Position = object
"""Where a page ended: what the store likes, for the store alone."""


class Page(NamedTuple):
    """Some of the entries that match, and where to go on."""

    entries: list[Entry]
    """Those found; perhaps none although more follow, because a page bounds what it looks at."""
    after: Position | None
    """What the next page is asked for with; ``None`` if this was the last one."""


def change(entries: MutableMapping[Place, Entry], write: Write) -> int:
    """Makes one write to entries in memory, for stores that read, change and write them whole.

    Args:
        entries: All that there are of the sender and the kind, at least.
        write: What to write.

    Returns:
        How many entries it wrote or removed.

    Raises:
        Overtaken: Its expectation does not hold.
    """
    kind, sender, name, value, at, expect = write
    if name is EVERY:
        places = [place for place in entries if place[:2] == (kind, sender)]
    else:
        places = [(kind, sender, name)]
        if not holds(expect, entries.get(places[0])):
            raise Overtaken
    if value is CHECK:
        return 0
    if value is None:
        return sum(entries.pop(place, None) is not None for place in places)
    entries.update((place, Entry(*place, value, at)) for place in places)
    return len(places)


def in_order(writes: Iterable[Write]) -> list[Write]:
    """Returns writes in the order in which all stores make them.

    Each `CHECK` comes first, because it is about what was there before, then those of `EVERY`,
    then the others. Otherwise it is the order of kind, sender and name, so that two who write the
    same entries never wait for each other crosswise.
    """
    return sorted(writes, key=_rank)


def _rank(write: Write) -> tuple[int, Kind, bool, str, str]:
    kind, sender, name, value, _, _ = write
    step = 0 if value is CHECK else 1 if name is EVERY else 2
    return step, kind, sender is not None, sender or "", "" if name is EVERY else name


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)
SECOND: Final = 1_000_000
"""In microseconds, of which the times of entries are."""


def from_microseconds(moment: int | None) -> datetime | None:
    """Returns a stored moment as an aware datetime."""
    return None if moment is None else _EPOCH + moment * MICROSECOND


def to_microseconds(moment: datetime | None) -> int | None:
    """Returns an aware datetime as it is stored; the inverse of `from_microseconds`."""
    return None if moment is None else (moment - _EPOCH) // MICROSECOND


def as_plain(entry: Entry) -> dict[str, Any]:
    """Returns an entry as JSON can write it; see `salmon_state.StateStorage.export`."""
    kind, sender, name, value, at = entry
    text, encoding = value, "text"
    if isinstance(value, bytes):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text, encoding = b64encode(value).decode(), "base64"
    moment = from_microseconds(at)
    return {
        "kind": kind.name,
        "sender": sender,
        "name": name,
        "value": text,
        "encoding": encoding,
        "at": None if moment is None else moment.isoformat(),
    }
