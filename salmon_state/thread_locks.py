"""ThreadLocks: a lock for each name, between the threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import partial

from salmon_state.errors import busy
from salmon_state.forks import Forkable, ForkWatch

__all__ = ["ThreadLocks"]


class ThreadLocks(Forkable):
    """A lock for each name that somebody uses now; names that nobody uses take no memory.

    Those who wait get it in the order in which they came. In a forked child all of them are free:
    the threads that held them are its parent's.
    """

    def __init__(self) -> None:
        self._start_empty()
        _watch.add(self)

    def _start_empty(self) -> None:
        self._guard = threading.Lock()
        # For each name that somebody has: what lets those who wait for it go on.
        self._turns: dict[Hashable, list[threading.Lock]] = {}

    def acquire(self, name: Hashable, timeout: float) -> Callable[[], None]:
        """Waits for a name and returns what gives it back.

        Args:
            name: Whose lock.
            timeout: In seconds; 0 does not wait.

        Raises:
            ConversationBusy: Another thread had it all the time.
        """
        with self._guard:
            turns = self._turns.get(name)
            if turns is None:
                turns = self._turns[name] = []
                return partial(self._release, name, turns)
            turn = threading.Lock()
            turn.acquire()
            turns.append(turn)
        won = False
        try:
            won = turn.acquire(timeout=timeout)
        finally:  # a signal may end the wait, too
            if not won:
                self._give_up(name, turns, turn)
        if not won:
            raise busy(timeout)
        return partial(self._release, name, turns)

    def _give_up(self, name: Hashable, turns: list[threading.Lock], turn: threading.Lock) -> None:
        with self._guard:
            waiting = turn in turns
            if waiting:
                turns.remove(turn)
        if not waiting:  # it came at this very moment
            self._release(name, turns)

    def _release(self, name: Hashable, turns: list[threading.Lock]) -> None:
        with self._guard:
            if turns:
                turns.pop(0).release()
            elif self._turns.get(name) is turns:  # or this is a forked child
                del self._turns[name]

    def after_fork(self, *, child: bool) -> None:
        """Begins anew in the child, whatever a thread was in the middle of."""
        if child:
            self._start_empty()


_watch = ForkWatch()
