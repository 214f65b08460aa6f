"""ThreadLocks: a lock for each name, between the threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

from salmon_state.errors import busy
from salmon_state.forks import Forkable, ForkWatch

__all__ = ["ThreadLocks"]


class _Entry:
    """The lock of a name, and how many threads have it or wait for it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0


class ThreadLocks(Forkable):
    """A lock for each name that somebody uses now; names that nobody uses take no memory.

    In a forked child all of them are free: the threads that held them are its parent's.
    """

    def __init__(self) -> None:
        self._start_empty()
        _watch.add(self)

    def _start_empty(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Hashable, _Entry] = {}

    def acquire(self, name: Hashable, timeout: float) -> Callable[[], None]:
        """Waits for a name and returns what gives it back.

        Args:
            name: Whose lock.
            timeout: In seconds; 0 does not wait.

        Raises:
            ConversationBusy: Another thread had it all the time.
        """
        with self._guard:
            entry = self._locks.setdefault(name, _Entry())
            entry.users += 1
        if entry.lock.acquire(timeout=timeout) if timeout > 0 else entry.lock.acquire(False):
            return lambda: self._release(name, entry)
        self._leave(name, entry)
        raise busy(timeout)

    def _release(self, name: Hashable, entry: _Entry) -> None:
        entry.lock.release()
        self._leave(name, entry)

    def _leave(self, name: Hashable, entry: _Entry) -> None:
        with self._guard:
            entry.users -= 1
            if entry.users == 0 and self._locks.get(name) is entry:  # or this is a forked child
                del self._locks[name]

    def after_fork(self, *, child: bool) -> None:
        """Begins anew in the child, whatever a thread was in the middle of."""
        if child:
            self._start_empty()


_watch = ForkWatch()
