"""Stores on disk whose conversations are wrong between processes; the docstring says how."""

from __future__ import annotations

import fcntl
import os
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.backend import Lock, UnitOfWork
from salmon_state.entries import Entry, Kind, Want, Write
from salmon_state.errors import ConversationBusy, busy
from salmon_state.keys import Sender, ascii_key
from salmon_state.stores.locks import FileLocks
from tests.testing.right_stores import TableStorage
from tests.testing.wrong_stores import blindly


class LockedTable(TableStorage):
    """The right one: a table, and locks in a file beside it."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._locks = FileLocks(Path(f"{path}.locks"))

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return Lock(self._locks.acquire(sender, timeout))

    def _close(self) -> None:
        self._locks.close()


class LocksThreads(TableStorage):
    """Locks the threads of its own process, and commits whatever happened meanwhile."""

    locks_processes = False

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return Lock(self._threads.acquire(sender, timeout))

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        time.sleep(0.005)
        return super()._commit(blindly(writes))


class TriesNowAndThen(LockedTable):
    """Whoever leaves and comes again finds the lock free before those who wait look again."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
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

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return super()._lock("everybody", timeout)


class LocksTheNullSender(LockedTable):
    """Takes the null sender for somebody."""

    def _begin(self) -> UnitOfWork:
        return self.Work(self)

    class Work(UnitOfWork):
        def enter(self, sender: Sender, timeout: float, wants: Sequence[Want]) -> list[Entry]:
            if not sender:
                self._locks += (self._store._lock(sender, timeout),)
            return super().enter(sender, timeout, wants)


class WritesAtOnce(LockedTable):
    """Sets states past the conversation."""

    def set(self, module: str, sender: Sender, state: str) -> None:
        self._commit((Write(Kind.STATE, sender, module, state, self._clock()),))


class WritesInHalves(LockedTable):
    """Commits each state in a transaction of its own."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        counts = super()._commit(writes[:1])
        time.sleep(0.01)
        return counts + super()._commit(writes[1:])


class MarksBlindly(LockedTable):
    """Commits whatever happened meanwhile, and the mark of a mail as well as any other entry."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        time.sleep(0.005)
        return super()._commit(blindly(writes))


class MarksInMemory(LockedTable):
    """Remembers in its own process which mails were handled."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._marks = MemoryStorage()

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        return super()._load(sender, wants) + self._marks._load(sender, wants)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        marks = [write for write in writes if write.kind is Kind.HANDLED]
        counts = super()._commit(write for write in writes if write not in marks)
        return counts + self._marks._commit(marks)


class LocksForEver(TableStorage):
    """A lock is a file that nobody removes for a process that died."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        path = f"{self.path}.{zlib.crc32(ascii_key('', sender).encode())}.lock"
        deadline = time.monotonic() + timeout
        while True:
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
                return Lock(lambda: os.unlink(path))
            if time.monotonic() >= deadline:
                raise busy(timeout)
            time.sleep(0.002)


class QueuesForEver(LockedTable):
    """Whoever waits stands in a door, which nobody clears of those who died there."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
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

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        if sender in self._held:
            return Lock(lambda: None)
        lock = super()._lock(sender, timeout)
        self._held.add(sender)

        def give_back() -> None:
            self._held.discard(sender)
            lock.release()

        return Lock(give_back)


class ChildrenKeepTheLock(TableStorage):
    """Locks a file, and closes it; but a forked child has it open as well."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self.held: set[int] = set()

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        path = f"{self.path}.{zlib.crc32(ascii(sender).encode())}"
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        deadline = time.monotonic() + timeout
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.held.add(descriptor)
                return Lock(partial(self.give_back, descriptor, path))
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise busy(timeout)
            time.sleep(0.002)

    def give_back(self, descriptor: int, path: str) -> None:
        self.held.discard(descriptor)
        os.close(descriptor)


class RemovesTheLockedFile(ChildrenKeepTheLock):
    """Removes the file, which whoever waits has open."""

    def give_back(self, descriptor: int, path: str) -> None:
        os.unlink(path)
        super().give_back(descriptor, path)


class KeepsLocksWhenClosed(LockedTable):
    """Does nothing any more when it is closed."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        lock = super()._lock(sender, timeout)
        return Lock(lambda: None if self._closed else lock.release())

    def _close(self) -> None:
        pass


class UnlocksWhenClosed(ChildrenKeepTheLock):
    """Gives back what is still locked when it is closed, in a forked child as well."""

    def _close(self) -> None:
        for descriptor in self.held:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
