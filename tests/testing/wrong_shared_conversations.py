"""Stores on disk whose conversations are wrong between processes; the docstring says how."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from salmon_state.errors import ConversationBusy, busy
from salmon_state.storage import Change, Move, Sender, Transition, UnitOfWork, ascii_key
from salmon_state.stores.locks import FileLocks
from tests.testing.right_stores import TableStorage


class LockedTable(TableStorage):
    """The right one: a table, and locks in a file beside it."""

    _locks_processes = True

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._locks = FileLocks(Path(f"{path}.locks"))

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        return self._locks.acquire(sender, timeout)

    def _close(self) -> None:
        self._locks.close()


class LocksThreads(TableStorage):
    """Locks the threads of its own process, and commits whatever happened meanwhile."""

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        time.sleep(0.005)
        super()._commit(moves, [each._replace(conditional=False) for each in transitions])


class TriesNowAndThen(LockedTable):
    """Whoever leaves and comes again finds the lock free before those who wait look again."""

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        deadline = time.monotonic() + timeout
        pause = 0.0005
        while True:
            try:
                return super()._lock(sender, 0)
            except ConversationBusy:
                if time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * 2, 0.2)


class OneLockForAll(LockedTable):
    """Every sender waits for every other."""

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        return super()._lock("everybody", timeout)


class LocksTheNullSender(LockedTable):
    """Takes the null sender for somebody."""

    def _begin(self) -> UnitOfWork:
        return self.Work(self)

    class Work(UnitOfWork):
        def enter(self, sender: Sender, timeout: float, *, lock: bool) -> Mapping[str, str]:
            return super().enter(sender, timeout, lock=True)


class WritesAtOnce(LockedTable):
    """Sets states past the conversation."""

    def set(self, module: str, sender: Sender, state: str) -> None:
        self._write((Change(module, sender, state, self._clock()),))


class WritesInHalves(LockedTable):
    """Commits each state in a transaction of its own."""

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        super()._commit((), transitions[:1])
        time.sleep(0.01)
        super()._commit((), transitions[1:])


class LocksForEver(TableStorage):
    """A lock is a file that nobody removes for a process that died."""

    _locks_processes = True

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        path = f"{self.path}.{zlib.crc32(ascii_key('', sender).encode())}.lock"
        deadline = time.monotonic() + timeout
        while True:
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
                return lambda: os.unlink(path)
            if time.monotonic() >= deadline:
                raise busy(timeout)
            time.sleep(0.002)


class QueuesForEver(LockedTable):
    """Whoever waits stands in a door, which nobody clears of those who died there."""

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        deadline = time.monotonic() + timeout
        door = f"{self.path}.door"
        while True:
            with suppress(FileExistsError):
                os.close(os.open(door, os.O_CREAT | os.O_EXCL))
                break
            if time.monotonic() >= deadline:
                raise busy(timeout)
            time.sleep(0.002)
        try:
            return super()._lock(sender, timeout)
        finally:
            os.unlink(door)


class KnowsItsOwn(LockedTable):
    """Lets in whoever finds the sender among those that it holds; a forked child does."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._held: set[Sender] = set()

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        if sender in self._held:
            return lambda: None
        release = super()._lock(sender, timeout)
        self._held.add(sender)

        def give_back() -> None:
            self._held.discard(sender)
            release()

        return give_back
