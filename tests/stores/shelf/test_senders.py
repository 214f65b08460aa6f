"""All of a sender is found by an index, whoever wrote it and whatever is in its keys."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from salmon_state import ShelveStorage, StateStorage
from salmon_state.entries import EVERY, Kind, Write
from salmon_state.keys import Sender, ascii_key
from salmon_state.stores.shelf.tables import _SENDER
from salmon_state.testing import HOSTILE_KEYS
from salmon_state.testing.suite import contents
from tests.stores.shelf import old_shelves
from tests.stores.shelf.old_shelves import call, python_with
from tests.stores.shelf.shelves import MODULE, SENDER, execute, state

ANNA, BEN = SENDER, "ben@example.com"

# What keys are made of, and the end of the index's reach.
pieces = st.sampled_from(
    ["'", '"', "\\", ", ", "[", "]", "b", "None", "é", "\0", "\udcff", "x" * 505]
)
texts = st.lists(pieces, max_size=8).map("".join)
senders = st.none() | texts


def of_sender(store: ShelveStorage, sender: Sender) -> dict[str, str]:
    """Returns what a conversation of a sender begins with."""
    return {e.name: str(e.value) for e in store._load(sender, [(Kind.STATE, EVERY)])}


def by_scanning(store: ShelveStorage, sender: Sender) -> dict[str, str]:
    return {m: name for (m, s), name in contents(store).items() if s == sender}


# ---------------------------------------------------------------- whatever is in the keys


@given(module=texts, sender=senders)
@example(module="app.handlers", sender="anna@example.com")
@example(module=", ", sender="', '")
@example(module="\"', '", sender="x")
@example(module="\\", sender="x")
@example(module="a', 'b", sender="x")
@example(module="x" * 508, sender="x" * 600)
@example(module="x" * 509, sender=None)
@example(module="x" * 510, sender="'\"")
def test_the_index_has_the_sender_or_nothing(module: str, sender: Sender) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        key = ascii_key(module, sender).encode()
        row = connection.execute(f"SELECT {_SENDER} FROM (SELECT ? AS key)", (key,)).fetchone()
    usual = len(module) < 510 and not set(module) & set("'\\\0é\udcff")
    assert row[0] in [f"{sender!a}]".encode()[:512], *([] if usual else [b""])]


@settings(max_examples=40)
@given(keys=st.sets(st.tuples(texts, senders), max_size=8))
def test_what_is_found_is_what_is_there(
    keys: set[tuple[str, Sender]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("shelf") / "states"
    with ShelveStorage(path) as store:
        store._commit(state(*key, f"S{number}", 1) for number, key in enumerate(keys))
        for sender in {sender for _, sender in keys} | {"", None, "b"}:
            assert of_sender(store, sender) == by_scanning(store, sender)


def test_hostile_keys(store: ShelveStorage) -> None:
    store._commit(state(*key, f"S{number}", 1) for number, key in enumerate(HOSTILE_KEYS))
    for sender in {sender for _, sender in HOSTILE_KEYS}:
        assert of_sender(store, sender) == by_scanning(store, sender)


def test_senders_that_begin_alike(store: ShelveStorage) -> None:
    for number in range(3):
        store.set(MODULE, f"{'x' * 600}{number}", f"S{number}")
    assert [of_sender(store, f"{'x' * 600}{number}") for number in range(3)] == [
        {MODULE: f"S{number}"} for number in range(3)
    ]


# ---------------------------------------------------------------- whoever wrote it


def check_index(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_statements_of_dbm_sqlite3_keep_it_up_to_date(path: Path, store: ShelveStorage) -> None:
    """Those of Python 3.13, beside an open store."""
    store.set(MODULE, ANNA, "POSTING")
    store.set("app.bounces", ANNA, "COUNTING")
    insert = "REPLACE INTO Dict (key, value) VALUES (CAST(? AS BLOB), CAST(? AS BLOB))"
    delete = "DELETE FROM Dict WHERE key = CAST(? AS BLOB)"
    execute(path, insert, ascii_key(MODULE, ANNA), pickle.dumps("5 ASKING"))
    execute(path, insert, ascii_key("it's", ANNA), pickle.dumps("5 QUOTED"))
    execute(path, insert, ascii_key(MODULE, BEN), pickle.dumps("5 POSTING"))
    execute(path, delete, ascii_key("app.bounces", ANNA))
    assert of_sender(store, ANNA) == {MODULE: "ASKING", "it's": "QUOTED"}
    assert store.set_all(ANNA, "START") == 2
    assert contents(store) == {(MODULE, BEN): "POSTING"}
    check_index(path)


def test_shelve_of_python_3_13_keeps_it_up_to_date(path: Path, store: ShelveStorage) -> None:
    python = python_with("dbm.sqlite3") or pytest.skip("no Python on this machine has dbm.sqlite3")
    store.set(MODULE, ANNA, "POSTING")
    store.set("app.bounces", ANNA, "COUNTING")
    store.close()
    theirs = {ascii_key(MODULE, ANNA): "5 ASKING", ascii_key("new", ANNA): "5 NEW"}
    call(python, old_shelves.shelve_writes, str(path), theirs, [ascii_key("app.bounces", ANNA)])
    with ShelveStorage(path) as again:
        assert of_sender(again, ANNA) == {MODULE: "ASKING", "new": "NEW"}
        assert again.set_all(ANNA, "BANNED") == 2
    found = call(python, old_shelves.shelve_reads, str(path))
    assert {key: value.partition(" ")[2] for key, value in found.items()} == dict.fromkeys(
        theirs, "BANNED"
    )
    check_index(path)


def test_salmon_goes_back_to_a_shelf_with_it(path: Path) -> None:
    """Salmon sees none of our entries, but it can write its own; they are taken over again."""
    python = python_with("dbm.sqlite3") or pytest.skip("no Python on this machine has dbm.sqlite3")
    with ShelveStorage(path) as store:
        store.set(MODULE, ANNA, "POSTING")
    call(python, old_shelves.salmon_writes, str(path), "dbm.sqlite3", [(MODULE, BEN, "ASKING")])
    assert call(python, old_shelves.salmon_reads, str(path), [(MODULE, BEN)]) == ["ASKING"]
    with ShelveStorage(path) as again:
        assert of_sender(again, BEN) == {MODULE: "ASKING"}
        assert of_sender(again, ANNA) == {MODULE: "POSTING"}
    check_index(path)


def test_a_shelf_of_an_earlier_version_gets_it(path: Path) -> None:
    with ShelveStorage(path) as store:
        store._commit(state(MODULE, f"{number}@x", f"S{number}", 1) for number in range(300))
    execute(path, "DROP INDEX Senders")
    execute(path, "DROP TABLE Entries")
    with ShelveStorage(path) as store:
        assert of_sender(store, "77@x") == {MODULE: "S77"}
        mark = Write(Kind.HANDLED, "77@x", "id", b"", 1)
        assert store._commit([mark, mark._replace(name="other")]) == [1, 1]
    with closing(sqlite3.connect(path)) as connection:
        assert ("Senders",) in connection.execute("SELECT name FROM sqlite_master").fetchall()
    check_index(path)


def test_without_it_nothing_is_missing(path: Path, store: ShelveStorage) -> None:
    store.set(MODULE, ANNA, "POSTING")
    execute(path, "DROP INDEX Senders")
    assert of_sender(store, ANNA) == {MODULE: "POSTING"}


# ---------------------------------------------------------------- what it costs


def converse(store: StateStorage) -> None:
    with store.conversation("1@x"):
        pass


CALLS: dict[str, Callable[[StateStorage], object]] = {
    "get": lambda store: store.get(MODULE, "1@x"),
    "set_all": lambda store: store.set_all("1@x", "ASKING"),
    "conversation": converse,
    "records of a sender": lambda store: list(store.records(sender="1@x")),
    "records of a module": lambda store: list(store.records(module="few")),
    "rename": lambda store: store.rename("few", "POSTING", "ASKING"),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_reads_no_more_of_a_larger_shelf(path: Path, store: ShelveStorage, name: str) -> None:
    def steps() -> int:
        """Counts the instructions of SQLite's machine, by tens."""
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        with store._opened() as shelf:
            shelf._connection.set_progress_handler(count, 10)
        CALLS[name](store)
        return counted

    store.set("few", BEN, "POSTING")
    store._commit(state(MODULE, f"{number}@x", "POSTING", 1) for number in range(600))
    few = steps()
    store._commit(state(MODULE, f"{number}@x", "POSTING", 1) for number in range(600, 9000))
    assert steps() <= few + 2
