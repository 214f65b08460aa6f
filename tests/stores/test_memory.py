from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from salmon_state import MemoryStorage
from salmon_state.entries import Kind, Write, from_microseconds
from salmon_state.testing.suite import contents, fill
from salmon_state.testing.threads import run_together

MODULE = "app.handlers"


@pytest.fixture
def store() -> MemoryStorage:
    return MemoryStorage()


def senders(numbers: range) -> list[str]:
    return [f"{number}@x" for number in numbers]


def many(store: MemoryStorage, numbers: range) -> None:
    fill(store, [(MODULE, sender, "POSTING") for sender in senders(numbers)])


def test_a_page_is_all_that_a_page_costs(store: MemoryStorage) -> None:
    many(store, range(20_000))
    tracemalloc.start()
    try:
        assert len(list(itertools.islice(store.records(), 100))) == 100
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000, f"100 records of 20,000 took {peak} bytes of memory"


def test_a_senders_records_are_found_without_the_others(
    store: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(store, range(10))
    monkeypatch.setattr(store._tables[Kind.STATE], "cells", [])
    assert contents(store, sender="7@x") == {(MODULE, "7@x"): "POSTING"}
    assert contents(store, sender="7@x", module="another") == {}
    assert contents(store, sender="7@x", state="ASKING") == {}


def test_what_is_removed_and_set_again_does_not_come_twice(store: MemoryStorage) -> None:
    many(store, range(250))
    seen: Counter[str | None] = Counter()
    for record in store:
        seen[record.sender] += 1
        store.set(MODULE, record.sender or "", "START")
        store.set(MODULE, record.sender or "", "POSTING")
    assert seen == Counter(senders(range(250)))
    assert len(store) == 250


def test_iterating_while_it_is_tidied_up(store: MemoryStorage) -> None:
    """Removing most of it makes the list of what remains anew, under whoever iterates."""
    many(store, range(1000))
    records = iter(store)
    seen = [next(records).sender for _ in range(150)]
    for sender in senders(range(150, 990)):
        store.set(MODULE, sender, "START")
    many(store, range(1000, 1500))
    assert len(store._tables[Kind.STATE].cells) < 1000
    seen += [record.sender for record in records]
    assert len(set(seen)) == len(seen)
    assert set(seen) >= {*senders(range(150)), *senders(range(990, 1000))}


def test_nothing_comes_after_clear(store: MemoryStorage) -> None:
    many(store, range(2_000))
    records = iter(store)
    next(records)
    store.clear()
    many(store, range(2_000, 4_000))
    assert len(list(records)) < 500  # what was looked at already


def test_what_came_and_went_takes_no_memory(store: MemoryStorage) -> None:
    store.set(MODULE, "stays@x", "POSTING")
    for sender in senders(range(3000)):
        store.set(MODULE, sender, "POSTING")
        store.set(MODULE, sender, "START")
    assert len(store) == 1
    assert len(store._tables[Kind.STATE].cells) < 600
    assert list(store._tables[Kind.STATE].senders) == ["stays@x"]


def test_a_write_happens_wholly_or_not(store: MemoryStorage) -> None:
    def changes() -> Iterator[Write]:
        yield Write(Kind.STATE, "a@x", MODULE, "POSTING", 1)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        store._commit(changes())
    assert contents(store) == {}


def test_a_state_comes_with_its_own_time(store: MemoryStorage) -> None:
    many(store, range(50))
    ended = []

    def write() -> None:
        for moment in range(400):
            states = [(MODULE, sender, f"S{moment}") for sender in senders(range(50))]
            fill(store, states, updated_at=moment)
        ended.append(True)

    def read() -> None:
        while not ended:
            for record in store:
                if record.state != "POSTING":
                    assert record.updated_at == from_microseconds(int(record.state[1:]))

    run_together([write, *[partial(read)] * 2])


def test_states_as_salmons_own_store_has_them(store: MemoryStorage) -> None:
    store.set(MODULE, "o'neil@x", "POSTING")
    store.set(MODULE, None, "ASKING")
    assert store.states == {
        "['app.handlers', \"o'neil@x\"]": "POSTING",
        "['app.handlers', None]": "ASKING",
    }
