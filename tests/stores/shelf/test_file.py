"""The file: its format, its name and its place."""

from __future__ import annotations

import os
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from salmon_state import ConfigurationError, ShelveStorage, open_storage
from salmon_state.entries import Kind, Where
from salmon_state.keys import ascii_key
from tests.stores.shelf import old_shelves
from tests.stores.shelf.old_shelves import call, python_with
from tests.stores.shelf.shelves import MODULE, OLD_STATES, SENDER, insert, state


def test_a_new_shelf_is_that_of_python_3_13(path: Path) -> None:
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "CONFIRMING")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE name = 'Dict'"
        ).fetchall() == [
            ("Dict", "CREATE TABLE Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)")
        ]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        (entry,) = connection.execute("SELECT * FROM Dict").fetchall()
    assert entry[0] == b"['app.handlers', 'anna@example.com']"
    moment, _, name = pickle.loads(entry[1]).partition(" ")
    assert moment.isdigit()
    assert name == "CONFIRMING"


def test_shelve_of_python_3_13_reads_it(store: ShelveStorage, path: Path) -> None:
    python = python_with("dbm.sqlite3") or pytest.skip("no Python on this machine has dbm.sqlite3")
    for each in OLD_STATES:
        store.set(*each)
    found = call(python, old_shelves.shelve_reads, str(path))
    assert {key: value.partition(" ")[2] for key, value in found.items()} == {
        ascii_key(module, sender): name for module, sender, name in OLD_STATES
    }


def test_pinned_format(path: Path, store: ShelveStorage) -> None:
    store._commit([state(MODULE, "é\0\udcff", "A B\n\udcff", 5), state(MODULE, None, "C", None)])
    with store._opened() as shelf:
        rows = dict(shelf.execute("SELECT key, value FROM Dict").fetchall())
    assert rows == {
        b"['app.handlers', '\\xe9\\x00\\udcff']": pickle.dumps("5 A B\n\udcff", 4),
        b"['app.handlers', None]": pickle.dumps("- C", 4),
    }


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("length", [0, 255, 256, 70_000])
def test_strings_of_every_protocol(
    path: Path, store: ShelveStorage, protocol: int, length: int
) -> None:
    name = "S" + "é" * length
    insert(path, ascii_key(MODULE, SENDER), pickle.dumps(f"7 {name}", protocol))
    assert store.get(MODULE, SENDER) == name


def test_large_senders_are_paged(store: ShelveStorage) -> None:
    senders = {f"{number}{'x' * 700_000}@x" for number in range(5)}
    for sender in senders:
        store.set(MODULE, sender, "POSTING")
    assert len(store._page(Kind.STATE, Where(), None).entries) == 2
    assert sorted(record.sender or "" for record in store) == sorted(senders)


def test_from_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_storage("shelve:///states", timeout=1.0) as store:
        os.chdir("/")
        store.set(MODULE, SENDER, "POSTING")
        assert repr(store) == f"<ShelveStorage {tmp_path}/states>"
    with open_storage(f"shelve:///{tmp_path}/states") as store:
        assert store.get(MODULE, SENDER) == "POSTING"


@pytest.mark.parametrize("name", ["a b", "a?mode=memory", "a#b", "100%", "é", "'", "a\udcff"])
def test_odd_names_of_files(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        with ShelveStorage(tmp_path / name) as store:
            store.set(MODULE, SENDER, "POSTING")
    assert sorted(os.listdir(tmp_path)) == [name, f"{name}.lock"]


def test_symbolic_links_lead_to_one_lock(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "states")
    with ShelveStorage(link) as store:
        store.set(MODULE, SENDER, "POSTING")
    assert sorted(os.listdir(tmp_path)) == ["link", "states", "states.lock"]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, None, "5"])
def test_a_timeout_that_cannot_work(path: Path, timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout must be"):
        ShelveStorage(path, timeout=timeout)


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="missing"):
        ShelveStorage(tmp_path / "missing" / "states")
