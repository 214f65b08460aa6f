"""The indexes of the states that are an option: what they find, whoever wrote it."""

from __future__ import annotations

import pickle
import pickletools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salmon_state import ShelveStorage, StorageError, open_storage
from salmon_state.entries import EVERY, Entry, Kind, Where
from salmon_state.keys import ascii_key
from salmon_state.testing.suite import set_clock
from tests.stores.shelf import old_shelves
from tests.stores.shelf.old_shelves import call, python_with
from tests.stores.shelf.shelves import MODULE, SENDER, insert, state
from tests.stores.shelf.test_senders import check_index

OTHER = "app.o'ther"
NOON = 1_700_000_000_000_000
LONG = "S" * 300

states = st.sampled_from(
    ["S", "S2", "S 2", " ", "-", "5 S", "é", "RÔ", "\udcff", "\0"]
    + ["x" * length for length in (237, 238, 239, 252, 300, 301, 70_000)]
)
times = st.none() | st.sampled_from(
    [-(10**16) + 1, -(10**15), -5, -1, 0, 1, 9, 10, NOON, NOON + 1, 10**16, 10**17 - 1]
)


@pytest.fixture
def indexed(path: Path) -> Iterator[ShelveStorage]:
    with ShelveStorage(path, indexes=True) as store:
        yield store


def look(store: ShelveStorage, *args: Any, **where: Any) -> list[Entry]:
    """Returns what is found, each once."""
    asked = Where(*args, **where)
    found = [entry for page in store._pages(Kind.STATE, asked) for entry in page.entries]
    assert len(found) == len(set(found))
    return found


def search(store: ShelveStorage, where: Where) -> set[Entry]:
    return {entry for entry in look(store) if where.matches(entry)}


