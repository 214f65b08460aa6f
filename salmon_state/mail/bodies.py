"""The messages that batches share: each goes when no batch needs it any more."""

from __future__ import annotations

import time

from salmon_state.entries import EVERY, Kind, Place, Write
from salmon_state.errors import StorageError
from salmon_state.keys import Sender
from salmon_state.mail.batches import decode
from salmon_state.mail.claims import Commits
from salmon_state.storage import StateStorage

__all__ = ["LOOK_AFTER", "Bodies", "is_needed"]

LOOK_AFTER = 3_600_000_000
"""Microseconds after which a message is looked after, whose last recipient may be done."""

_MOST_LEFT = 1_000
_AT_ONCE = 10
"""How many messages are looked after in one step."""
_REST = 60.0
"""Seconds between two looks, if there is nothing more."""


class Bodies:
    """Removes messages whose last recipient is done with, a few at a time.

    Those that were left by somebody who was killed between the two are found by their time.

    Args:
        commits: Makes the writes.
    """

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self._left: set[tuple[Sender, str]] = set()
        self._due = 0.0

    def leave(self, sender: Sender, body: str) -> None:
        """Notes that a batch does not need a message any more; others may."""
        if len(self._left) < _MOST_LEFT:
            self._left.add((sender, body))

    def step(self, *, busy: bool) -> None:
        """Removes some of those that nobody needs.

        Args:
            busy: Whether there is something to send; then it waits with what need not be now.

        Raises:
            StorageUnavailable: The store is away; it is tried again later.
        """
        is_due = time.monotonic() >= self._due
        if busy and not is_due:
            return
        while self._left:
            self._remove_unused(*self._left.pop())
        if is_due:
            store = self._commits.storage
            until = store._clock() + LOOK_AFTER
            found = store._call(store._claim, Kind.BODY, until, _AT_ONCE)
            for body in found:
                self._remove_unused(body.sender, body.name)
            if len(found) < _AT_ONCE:
                self._due = time.monotonic() + _REST

    def _remove_unused(self, sender: Sender, body: str) -> None:
        if not is_needed(self._commits.storage, sender, body):
            self._commits.make([Write(Kind.BODY, sender, body, None)])


def is_needed(
    storage: StateStorage, sender: Sender, body: str, *, besides: Place | None = None
) -> bool:
    """Returns whether a batch needs a message now, to be sent or to be tried again by somebody.

    Args:
        storage: Where they are.
        sender: Whose.
        body: The name of the message.
        besides: A batch that is not asked.

    Raises:
        StorageUnavailable: The store cannot be read now.
    """
    wants = ((Kind.OUTGOING, EVERY), (Kind.DEAD, EVERY))
    for entry in storage._call(storage._load, sender, wants):
        try:
            if entry[:3] != besides and decode(entry).body == body:
                return True
        except StorageError:  # damaged: whoever claims it says so
            continue
    return False
