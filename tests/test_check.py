"""`StateStorage.check` finds what no look-up leads to, and nothing else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from salmon_state import (
    MemoryStorage,
    ShelveStorage,
    SQLAlchemyStorage,
    StorageError,
    StorageUnavailable,
)
from salmon_state.entries import EVERY, Entry, Kind, Page, Where
from salmon_state.keys import Sender

MODULE, SENDER = "app.handlers", "anna@example.com"


class Blind(MemoryStorage):
    """Lists what it does not find."""

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        return None


class Busy(MemoryStorage):
    """Somebody else sets the state between listing and looking up."""

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        self.set(name, sender, "CHANGED")
        return super()._find(kind, sender, name)


class Broken(MemoryStorage):
    """Cannot list its states."""

    error: Exception

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        if kind is Kind.STATE:
            raise self.error
        return Page([Entry(kind, SENDER, "x", b"", 1)] if kind is Kind.HANDLED else [], None)


def test_what_is_listed_and_not_found() -> None:
    store = Blind()
    store.set(MODULE, SENDER, "POSTING")
    (finding,) = store.check()
    assert all(part in finding for part in ("STATE", MODULE, SENDER, "not found"))


def test_what_is_changed_meanwhile_is_no_finding() -> None:
    store = Busy()
    store.set(MODULE, SENDER, "POSTING")
    assert list(store.check()) == []


def test_a_kind_that_cannot_be_listed_hides_no_other() -> None:
    store = Broken()
    store.error = StorageError("damaged")
    findings = list(store.check())
    assert findings[0] == "damaged"
    assert "HANDLED" in findings[1]


@pytest.mark.parametrize("error", [ConnectionError("gone"), StorageUnavailable("away")], ids=repr)
def test_what_is_unreachable_is_not_damaged(error: Exception) -> None:
    store = Broken()
    store.error = error
    with pytest.raises(StorageUnavailable):
        list(store.check())


@pytest.mark.parametrize("column", ["sender_digest", "module_digest"])
def test_a_digest_in_sqlite(tmp_path: Path, column: str) -> None:
    path = tmp_path / "states.db"
    with SQLAlchemyStorage(f"sqlite:///{path}") as store:
        store.set(MODULE, SENDER, "POSTING")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(f"UPDATE salmon_state SET {column} = zeroblob(32)")
        assert store.get(MODULE, SENDER) == "START"
        with pytest.raises(StorageError, match="digests"):
            list(store)
        if column == "module_digest":
            with pytest.raises(StorageError, match="digests"):
                store._load(SENDER, [(Kind.STATE, EVERY)])
        assert any("digests" in finding for finding in store.check())


def test_a_key_in_a_shelf(tmp_path: Path) -> None:
    path = tmp_path / "states"
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "POSTING")
    data = path.read_bytes()
    first = data.rindex(b"['app.handlers'", 0, data.index(b"POSTING"))  # that of the row itself
    path.write_bytes(data[: first + 2] + b"b" + data[first + 3 :])
    with ShelveStorage(path) as store:
        with pytest.raises(StorageError, match=r"bpp\.handlers"):
            store.get(MODULE, SENDER)
        for read in (lambda: list(store), lambda: store._load(SENDER, [(Kind.STATE, EVERY)])):
            with pytest.raises(StorageError, match="damaged"):
                read()
        findings = list(store.check())
        assert any("integrity" in f or "index" in f for f in findings)
        assert any("damaged entry" in f for f in findings)
