"""SQLite: what a commit has written is on the disk when it returns, and nobody waits for that."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from salmon_state import SQLAlchemyStorage, StorageUnavailable
from salmon_state.entries import ABSENT, Kind, Where, Write
from salmon_state.findings import Finding
from salmon_state.stores.sqlalchemy.databases.sqlite_log import Log

PATIENCE = 60.0
ANNA = "anna@example.com"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "states.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLAlchemyStorage]:
    with SQLAlchemyStorage(f"sqlite:///{path}") as store:
        store.set("app", ANNA, "POSTING")
        store._commit([Write(Kind.FAILURE, ANNA, "due", b"", 1)])
        yield store


def content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was in each file that somebody had brought to the disk, when it began."""
    found: list[bytes] = []
    fdatasync = os.fdatasync

    def record(descriptor: int) -> None:
        found.append(content(descriptor))
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", record)
    return found


def two_states(store: SQLAlchemyStorage) -> None:
    with store.conversation(ANNA):
        store.set("app", ANNA, "ONE")
        store.set("other", ANNA, "TWO")


def what_was_read(store: SQLAlchemyStorage) -> None:
    with store.conversation(ANNA):
        store.get("other", ANNA)
        store.set("app", ANNA, "ONE")


def own_rows(store: SQLAlchemyStorage) -> None:
    with store.conversation(ANNA) as conversation:
        conversation.connection.exec_driver_sql("CREATE TABLE own (number INTEGER)")
        conversation.connection.exec_driver_sql("INSERT INTO own VALUES (?)", [(1,), (2,)])


def many(store: SQLAlchemyStorage) -> None:
    store._commit(Write(Kind.BODY, ANNA, f"{number:06}", b"x", 1) for number in range(3000))


WRITING: dict[str, Callable[[SQLAlchemyStorage], object]] = {
    "set": lambda store: store.set("app", ANNA, "CONFIRMING"),
    "a new one": lambda store: store.set("app", "new@x", "POSTING"),
    "removing": lambda store: store.set("app", ANNA, "START"),
    "compare_and_set": lambda store: store.compare_and_set("app", ANNA, "POSTING", "NEXT"),
    "set_all": lambda store: store.set_all(ANNA, "BANNED"),
    "rename": lambda store: store.rename("app", "POSTING", "WRITING"),
    "purge": lambda store: store.purge(older_than=timedelta(0)),
    "clear": lambda store: store.clear(),
    "two kinds": lambda store: store._commit(
        [
            Write(Kind.STATE, ANNA, "app", "NEXT", 1),
            Write(Kind.BODY, ANNA, "n", b"x", 1, ABSENT),
        ]
    ),
    "many": many,
    "claim": lambda store: store._claim(Kind.FAILURE, store._clock() + 10**9, 10),
    "sweep": lambda store: store._sweep(Kind.FAILURE, Where(), None),
    "two states": two_states,
    "what was read": what_was_read,
    "own rows": own_rows,
}


@pytest.mark.parametrize("how", WRITING)
def test_it_is_on_the_disk_when_it_returns(
    path: Path, store: SQLAlchemyStorage, synced: list[bytes], how: str
) -> None:
    wal = path.with_name("states.db-wal")
    before = wal.read_bytes()
    WRITING[how](store)
    assert wal.read_bytes() != before
    assert synced[-1] == wal.read_bytes()


def test_by_a_symbolic_link(path: Path, store: SQLAlchemyStorage, synced: list[bytes]) -> None:
    (path.parent / "elsewhere").mkdir()
    link = path.parent / "elsewhere" / "link.db"
    link.symlink_to(path)
    with SQLAlchemyStorage(f"sqlite:///{link}") as other:
        synced.clear()
        other.set("app", ANNA, "CONFIRMING")
        assert synced == [path.with_name("states.db-wal").read_bytes()]
    assert store.get("app", ANNA) == "CONFIRMING"


def test_the_tables_are_on_the_disk_when_they_are_made(path: Path, synced: list[bytes]) -> None:
    with SQLAlchemyStorage(f"sqlite:///{path}"):
        assert synced[-1] == path.with_name("states.db-wal").read_bytes()


def test_reading_waits_for_no_disk(store: SQLAlchemyStorage, synced: list[bytes]) -> None:
    with store.conversation(ANNA) as conversation:
        store.get("app", ANNA)
        conversation.connection.exec_driver_sql("SELECT 1").all()
    assert [record.state for record in store] == ["POSTING"]
    assert synced == []


