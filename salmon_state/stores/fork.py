"""Stores over SQLite and ``os.fork``: no connection is open while the process forks.

SQLite's manual forbids a child to use or to close a connection that it has inherited. That is not
enough: while it has one, a new connection of the child to the same file counts on locks that
``fork`` does not pass on. When the parent closes, it takes itself for the last one and removes the
write-ahead log under the child, whose committed states are lost with it; the test
``test_bare_sqlite_loses_what_a_child_commits`` shows it. So every store lets go of its connection
just before the fork, and opens it again on demand.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod

__all__ = ["Forkable", "constructing"]

# Held while a store is made, when it is not known here yet but may have connections open.
constructing = threading.RLock()


class Forkable(ABC):
    """A store that is told when the process forks."""

    def _watch_forks(self) -> None:
        """Asks for the two calls below, until the store is garbage; call it in `constructing`."""
        _stores.add(self)

    @abstractmethod
    def _before_fork(self) -> None:
        """Keeps other threads off the store and closes its connections."""

    @abstractmethod
    def _after_fork(self) -> None:
        """Lets other threads go on, in the parent and in the child."""


_stores: weakref.WeakSet[Forkable] = weakref.WeakSet()
_waiting: list[Forkable] = []


def _before() -> None:
    constructing.acquire()
    for store in list(_stores):
        store._before_fork()
        _waiting.append(store)


def _after() -> None:
    while _waiting:
        _waiting.pop()._after_fork()
    constructing.release()


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
