"""Salmon's own shelves are taken over, whatever happens in the middle."""

from __future__ import annotations

import dbm.dumb
import logging
import os
import pickle
import sqlite3
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from salmon_state import ShelveStorage, StorageError, StorageUnavailable
from tests.stores.shelf import old_shelves
from tests.stores.shelf.old_shelves import call, python_with
from tests.stores.shelf.shelves import (
    MODULE,
    OLD_STATES,
    SENDER,
    contents,
    digests,
    execute,
    insert,
    written_by_salmon,
)

pytestmark = pytest.mark.slow

FLAVOURS = ["dbm.dumb", "dbm.ndbm", "dbm.gnu", "dbm.sqlite3"]


@pytest.fixture(params=FLAVOURS)
def salmons(request: pytest.FixtureRequest, path: Path) -> tuple[str, str]:
    """A shelf that Salmon wrote under a Python with this flavour of dbm: (Python, flavour)."""
    return written_by_salmon(path, request.param), request.param


def test_salmons_shelf_is_taken_over(
    path: Path, salmons: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    python, flavour = salmons
    before = set(os.listdir(path.parent))
    if python_with(flavour) == sys.executable or flavour == "dbm.sqlite3":
        with caplog.at_level(logging.INFO, "salmon_state"):
            ShelveStorage(path).close()
        (message,) = (text for text in caplog.messages if "every user" not in text)
        assert all(part in message for part in (flavour, str(path), "12 states", "salmon-backup"))
    else:
        call(python, old_shelves.we_convert, str(path))
    with ShelveStorage(path) as store:
        assert contents(store) == set(OLD_STATES)
        assert {store.get(module, sender) == state for module, sender, state in OLD_STATES} == {
            True
        }
        assert {record.updated_at for record in store} == {None}
        assert store.purge(older_than=timedelta(0)) == 0
        store.set(MODULE, SENDER, "POSTING")
    left = set(os.listdir(path.parent))
    assert left - {"states", "states.lock"} == {
        name.replace("states", "states.salmon-backup", 1) for name in before
    }
    backup = call(python, old_shelves.salmon_reads, f"{path}.salmon-backup", OLD_STATES_KEYS)
    assert backup == [state for *_, state in OLD_STATES]


OLD_STATES_KEYS = [(module, sender) for module, sender, _ in OLD_STATES]


def test_conversion_happens_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written_by_salmon(path)
    ShelveStorage(path).close()
    before = digests(path.parent)
    caplog.clear()
    ShelveStorage(path).close()
    assert digests(path.parent) == before
    assert caplog.messages == []


def test_an_older_backup_is_kept(path: Path) -> None:
    Path(f"{path}.salmon-backup.dat").write_bytes(b"precious")
    written_by_salmon(path)
    ShelveStorage(path).close()
    assert Path(f"{path}.salmon-backup.dat").read_bytes() == b"precious"
    assert Path(f"{path}.salmon-backup-2.dat").exists()


def test_converting_many_states(path: Path) -> None:
    with closing(dbm.dumb.open(str(path), "c")) as old:
        for number in range(3000):
            old[repr([b"app", f"{number}@x"])] = pickle.dumps("POSTING")
    with ShelveStorage(path) as store:
        assert len(store) == 3000
    execute(
        path,
        "UPDATE Dict SET key = CAST('[b' || substr(key, 2) AS BLOB), value = ?",
        pickle.dumps("ASKING"),
    )
    with ShelveStorage(path) as store:
        assert len(store) == 3000
        assert {state for *_, state in contents(store)} == {"ASKING"}


def test_a_legacy_spelling_of_another_python(path: Path) -> None:
    usual, unusual = repr([b"app", "é@x"]), ascii([b"app", "é@x"])
    assert usual != unusual
    for first, second in ((usual, unusual), (unusual, usual)):
        with closing(dbm.dumb.open(str(path), "n")) as old:
            old[first.encode()] = pickle.dumps("USUAL" if first == usual else "UNUSUAL")
            old[second.encode()] = pickle.dumps("USUAL" if second == usual else "UNUSUAL")
        with ShelveStorage(path) as store:
            assert contents(store) == {("app", "é@x", "USUAL")}
        path.unlink()


@pytest.mark.parametrize("flavour", ["dbm.dumb", "dbm.gnu", "dbm.sqlite3"])
def test_killed_at_each_step(path: Path, tmp_path: Path, flavour: str) -> None:
    folder = tmp_path / "shelf"
    folder.mkdir()
    python = written_by_salmon(folder / "states", flavour)
    steps = call(
        python,
        old_shelves.crash_at_each_step,
        str(folder / "states"),
        flavour,
        str(tmp_path / "copy"),
    )
    assert steps > 10


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (repr([b"app", "a@x"]), b""),
        (repr([b"app", "a@x"]), pickle.dumps("POSTING")[:-3]),
        (repr([b"app", "a@x"]), pickle.dumps("POSTING") + b"."),
        (repr([b"app", "a@x"]), pickle.dumps(b"POSTING")),
        (repr([b"app", "a@x"]), pickle.dumps("")),
        (repr([b"app", "a@x"]), pickle.dumps(None)),
        (repr([b"app", "a@x"])[:-4], pickle.dumps("POSTING")),
        (repr(["app", "a@x"]), pickle.dumps("POSTING")),
        (repr([b"app\xff", "a@x"]), pickle.dumps("POSTING")),
        (repr([b"app", b"a@x"]), pickle.dumps("POSTING")),
        ("nonsense", pickle.dumps("POSTING")),
    ],
)
def test_a_damaged_old_entry_stops_the_conversion(path: Path, key: str, value: bytes) -> None:
    written_by_salmon(path)
    with closing(dbm.dumb.open(str(path), "c")) as old:
        old[key.encode()] = value
    before = digests(path.parent)
    with pytest.raises(StorageError) as caught:
        ShelveStorage(path)
    assert not isinstance(caught.value, StorageUnavailable)
    assert str(path) in str(caught.value)
    assert repr(key.encode())[2:-1] in str(caught.value)
    assert digests(path.parent) == before


def test_a_damaged_legacy_entry_in_sqlite(path: Path) -> None:
    ShelveStorage(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO Dict VALUES (?, ?)",
            [(b"[b'app', '%d@x']" % number, pickle.dumps("POSTING")) for number in range(600)],
        )
    insert(path, repr([b"app", "z@x"]), b"?")
    before = digests(path.parent)
    with pytest.raises(StorageError, match="z@x"):
        ShelveStorage(path)
    assert digests(path.parent) == before
