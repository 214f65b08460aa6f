"""The indexes that are an option: what they find, and how they come to exist."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import SQLAlchemyStorage
from salmon_state.entries import EVERY, Kind, Where, Write
from salmon_state.stores.sqlalchemy.schema import STATE_INDEXES
from tests.stores.sqlalchemy_places import Place

ROWS = 3_000
LONG = "S" * 5_000


@pytest.fixture
def indexed(place: Place) -> Iterator[SQLAlchemyStorage]:
    with SQLAlchemyStorage(place.url, indexes=True) as store:
        yield store


def fill(store: SQLAlchemyStorage) -> None:
    store._commit(
        [
            Write(Kind.STATE, f"{number}@x", "app", f"S{number % 2}", number)
            for number in range(ROWS)
        ]
    )


def names(url: str) -> set[Any]:
    engine = sa.create_engine(url)
    found = {index["name"] for index in sa.inspect(engine).get_indexes("salmon_state")}
    engine.dispose()
    return found


def test_they_are_made_for_a_store_that_has_none(place: Place) -> None:
    with SQLAlchemyStorage(place.url) as store:
        fill(store)
    assert not names(place.url)
    with SQLAlchemyStorage(place.url, indexes=True) as store:
        assert len(list(store.records(state="S1"))) == ROWS / 2
    made = names(place.url)
    assert "salmon_state_by_time" in made
    assert ("salmon_state_by_state" in made) == (place.kind in STATE_INDEXES)
    with SQLAlchemyStorage(place.url) as store:  # whoever does not know them keeps them up to date
        store.set("app", "1@x", "RARE")
    with SQLAlchemyStorage(place.url, indexes=True) as store:
        assert [record.sender for record in store.records(state="RARE")] == ["1@x"]


def test_they_find_what_a_search_finds(indexed: SQLAlchemyStorage) -> None:
    fill(indexed)
    for sender, state in (("a@x", LONG), ("b@x", LONG + "2"), ("c@x", "S" * 100)):
        indexed.set("other", sender, state)
    everything = list(indexed.records())
    for state in ("S0", "S1", LONG, LONG + "2", "S" * 100, "NOBODY"):
        for module in (None, "app", "other", "nothing"):
            found = sorted(indexed.records(state=state, module=module))
            expected = [r for r in everything if r.state == state and module in (None, r.module)]
            assert found == sorted(expected)
    before = Where(before=1_500)
    pages = list(indexed._pages(Kind.STATE, before))
    assert sum(len(page.entries) for page in pages) == 1_500


def test_a_rare_state_takes_one_page(place: Place, indexed: SQLAlchemyStorage) -> None:
    if place.kind not in STATE_INDEXES:
        pytest.skip("an index by state is not possible there")
    fill(indexed)
    indexed.set("app", "7@x", "RARE")
    (page,) = indexed._pages(Kind.STATE, Where(EVERY, EVERY, "RARE"))
    assert [entry.sender for entry in page.entries] == ["7@x"]


def test_rename_and_purge_change_what_they_find(indexed: SQLAlchemyStorage) -> None:
    fill(indexed)
    indexed.set("app", "new@x", "S1")
    assert indexed.rename("app", "S0", "S2") == ROWS / 2
    assert indexed.purge(older_than=timedelta(days=1), state="S1") == ROWS / 2
    assert indexed.purge(older_than=timedelta(days=1), module="app") == ROWS / 2
    assert [record.sender for record in indexed.records()] == ["new@x"]
