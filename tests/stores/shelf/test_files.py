"""The files: whose they are, and what becomes of them."""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from salmon_state import ShelveStorage, StorageUnavailable
from tests.stores.shelf import old_shelves
from tests.stores.shelf.old_shelves import call
from tests.stores.shelf.shelves import MODULE, SENDER, modes, written_by_salmon


@pytest.fixture(params=[0o000, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_are_their_owners_only(path: Path, umask: int) -> None:
    written_by_salmon(path)
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "POSTING")
        found = modes(path.parent)
    assert {"states", "states-wal", "states-shm", "states.lock"} < set(found)
    assert any("backup" in name for name in found)
    assert set(found.values()) == {"-rw-------"}


def test_a_shelf_of_sqlite_becomes_its_owners_only(path: Path, umask: int) -> None:
    written_by_salmon(path, "dbm.sqlite3")
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "POSTING")
        assert set(modes(path.parent).values()) == {"-rw-------"}


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that everybody may enter; those of pytest's any other pytest closes again."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop privileges")
@pytest.mark.parametrize("old", [False, True])
def test_made_by_root_and_used_by_somebody(open_directory: Path, old: bool) -> None:
    somebody = 65534
    run = open_directory / "run"
    run.mkdir()
    if old:
        written_by_salmon(run / "states")
    os.chown(run, somebody, somebody)
    owners = call(sys.executable, old_shelves.as_somebody, str(run / "states"), somebody)
    assert {name for name, owner in owners.items() if owner != somebody} == (
        {f"states.salmon-backup.{end}" for end in ("dat", "dir", "bak")} if old else set()
    )


def test_a_file_removed_under_it(path: Path, store: ShelveStorage) -> None:
    store.set(MODULE, SENDER, "POSTING")
    aside = path.with_name("aside")
    path.rename(aside)
    for replaced in (False, True):
        for attempt in (
            lambda: store.get(MODULE, SENDER),
            lambda: store.set(MODULE, SENDER, "ASKING"),
            lambda: list(store),
            lambda: store.clear(),
            store.ping,
        ):
            with pytest.raises(StorageUnavailable) as caught:
                attempt()
            assert "removed or replaced" in caught.value.detail
        if not replaced:
            path.touch()
    aside.rename(path)
    assert store.get(MODULE, SENDER) == "POSTING"


def test_nothing_is_left_of_it_but_the_shelf(path: Path) -> None:
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "POSTING")
    assert sorted(os.listdir(path.parent)) == ["states", "states.lock"]


def test_a_crash_before_the_table_was_made(path: Path) -> None:
    path.touch(0o600)
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "POSTING")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE Dict; DROP TABLE Entries")
    with ShelveStorage(path) as store:
        assert len(store) == 0
