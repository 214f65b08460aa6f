"""Stores that hide what is wrong with their place; the docstring says how."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from salmon_state.entries import EVERY, Entry, Kind, Page, Place, Want, Where, Write, change
from salmon_state.errors import StorageError, StorageUnavailable
from salmon_state.keys import Sender
from salmon_state.testing import FaultSuite
from tests.testing import wrong_drivers, wrong_rows
from tests.testing.right_stores import TableStorage


class BlamesTheOperator(TableStorage):
    """Says of whatever its driver raises that somebody has to mend it."""

    def _explain(self, error: Exception) -> StorageError:
        return StorageError(f"{error}")


class SwallowsWriteErrors(TableStorage):
    """Logs what cannot be written, and goes on."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        try:
            return super()._commit(writes)
        except sqlite3.OperationalError:
            return [1] * len(writes)


class AwayIsEmpty(TableStorage):
    """Finds nothing where there is no file."""

    def _execute(self, statement: str, *values: object) -> list[Any]:
        with suppress(sqlite3.OperationalError):
            return super()._execute(statement, *values)
        return []

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        with suppress(sqlite3.OperationalError):
            return super()._load(sender, wants)
        return []


class MakesItsTableAnew(TableStorage):
    """Makes its table wherever there is none."""

    def _connect(self) -> sqlite3.Connection:
        connection = super()._connect()
        connection.execute(
            "CREATE TABLE IF NOT EXISTS entries"
            " (kind, sender, name, value, at, PRIMARY KEY (kind, sender, name))"
        )
        return connection


class MakesItAnew(MakesItsTableAnew):
    """Makes its directory and its table whenever they are missing."""

    def _connect(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        return super()._connect()


class ComesToKnowLater(TableStorage):
    """Takes what was open a moment ago for open, until something has failed."""

    away = False

    def _ping(self) -> None:
        if self.away:
            super()._ping()

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        try:
            return super()._find(kind, sender, name)
        except sqlite3.OperationalError:
            self.away = True
            raise


class TriesForEver(TableStorage):
    """Takes whatever SQLite says for a lock that somebody else has."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        while True:
            try:
                return super()._commit(writes)
            except sqlite3.OperationalError:
                time.sleep(0.05)


class DamagedIsMissing(TableStorage):
    """Leaves out what it cannot read."""

    def _select(
        self, connection: sqlite3.Connection, kind: Kind, sender: Sender, name: Any
    ) -> list[Entry]:
        with suppress(StorageError):
            return super()._select(connection, kind, sender, name)
        return []

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        with suppress(StorageError):
            return super()._page(kind, where, after)
        return Page([], None)


class DamagedIsSomeText(TableStorage):
    """Gives what is there."""

    def _entry(self, row: Any) -> Entry:
        try:
            return super()._entry(row)
        except StorageError:
            return super()._entry((*row[:3], "UNKNOWN", row[4]))


class DamagedIsAway(TableStorage):
    """Has the mail server try again for ever what nobody mends."""

    def _entry(self, row: Any) -> Entry:
        try:
            return super()._entry(row)
        except StorageError as error:
            raise StorageUnavailable(f"{error}") from error


class WritesBeforeItLooks(TableStorage):
    """Has written a part when it finds that the rest cannot be written, and leaves it there."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self.memory: dict[Place, Entry] = {}

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        for write in writes:
            if write.name is not EVERY:
                change(self.memory, write)
        return super()._commit(writes)

    def _select(
        self, connection: sqlite3.Connection, kind: Kind, sender: Sender, name: Any
    ) -> list[Entry]:
        found = super()._select(connection, kind, sender, name)
        return [self.memory.get(entry[:3], entry) for entry in found]

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        page = super()._page(kind, where, after)
        return page._replace(entries=[self.memory.get(e[:3], e) for e in page.entries])


# ---------------------------------------------------------------- writers who wait


class OneFile(TableStorage):
    """The base of those that read everything, change it, and write everything, under a lock."""

    wait = 0.3

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        with self.alone():
            states = [e for p in self._pages(Kind.STATE, Where()) for e in p.entries]
            entries: dict[Place, Entry] = {entry[:3]: entry for entry in states}
            counts = [change(entries, write) for write in writes]
            self._wipe()
            super()._commit(Write(*entry) for entry in entries.values())
            return counts

    @contextmanager
    def alone(self) -> Iterator[None]:
        descriptor = os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            self.win(descriptor)
            yield
        finally:
            os.close(descriptor)

    def win(self, descriptor: int) -> None:
        deadline = time.monotonic() + self.wait
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.01)
        self.give_up()

    def give_up(self) -> None:
        raise StorageUnavailable("others are writing")


class WaitsToWriteForEver(OneFile):
    """Waits for whoever writes, however long that takes."""

    def win(self, descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)


class WaitsToReadForEver(OneFile):
    """Reads when nobody writes."""

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        descriptor = os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            return super()._find(kind, sender, name)
        finally:
            os.close(descriptor)


class WritesWithoutTheLock(OneFile):
    """Has waited long enough."""

    def give_up(self) -> None:
        pass


class TellsNobody(OneFile):
    """Returns when it could not write."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes) if not hasattr(writes, "send") else writes
        try:
            return super()._commit(writes)
        except StorageUnavailable:
            return [1 for _ in writes]


class LeavesOthersInTheDark(OneFile):
    """Raises what no mail server takes for a reason to come again."""

    def give_up(self) -> None:
        raise StorageError("others are writing")


ON_DISK = (
    *wrong_rows.ON_DISK,
    *wrong_drivers.ON_DISK,
    (BlamesTheOperator, FaultSuite, "test_what_is_away_is_not_empty"),
    (BlamesTheOperator, FaultSuite, "test_away_at_the_commit"),
    (AwayIsEmpty, FaultSuite, "test_what_is_away_is_not_empty"),
    (MakesItAnew, FaultSuite, "test_what_is_away_is_not_empty"),
    (MakesItsTableAnew, FaultSuite, "test_what_is_away_is_not_empty[unmounted]"),
    (ComesToKnowLater, FaultSuite, "test_what_is_away_is_not_empty[moved_away]"),
    (TriesForEver, FaultSuite, "test_a_write_that_fails[set]"),
    (SwallowsWriteErrors, FaultSuite, "test_away_at_the_commit"),
    (SwallowsWriteErrors, FaultSuite, "test_a_write_that_fails[set]"),
    (SwallowsWriteErrors, FaultSuite, "test_a_commit_that_fails"),
    (WritesBeforeItLooks, FaultSuite, "test_a_commit_that_fails"),
    (DamagedIsMissing, FaultSuite, "test_a_damaged_entry_is_not_missing"),
    (DamagedIsSomeText, FaultSuite, "test_a_damaged_entry_is_not_missing"),
    (DamagedIsAway, FaultSuite, "test_a_damaged_entry_is_not_missing"),
    (WaitsToWriteForEver, FaultSuite, "test_a_writer_that_stands_still"),
    (WaitsToReadForEver, FaultSuite, "test_a_writer_that_stands_still"),
    (WritesWithoutTheLock, FaultSuite, "test_a_writer_that_stands_still"),
    (TellsNobody, FaultSuite, "test_a_writer_that_stands_still"),
    (LeavesOthersInTheDark, FaultSuite, "test_a_writer_that_stands_still"),
)
