"""Stores that do not think of somebody else who has them open; the docstring says of whom.

They came through all tests of the kit that there were before.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.backend import Lock
from salmon_state.entries import Entry, Kind, Page, Where, Write
from salmon_state.errors import StorageError, StorageUnavailable, busy
from salmon_state.keys import Sender
from salmon_state.testing import (
    ContractSuite,
    EntrySuite,
    FaultSuite,
    FileSuite,
    SharedSuite,
    ThreadSuite,
)
from tests.testing.right_stores import TableStorage
from tests.testing.wrong_faults import OneFile
from tests.testing.wrong_shared_conversations import LockedTable


class MovesTies(MemoryStorage):
    """A claim moves all that are as old as the last one that it gives."""

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        due = [e for p in self._pages(kind, Where(before=self._clock() + 1)) for e in p.entries]
        last = due[:limit][-1].at if due else None
        for entry in due[limit:]:
            if entry.at == last:
                self._commit([Write(*entry[:4], until)])
        return super()._claim(kind, until, limit)


class EndsWhenClosed(MemoryStorage):
    """Nobody needs the rest of what is listed when it is closed."""

    def _pages(self, kind: Kind, where: Where) -> Iterator[Page]:
        for page in super()._pages(kind, where):
            yield page
            if self._closed:
                return


class NeverEndsAPause(MemoryStorage):
    """Goes on with what is behind the block, which raised."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.turn = threading.RLock()

    @contextmanager
    def _pause(self, seconds: float) -> Iterator[None]:
        self.turn.acquire()
        yield
        self.turn.release()

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        if not self.turn.acquire(timeout=0.2):
            raise StorageUnavailable("others are writing")
        try:
            return super()._commit(writes)
        finally:
            self.turn.release()


class ClaimsInAPause(NeverEndsAPause):
    """Has everybody wait but those who claim."""

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        usual, self.turn = self.turn, threading.RLock()
        try:
            return super()._claim(kind, until, limit)
        finally:
            self.turn = usual

    def _sweep(self, *_: Any) -> int:
        return 0

    def _wipe(self) -> None:
        pass


class PausesItsThreads(TableStorage):
    """Other processes write in a pause."""

    def __init__(self, path: str, **options: Any) -> None:
        self.turn = threading.RLock()
        super().__init__(path, **options)

    @contextmanager
    def _pause(self, seconds: float) -> Iterator[None]:
        with self.turn:
            yield

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        with self.turn:
            return super()._commit(writes)


class RemovesWhatIsUnderWay(TableStorage):
    """Whoever opens it takes what another one is writing for what nobody finished."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self.journal = Path(f"{self.path}.journal")
        self.journal.unlink(missing_ok=True)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        self.journal.write_bytes(b"under way")
        if not self.journal.exists():
            return [1] * len(writes)
        counts = super()._commit(writes)
        self.journal.unlink(missing_ok=True)
        return counts


class OpensAnewInAChild(TableStorage):
    """A child opens the file at each call, as its parent's is none of its own."""

    def __init__(self, path: str, **options: Any) -> None:
        self.process = os.getpid()
        super().__init__(path, **options)

    def _connect(self) -> sqlite3.Connection:
        if os.getpid() != self.process:
            os.open(self.path, os.O_RDONLY)
        return super()._connect()


class FollowsNoLink(LockedTable):
    """Has its locks beside the name by which it was opened."""


class HasThemTryAgain(TableStorage):
    """Whatever SQLite finds wrong may be well a minute later."""

    def _explain(self, error: Exception) -> StorageError:
        is_sqlites = isinstance(error, sqlite3.Error)
        return StorageUnavailable(f"{error}") if is_sqlites else super()._explain(error)


class WaitsAsItsWriters(LockedTable):
    """Whoever waits for a lock is told when a writer would be."""

    timeout = 0.5

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return super()._lock(sender, min(timeout, self.timeout))


class BlamesTheSender(OneFile):
    """Says of any writer that it handles a mail of the same sender."""

    def give_up(self) -> None:
        raise busy(self.wait)


class BlamesTheSenderInTheEnd(BlamesTheSender):
    """Has collected all that it is to write before it keeps others out."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        with self.alone():
            Path(f"{self.path}.journal").write_bytes(b"under way")
            return TableStorage._commit(self, writes)


IN_MEMORY = (
    (MovesTies, EntrySuite, "test_a_claim_leaves_the_rest"),
    (EndsWhenClosed, ContractSuite, "test_a_store_that_is_closed_while_iterating"),
    (NeverEndsAPause, ThreadSuite, "test_a_pause_that_fails"),
    (ClaimsInAPause, ThreadSuite, "test_a_pause"),
)
ON_DISK = (
    (PausesItsThreads, SharedSuite, "test_a_pause_of_another_process"),
    (RemovesWhatIsUnderWay, SharedSuite, "test_a_store_is_opened_beside_a_commit"),
    (OpensAnewInAChild, SharedSuite, "test_a_child_leaves_nothing_open"),
    (FollowsNoLink, FileSuite, "test_a_link_leads_to_the_same_place"),
    (HasThemTryAgain, FileSuite, "test_files_that_somebody_replaced"),
    (WaitsAsItsWriters, FaultSuite, "test_a_wait_beyond_its_time_limit"),
    (BlamesTheSender, FaultSuite, "test_a_writer_that_stands_still"),
    (BlamesTheSenderInTheEnd, FaultSuite, "test_a_writer_that_stands_still"),
)
