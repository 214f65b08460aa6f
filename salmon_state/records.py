"""What a store gives, and what it is asked to write."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from salmon_state.keys import Sender

__all__ = [
    "MICROSECOND",
    "Change",
    "Move",
    "Record",
    "Transition",
    "from_microseconds",
    "to_microseconds",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)


class Record(NamedTuple):
    """One conversation as a store holds it."""

    module: str
    """The handler module, or whatever a ``@state_key_generator`` made of it."""
    sender: Sender
    state: str
    """The name of the function that handles this sender's next mail; never START."""
    updated_at: datetime | None
    """When the state was last set, in UTC by the clock of whoever set it; ``None`` if unknown."""


class Change(NamedTuple):
    """What a backend is asked to write for one conversation."""

    module: str
    sender: Sender
    state: str | None
    """The new state, or ``None`` to remove the entry."""
    updated_at: int | None
    """Microseconds since 1970-01-01 UTC, or ``None`` if unknown."""


class Transition(NamedTuple):
    """One conversation's way into a new state, as a backend is asked to commit it."""

    module: str
    sender: Sender
    state: str | None
    """The new state, or ``None`` to remove the entry."""
    updated_at: int
    """Microseconds since 1970-01-01 UTC."""
    conditional: bool
    """Whether it may only happen if the state is still `seen`."""
    seen: str | None = None
    """The state that the conversation went by; ``None`` if there was no entry."""


class Move(NamedTuple):
    """All existing conversations of another sender into one state; ``None`` removes them."""

    sender: Sender
    state: str | None
    updated_at: int


def from_microseconds(moment: int | None) -> datetime | None:
    """Returns the stored moment as an aware datetime."""
    return None if moment is None else _EPOCH + moment * MICROSECOND


def to_microseconds(moment: datetime | None) -> int | None:
    """Returns an aware datetime as it is stored; the inverse of `from_microseconds`."""
    return None if moment is None else (moment - _EPOCH) // MICROSECOND