def test_others_write_while_one_waits_for_the_disk(
    path: Path, store: SQLAlchemyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, goes_on = threading.Event(), threading.Event()
    fdatasync = os.fdatasync
    writer: Any = threading.Thread(target=store.set, args=("app", "slow@x", "WRITTEN"))

    def hang(descriptor: int) -> None:
        if threading.current_thread() is writer:
            waits.set()
            assert goes_on.wait(PATIENCE)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", hang)
    writer.start()
    try:
        assert waits.wait(PATIENCE)
        store.set("app", "quick@x", "WRITTEN")  # by another thread
        with SQLAlchemyStorage(f"sqlite:///{path}") as other:
            two_states(other)
            assert other.get("app", "slow@x") == "WRITTEN"
        assert writer.is_alive()
    finally:
        goes_on.set()
        writer.join(PATIENCE)


@pytest.mark.parametrize("how", ["set", "two states", "many"])
def test_a_disk_that_fails(
    store: SQLAlchemyStorage, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(StorageUnavailable, match="451") as raised:
            WRITING[how](store)
    assert "a commit is not on the disk" in raised.value.detail
    store.set("app", ANNA, "AFTERWARDS")
    assert store.get("app", ANNA) == "AFTERWARDS"


class Disk:
    """What of a file is on a disk that fails for a while, as Linux has it.

    What the disk did not take stays in memory and is told once: nobody brings it there later
    unless it is written again. Here a page was written again if it was changed, or by `os`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.works = path, True
        self.kept = bytearray(path.read_bytes())
        self.seen = bytes(self.kept)
        self.written: set[int] = set()

    def sync(self, descriptor: int) -> None:
        if not os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
            return
        now = self.path.read_bytes()
        if not self.works:
            self.seen = now
            self.written.clear()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.kept += bytes(max(0, len(now) - len(self.kept)))
        for start in range(0, len(now), 4096):
            page = slice(start, start + 4096)
            if now[page] != self.seen[page] or start in self.written:
                self.kept[page] = now[page]
        self.seen = now
        self.written.clear()

    def write(self, descriptor: int, data: bytes, offset: int) -> int:
        first = offset // 4096 * 4096
        self.written |= set(range(first, offset + len(data), 4096))
        return _pwrite(descriptor, data, offset)


_pwrite = os.pwrite


@pytest.fixture
def disk(path: Path, store: SQLAlchemyStorage, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(path.with_name("states.db-wal"))
    monkeypatch.setattr(os, "fdatasync", disk.sync)
    monkeypatch.setattr(os, "pwrite", disk.write)
    return disk


def test_what_comes_after_a_disk_that_failed_outlives_the_power(
    path: Path, store: SQLAlchemyStorage, disk: Disk
) -> None:
    """SQLite reads its log up to the first gap: there must be none before what was acknowledged."""
    store.set("app", "before@x", "WRITTEN")
    with SQLAlchemyStorage(f"sqlite:///{path}") as other:  # another process, which hears nothing
        disk.works = False
        for sender in ("a@x", "b@x", "c@x"):
            with pytest.raises(StorageUnavailable):
                store.set("app", sender, "WRITTEN")
        disk.works = True
        store.set("app", "later@x", "WRITTEN")
        other.set("app", "after@x", "WRITTEN")
        copy = path.parent / "copy" / "states.db"
        copy.parent.mkdir()
        shutil.copy(path, copy)
        copy.with_name("states.db-wal").write_bytes(disk.kept)
    with SQLAlchemyStorage(f"sqlite:///{copy}") as found:
        there = [found.get("app", f"{who}@x") for who in ("before", "after", "later")]
    assert there == ["WRITTEN"] * 3


def test_a_disk_that_failed_for_a_moment_fails_nobody(
    store: SQLAlchemyStorage, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    failed: list[int] = []

    def once(descriptor: int) -> None:
        disk.works = bool(failed)
        failed.append(descriptor)
        try:
            disk.sync(descriptor)
        finally:
            disk.works = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", once)
        store.set("app", "a@x", "WRITTEN")
    assert disk.kept == disk.path.read_bytes()
    assert "written once more" in caplog.text


def test_nobody_writes_while_the_log_is_written_once_more(
    path: Path, store: SQLAlchemyStorage, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def write(descriptor: int, data: bytes, offset: int) -> int:
        with closing(sqlite3.connect(path, timeout=0)) as other:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("INSERT INTO salmon_state_version VALUES (99)")
            refused.append("locked")
        return disk.write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", write)
    Log(str(path), PATIENCE)._write_again()
    assert refused
    assert disk.kept == disk.path.read_bytes()
    store.set("app", ANNA, "AFTERWARDS")


def test_the_doctor_says_so(store: SQLAlchemyStorage) -> None:
    assert Finding("durability", "journal_mode is wal, each commit is synced") in store.diagnose()
