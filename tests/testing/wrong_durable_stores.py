"""Stores on disk that break one promise each; the docstring says which."""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from salmon_state.errors import StorageUnavailable
from salmon_state.storage import Change, Record, Sender, ascii_key
from salmon_state.stores.encoding import encode_state
from tests.testing.right_stores import TableStorage


class ForgetsOnReopen(TableStorage):
    """As a dict with a file name."""

    def __init__(self, path: str, **options: Any) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path)
        super().__init__(path, **options)


class WritesWhenClosed(TableStorage):
    """Keeps in memory what it acknowledges, until it is closed."""

    def __init__(self, path: str, **options: Any) -> None:
        self.waiting: dict[str, Change] = {}
        super().__init__(path, **options)

    def _read(self, module: str, sender: Sender) -> str | None:
        change = self.waiting.get(ascii_key(module, sender))
        return super()._read(module, sender) if change is None else change.state

    def _write(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self.waiting[ascii_key(change.module, change.sender)] = change

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        self.flush()
        return super()._scan(module, sender, state)

    def flush(self) -> None:
        super()._write(list(self.waiting.values()))
        self.waiting.clear()

    def _close(self) -> None:
        self.flush()


class WritesAfterClose(TableStorage):
    """Refuses, but only after it has done what it was asked to do."""

    def set(self, module: str, sender: Sender, state: str) -> None:
        stored = None if state == "START" else state
        self._write((Change(module, sender, stored, self._clock()),))
        self._check_open()


class ForgetsTimes(TableStorage):
    """Knows times only as long as it is open."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._execute("UPDATE states SET updated_at = NULL")


class InventsTimesOnReopen(TableStorage):
    """What has no time gets one when the store is opened."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._execute("UPDATE states SET updated_at = 1 WHERE updated_at IS NULL")


class WritesOnGet(TableStorage):
    """Leaves an entry behind that only the next one finds."""

    def _read(self, module: str, sender: Sender) -> str | None:
        state = super()._read(module, sender)
        if state is None:
            self._write((Change(module, sender, "START", None),))
        return state


class LeavesFilesOpen(TableStorage):
    """Every time it is opened, one more file stays open."""

    left: list[sqlite3.Connection] = []  # noqa: RUF012 - this is what is wrong with it

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        connection = sqlite3.connect(path)
        list(connection.execute("SELECT count(*) FROM states"))
        self.left.append(connection)


class KeysByRepr(TableStorage):
    """Its keys depend on the Unicode tables of the Python that wrote them."""

    def _key(self, module: str, sender: Sender) -> str:
        return repr([module, sender])


class ReadsStale(TableStorage):
    """Remembers what it has read once."""

    def __init__(self, path: str, **options: Any) -> None:
        self.cache: dict[str, str | None] = {}
        super().__init__(path, **options)

    def _read(self, module: str, sender: Sender) -> str | None:
        key = ascii_key(module, sender)
        if key not in self.cache:
            self.cache[key] = super()._read(module, sender)
        return self.cache[key]

    def _write(self, changes: Iterable[Change]) -> None:
        changes = list(changes)
        super()._write(changes)
        self.cache.update({ascii_key(c.module, c.sender): c.state for c in changes})


class IsPerProcess(TableStorage):
    """Each process has a place of its own."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(f"{path}.{os.getpid()}", **options)


class ComparesInTwoSteps(TableStorage):
    """Looks, and then leaps."""

    def _compare_and_set(
        self, module: str, sender: Sender, expected: str | None, state: str | None
    ) -> bool:
        if self._read(module, sender) != expected:
            return False
        time.sleep(0.01)
        self._write((Change(module, sender, state, self._clock()),))
        return True


class WritesAllBack(TableStorage):
    """As a pickled dict: reads everything, changes one thing, writes everything."""

    def _write(self, changes: Iterable[Change]) -> None:
        rows = {row[0]: row for row in self._execute("SELECT * FROM states")}
        for module, sender, state, updated_at in changes:
            rows.pop(ascii_key(module, sender), None)
            time.sleep(0.001)
            if state is not None:
                key = ascii_key(module, sender)
                rows[key] = (key, encode_state(state), updated_at)
        with self._exclusive():
            self._execute("DELETE FROM states")
            for row in rows.values():
                self._execute("INSERT INTO states VALUES (?, ?, ?)", *row)


class LocksForever(TableStorage):
    """The lock of a conversation is a file that nobody removes for a process that died."""

    def _write(self, changes: Iterable[Change]) -> None:
        for change in changes:
            with self.lock(zlib.crc32(ascii_key(change.module, change.sender).encode())):
                super()._write((change,))

    @contextmanager
    def lock(self, name: int) -> Iterator[None]:
        path = f"{self.path}.{name}.lock"
        for _ in range(10_000):
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
                break
        else:
            raise StorageUnavailable("somebody holds the lock")
        time.sleep(0.001)
        yield
        os.unlink(path)


class TearsWhenKilled(TableStorage):
    """Removes the old state in one transaction and writes the new one in another."""

    def _write(self, changes: Iterable[Change]) -> None:
        for change in changes:
            super()._write((change._replace(state=None),))
            time.sleep(0.005)
            super()._write((change,))
