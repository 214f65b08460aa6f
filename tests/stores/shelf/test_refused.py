"""What is no shelf is refused, and left alone."""

from __future__ import annotations

import dbm.dumb
import pickle
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from salmon_state import ConfigurationError, ShelveStorage, StorageUnavailable
from tests.stores.shelf import old_shelves
from tests.stores.shelf.old_shelves import call, python_with
from tests.stores.shelf.shelves import (
    MODULE,
    SENDER,
    damage,
    digests,
    execute,
    state,
    written_by_salmon,
)


@pytest.mark.parametrize(
    ("module", "suffix", "start"),
    [("dbm.gnu", "", b"\xce\x9a\x57\x13"), ("dbm.ndbm", ".db", b"\0" * 12 + b"\x61\x15\x06\0")],
)
def test_a_flavour_that_this_python_lacks(
    path: Path, module: str, suffix: str, start: bytes
) -> None:
    try:
        __import__(module)
    except ImportError:
        pass
    else:
        pytest.skip(f"this Python has {module}")
    Path(f"{path}{suffix}").write_bytes(start + b"\0" * 4096)
    before = digests(path.parent)
    with pytest.raises(ConfigurationError) as caught:
        ShelveStorage(path)
    for part in (f"{path}{suffix}", module, "open it once with a Python that has it"):
        assert part in str(caught.value)
    assert digests(path.parent) == before


def test_a_damaged_gdbm_file(path: Path) -> None:
    python = python_with("dbm.gnu") or pytest.skip("no Python on this machine has dbm.gnu")
    path.write_bytes(b"\xce\x9a\x57\x13" + b"\0" * 4096)
    error = call(python, old_shelves.we_are_refused, str(path))
    assert str(path) in error
    assert "dbm.gnu" in error


def cut_off(path: Path) -> None:
    written_by_salmon(path)
    index = Path(f"{path}.dir").read_bytes()
    Path(f"{path}.dir").write_bytes(index[: len(index) // 2])


def empty_index(path: Path) -> None:
    written_by_salmon(path)
    Path(f"{path}.dir").write_bytes(b"")


def no_index(path: Path) -> None:
    written_by_salmon(path)
    Path(f"{path}.dir").unlink()


def two_shelves(path: Path) -> None:
    written_by_salmon(path)
    Path(f"{path}.pag").touch()


def old_beside_new(path: Path) -> None:
    ShelveStorage(path).close()
    with closing(dbm.dumb.open(str(path), "c")) as old:
        old[repr([b"app", "a@x"])] = pickle.dumps("POSTING")


def another_database(path: Path) -> None:
    execute(path, "CREATE TABLE states (state)")


def damaged_database(path: Path) -> None:
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "POSTING")
    path.write_bytes(path.read_bytes()[:16] + b"\xff" * 5000)


def damaged_page(path: Path) -> None:
    with ShelveStorage(path) as store:
        store._commit(state(MODULE, f"{number}@x", "POSTING", 1) for number in range(2000))
    damage(path)


def text(path: Path) -> None:
    path.write_text("states = {}\n")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (cut_off, "cannot read .*dbm.dumb"),
        (empty_index, "12 entries"),
        (no_index, "12 entries"),
        (two_shelves, "several shelves"),
        (old_beside_new, "several shelves"),
        (another_database, "sqlite:///"),
        (damaged_database, "no shelf|damaged"),
        (text, "no shelf"),
        (damaged_page, "dbm.sqlite3.*damaged"),
    ],
)
def test_what_is_refused_is_left_alone(
    path: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(path)
    before = digests(path.parent)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        ShelveStorage(path)
    assert str(path) in str(caught.value)
    assert digests(path.parent) == before


def test_the_last_entry_of_a_dumb_shelf_may_have_been_deleted(path: Path) -> None:
    with closing(dbm.dumb.open(str(path), "c")) as old:
        old[repr([b"app", "a@x"])] = pickle.dumps("POSTING")
    with closing(dbm.dumb.open(str(path), "c")) as old:
        del old[repr([b"app", "a@x"])]
    with ShelveStorage(path) as store:
        assert len(store) == 0


def test_a_database_beside_is_no_shelf(path: Path) -> None:
    beside = path.with_name("states.db")
    execute(beside, "CREATE TABLE states (state)")
    with closing(sqlite3.connect(beside, isolation_level=None)) as user:
        user.execute("BEGIN EXCLUSIVE")
        with ShelveStorage(path) as store:
            store.set(MODULE, SENDER, "POSTING")
        with pytest.raises(StorageUnavailable):
            ShelveStorage(beside, timeout=0.05)
