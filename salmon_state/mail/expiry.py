"""Removing what has expired, a little at a time, by whoever comes along."""

from __future__ import annotations

import time

from salmon_state.entries import Kind, Seen, Where, Write, in_order
from salmon_state.errors import Overtaken
from salmon_state.log import log
from salmon_state.storage import StateStorage

__all__ = ["Expiry"]

_KINDS = (Kind.HANDLED, Kind.CONFIRMATION, Kind.DEAD)

_AT_ONCE = 100
"""How many entries of a kind one step removes."""

_REST = 60.0
"""Seconds between two steps."""

_SHARE = 20
"""While more has expired than a step removes, it rests so many times as long as it has taken."""


class Expiry:
    """Removes the marks of mails, the confirmations and the dead letters that have expired.

    No thread of its own: a Salmon daemon may not be able to start one, and a process that handles
    no mail has nothing that expires.

    Attributes:
        due: Before this moment of ``time.monotonic`` a `step` does nothing.
    """

    def __init__(self) -> None:
        self.due = 0.0

    def step(self, store: StateStorage) -> None:
        """Removes some, unless it did a short while ago; call it outside of a conversation.

        What fails is logged and tried again later: the mail that it comes after is committed.
        """
        began = time.monotonic()
        if began < self.due or not store._has_hooks:
            return
        self.due = began + _REST  # before anything else: other threads come as well
        try:
            more = [_remove(store, kind) for kind in _KINDS]
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            log().warning("%r: what has expired was not removed: %s", store, type(error).__name__)
        else:
            if any(more):
                now = time.monotonic()
                self.due = now + (now - began) * _SHARE


def _remove(store: StateStorage, kind: Kind) -> bool:
    """Removes some entries of a kind; returns whether there may be more."""
    page = store._page(kind, Where(before=store._clock()), None)
    for entries in store._atomic(page.entries[:_AT_ONCE]):
        try:
            store._commit(
                in_order(Write(*entry[:3], None, None, Seen(at=entry.at)) for entry in entries)
            )
        except Overtaken:  # another process is at it
            return False
    return page.after is not None or len(page.entries) > _AT_ONCE
