"""Entries that nobody can have written properly."""

from __future__ import annotations

import dbm.dumb
import os
import pickle
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from salmon_state import ShelveStorage, StorageError, StorageUnavailable
from salmon_state.keys import ascii_key
from tests.stores.shelf.shelves import MODULE, SENDER, damage, execute, insert, state


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


BAD_VALUES = [
    b"",
    b".",
    b"POSTING",
    pickle.dumps(7),
    pickle.dumps(None),
    pickle.dumps(b"5 POSTING"),
    pickle.dumps(["5 POSTING"]),
    pickle.dumps("5 POSTING")[:-1],
    pickle.dumps("5 POSTING") + b"x",
    pickle.dumps("5 POSTING").replace(b"POSTING", b"POST\xffNG"),
    b"\x80\x04\x8d" + b"\xff" * 8 + b"5 POSTING\x94.",
    b"\x80\x04r\xff\xff\xff\x7f.",  # makes an Unpickler fill gigabytes
    pickle.dumps(""),
    pickle.dumps("5"),
    pickle.dumps("5 "),
    pickle.dumps(" POSTING"),
    pickle.dumps("POSTING"),
    pickle.dumps("five POSTING"),
    pickle.dumps("\u0665 POSTING"),
    "5 POSTING",
    5,
]


@pytest.mark.parametrize("value", BAD_VALUES, ids=range(len(BAD_VALUES)))
def test_a_damaged_value_is_an_error(path: Path, store: ShelveStorage, value: object) -> None:
    insert(path, ascii_key(MODULE, SENDER), value)
    attempts: list[Callable[[], object]] = [
        lambda: store.get(MODULE, SENDER),
        lambda: list(store),
        lambda: store.set_all(SENDER, "ASKING"),
        lambda: store.rename(MODULE, "POSTING", "ASKING"),
        lambda: store.compare_and_set(MODULE, SENDER, "START", "ASKING"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError) as caught:
            attempt()
        assert not isinstance(caught.value, StorageUnavailable)
        assert str(path) in str(caught.value)
        assert SENDER in str(caught.value)
    store.set(MODULE, SENDER, "ASKING")
    assert store.get(MODULE, SENDER) == "ASKING"


def test_a_shelf_cannot_run_code(path: Path, store: ShelveStorage, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    value = pickle.dumps(Malicious(trace))
    insert(path, ascii_key(MODULE, SENDER), value)
    with pytest.raises(StorageError):
        store.get(MODULE, SENDER)
    with pytest.raises(StorageError):
        list(store)
    with closing(dbm.dumb.open(str(tmp_path / "old"), "c")) as old:
        old[repr([b"app", "a@x"])] = value
    with pytest.raises(StorageError):
        ShelveStorage(tmp_path / "old")
    assert not trace.exists()
    pickle.loads(value)
    assert trace.exists(), "the attack itself does not work"


@pytest.mark.parametrize(
    "key", ["", "nonsense", "['a']", "[b'a', 'b']", "['a', 7]", b"\xff", "x" * 9999]
)
def test_a_damaged_key_is_an_error(path: Path, store: ShelveStorage, key: object) -> None:
    store.set(MODULE, SENDER, "POSTING")
    insert(path, key, pickle.dumps("5 POSTING"))
    with pytest.raises(StorageError) as caught:
        list(store)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert store.get(MODULE, SENDER) == "POSTING"


@pytest.mark.parametrize("key", ["['a', 'b']", 7, 7.5])
def test_a_key_that_is_no_blob_shows_up(path: Path, store: ShelveStorage, key: object) -> None:
    execute(path, "INSERT INTO Dict VALUES (?, ?)", key, pickle.dumps("5 POSTING"))
    with pytest.raises(StorageError, match="damaged"):
        list(store)


def test_a_time_that_no_calendar_has(path: Path, store: ShelveStorage) -> None:
    insert(path, ascii_key(MODULE, SENDER), pickle.dumps("999999999999999999 POSTING"))
    with pytest.raises(StorageError, match="damaged"):
        list(store)


def test_pages_overwritten_under_it(path: Path) -> None:
    with ShelveStorage(path) as store:
        store._commit(state(MODULE, f"{number}@x", "POSTING", 1) for number in range(2000))
        store._let_go()  # so that the pages are read again
        damage(path)
        with pytest.raises(StorageError, match=r"states.*damaged"):
            list(store)
