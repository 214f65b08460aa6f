"""One writer at a time, for a bounded time, and all it writes or nothing."""

from __future__ import annotations

import fcntl
import os
import pickle
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from salmon_state import ConversationBusy, ShelveStorage, StorageError, StorageUnavailable
from salmon_state.entries import Write
from salmon_state.testing import tasks
from salmon_state.testing.processes import store_processes
from tests.stores.shelf import old_shelves
from tests.stores.shelf.old_shelves import call
from tests.stores.shelf.shelves import MODULE, SENDER, contents, execute, insert, state


def test_a_write_happens_wholly_or_not(store: ShelveStorage) -> None:
    def writes() -> Iterator[Write]:
        yield state(MODULE, SENDER, "POSTING", 1)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        store._commit(writes())
    assert len(store) == 0
    store.set(MODULE, SENDER, "ASKING")


def test_renaming_and_purging_happen_wholly_or_not(path: Path, store: ShelveStorage) -> None:
    store._commit(state(MODULE, f"{number}@x", "POSTING", 1) for number in range(1200))
    damaged = f"['{MODULE}', damaged"
    insert(path, damaged, pickle.dumps("5 POSTING"))
    with pytest.raises(StorageError):
        store.rename(MODULE, "POSTING", "ASKING")
    for module in (None, MODULE):
        with pytest.raises(StorageError):
            store.purge(older_than=timedelta(0), module=module)
    execute(path, "DELETE FROM Dict WHERE key = ?", damaged.encode())
    assert {record.state for record in store} == {"POSTING"}
    assert store.rename(MODULE, "POSTING", "ASKING") == 1200
    assert store.purge(older_than=timedelta(0)) == 1200


def test_a_slow_reader_keeps_nobody_waiting(path: Path, store: ShelveStorage) -> None:
    store._commit(state(MODULE, f"{number}@x", "POSTING", 1) for number in range(1200))
    records = iter(store)
    next(records)
    with ShelveStorage(path) as other:
        other.set(MODULE, "0@x", "ASKING")
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    assert os.stat(f"{path}-wal").st_size == 0
    assert sum(1 for _ in records) == 1199


@pytest.mark.parametrize("sets", [500, pytest.param(5000, marks=pytest.mark.stress)])
def test_two_processes_lose_none(path: Path, sets: int) -> None:
    open_store = partial(ShelveStorage, path)
    jobs = [[(MODULE, f"{who}{number}@x", f"S{number}") for number in range(sets)] for who in "ab"]
    with store_processes(open_store, 2) as writers:
        for writer, job in zip(writers, jobs, strict=True):
            writer.start(tasks.set_many, job)
        for writer in writers:
            writer.result()
    with open_store() as store:
        assert contents(store) == {entry for job in jobs for entry in job}


def test_a_lock_held_too_long(path: Path) -> None:
    with ShelveStorage(path, timeout=0.05) as store, open(f"{path}.lock", "rb") as lock:
        store.set(MODULE, SENDER, "POSTING")
        fcntl.flock(lock, fcntl.LOCK_EX)
        for attempt in (
            lambda: store.set(MODULE, SENDER, "ASKING"),
            lambda: store.compare_and_set(MODULE, SENDER, "POSTING", "ASKING"),
            lambda: ShelveStorage(path, timeout=0.05),
        ):
            with pytest.raises(StorageUnavailable) as caught:
                attempt()
            assert str(path) in caught.value.detail
        assert store.get(MODULE, SENDER) == "POSTING"
        fcntl.flock(lock, fcntl.LOCK_UN)
        store.set(MODULE, SENDER, "ASKING")


def test_a_database_held_too_long(path: Path) -> None:
    with ShelveStorage(path, timeout=0.05) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageUnavailable) as caught:
                store.set(MODULE, SENDER, "ASKING")
            assert "locked" in caught.value.detail
        store.set(MODULE, SENDER, "ASKING")


def test_other_threads_wait_for_a_bounded_time(path: Path) -> None:
    store = ShelveStorage(path, timeout=0.05)
    with store, ThreadPoolExecutor(1) as another, store._transaction():
        for waiting in (
            another.submit(store.get, MODULE, SENDER),
            another.submit(store.set, MODULE, SENDER, "POSTING"),
        ):
            with pytest.raises(StorageUnavailable) as caught:
                waiting.result()
            assert "other threads" in caught.value.detail


def test_closed_while_another_thread_waits(path: Path) -> None:
    store = ShelveStorage(path)
    with ThreadPoolExecutor(1) as another:
        with store._using:
            waiting = another.submit(store.set, MODULE, SENDER, "POSTING")
            store.close()
        with pytest.raises(StorageUnavailable):
            waiting.result()
    with ShelveStorage(path) as store:
        assert len(store) == 0


def test_two_stores_share_the_lock_of_a_sender(path: Path, store: ShelveStorage) -> None:
    with ShelveStorage(path) as other, store.conversation(SENDER):
        store.set(MODULE, SENDER, "POSTING")
        with pytest.raises(ConversationBusy), other.conversation(SENDER, timeout=0.0):
            pass
        with other.conversation("ben@example.com", timeout=0.0):
            other.set(MODULE, "ben@example.com", "ASKING")
    assert contents(store) == {(MODULE, SENDER, "POSTING"), (MODULE, "ben@example.com", "ASKING")}


def test_another_store_in_the_process_drops_no_lock(path: Path, store: ShelveStorage) -> None:
    """Closing any other descriptor of the file would drop SQLite's locks of this process."""
    store.set(MODULE, "before@x", "POSTING")
    ShelveStorage(path).close()
    call(sys.executable, old_shelves.we_convert, str(path))  # opens and closes: the last, it thinks
    store.set(MODULE, "after@x", "POSTING")
    found = call(sys.executable, old_shelves.we_convert, str(path))
    assert sorted(sender for _, sender, _ in found) == ["after@x", "before@x"]