# ---------------------------------------------------------------- what they find


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(st.sampled_from([MODULE, OTHER]), states, times), max_size=12),
    value=st.none() | states,
    before=times,
    module=st.sampled_from([EVERY, MODULE, OTHER, "none"]),
)
def test_they_find_what_a_search_finds(
    rows: list[tuple[str, str, int | None]],
    value: str | None,
    before: int | None,
    module: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("shelf") / "states"
    with ShelveStorage(path, indexes=True) as store:
        store._commit(
            state(name, f"{number}@x", text, at) for number, (name, text, at) in enumerate(rows)
        )
        where = Where(EVERY, module, value, before)
        assert set(look(store, *where)) == search(store, where)


@pytest.mark.parametrize("count", [499, 500, 501, 1_700])
def test_all_of_many_pages(indexed: ShelveStorage, count: int) -> None:
    """Of short ones, which the index has, and of others, which it leaves to whoever looks."""
    indexed._commit(
        state(MODULE, f"{number}@x", "S" if number % 2 else LONG, NOON) for number in range(count)
    )
    indexed._commit(state(OTHER, f"{number}@x", "OTHER", None) for number in range(600))
    assert len(look(indexed, value="S")) + len(look(indexed, value=LONG)) == count
    assert len(look(indexed, before=NOON + 1)) == count
    assert indexed.rename(MODULE, "S", "ASKING") == count // 2
    assert look(indexed, value="S") == []
    set_clock(indexed, NOON + 1)
    assert indexed.purge(older_than=timedelta(0), state=LONG) == count - count // 2
    assert indexed.purge(older_than=timedelta(0)) == count // 2
    assert len(look(indexed)) == 600


# ---------------------------------------------------------------- whoever wrote it


PICKLED: list[Callable[[str], bytes]] = [
    *(lambda text, protocol=protocol: pickle.dumps(text, protocol) for protocol in (1, 2, 3, 4, 5)),
    lambda text: pickletools.optimize(pickle.dumps(text, 4)),
    lambda text: b"\x8c" + bytes([len(text.encode())]) + text.encode() + b".",
    lambda text: b"\x80\x04X" + len(text.encode()).to_bytes(4, "little") + text.encode() + b".",
]


@pytest.mark.parametrize("dump", PICKLED, ids=range(len(PICKLED)))
def test_however_it_is_pickled(
    path: Path, indexed: ShelveStorage, dump: Callable[..., bytes]
) -> None:
    """An Ô ends with a byte that could be the end of a pickle."""
    for number, name in enumerate(("S", "RÔ", "P\u0095\u008c" * 20)):
        insert(path, ascii_key(MODULE, f"{number}@x"), dump(f"{NOON} {name}"))
    for number, name in enumerate(("S", "RÔ", "P\u0095\u008c" * 20)):
        assert [entry.sender for entry in look(indexed, value=name)] == [f"{number}@x"]
    assert len(look(indexed, before=NOON + 1)) == 3
    check_index(path)


def test_a_damaged_one_is_found_by_all_that_it_may_be(path: Path, indexed: ShelveStorage) -> None:
    for value in (b"", 5, "5 S", pickle.dumps(7), pickle.dumps("5 S")[:-1]):
        insert(path, ascii_key(MODULE, SENDER), value)
        for where in (Where(value="S"), Where(before=NOON), Where(name=MODULE, value="S")):
            with pytest.raises(StorageError, match="damaged"):
                look(indexed, *where)


def test_every_store_uses_and_keeps_them(path: Path, store: ShelveStorage) -> None:
    """That a process opened before they were made, too."""
    store._commit(state(MODULE, f"{number}@x", "POSTING", NOON) for number in range(1_200))
    assert plans(store) == {"state": False, "time": False}
    ShelveStorage(path, indexes=True).close()
    assert plans(store) == {"state": True, "time": True}
    store.set(MODULE, "7@x", "RARE")
    with store.conversation("8@x"):
        store.set(MODULE, "8@x", "RARE")
    store.set(MODULE, "9@x", "START")
    assert {entry.sender for entry in look(store, value="RARE")} == {"7@x", "8@x"}
    assert len(look(store, value="POSTING")) == 1_197
    check_index(path)


def plans(store: ShelveStorage) -> dict[str, bool]:
    """Returns by which filters a page of few is found, instead of one of many looked through."""
    with steps_of(store) as steps:
        before = {}
        for name, where in (("state", Where(value="NOBODY")), ("time", Where(before=5))):
            steps.clear()
            assert look(store, *where) == []
            before[name] = len(steps) < 50
    return before


@contextmanager
def steps_of(store: ShelveStorage) -> Iterator[list[int]]:
    """Counts the instructions of SQLite's machine, by tens."""
    steps: list[int] = []
    with store._opened() as shelf:
        shelf._connection.set_progress_handler(lambda: steps.append(1), 10)
        yield steps
        shelf._connection.set_progress_handler(None, 10)


def test_shelve_of_python_3_13_keeps_them(path: Path, indexed: ShelveStorage) -> None:
    python = python_with("dbm.sqlite3") or pytest.skip("no Python on this machine has dbm.sqlite3")
    indexed.set(MODULE, SENDER, "POSTING")
    indexed.set("app.bounces", SENDER, "COUNTING")
    indexed.close()
    theirs = {ascii_key(MODULE, SENDER): f"{NOON} ASKING", ascii_key("new", SENDER): "5 ASKING"}
    call(python, old_shelves.shelve_writes, str(path), theirs, [ascii_key("app.bounces", SENDER)])
    with ShelveStorage(path) as again:
        assert {entry.name for entry in look(again, value="ASKING")} == {MODULE, "new"}
        assert [entry.name for entry in look(again, before=6)] == ["new"]
        assert look(again, value="COUNTING") == look(again, value="POSTING") == []
    check_index(path)


def test_a_shelf_of_salmon_gets_them(path: Path) -> None:
    python = python_with("dbm.dumb") or pytest.skip("no Python on this machine has dbm.dumb")
    call(python, old_shelves.salmon_writes, str(path), "dbm.dumb", [(MODULE, SENDER, "ASKING")])
    with ShelveStorage(path, indexes=True) as store:
        assert [entry.sender for entry in look(store, value="ASKING")] == [SENDER]
        assert look(store, before=2**62) == []


# ---------------------------------------------------------------- the option


def test_it_is_an_option_of_the_url(path: Path) -> None:
    open_storage(f"shelve:///{path}", indexes=True).close()
    with closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert {"States", "Times"} <= names
