"""The indexes that are an option: what they find, and how they come to exist."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import SQLAlchemyStorage
from salmon_state.entries import EVERY, Kind, Page, Where, Write
from salmon_state.stores.sqlalchemy import pages
from salmon_state.testing.suite import set_clock
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
    assert made == {f"salmon_state_by_{what}" for what in ("state", "time", "module")}
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


def test_a_rare_state_takes_one_page(indexed: SQLAlchemyStorage) -> None:
    fill(indexed)
    indexed.set("app", "7@x", "RARE")
    (page,) = indexed._pages(Kind.STATE, Where(EVERY, EVERY, "RARE"))
    assert [entry.sender for entry in page.entries] == ["7@x"]


@pytest.mark.parametrize("count", [1_999, 2_000, 2_001])
def test_few_or_many_in_a_state(indexed: SQLAlchemyStorage, count: int) -> None:
    """MariaDB looks them up if they are few, and goes through all if not."""
    fill(indexed)
    indexed._commit(Write(Kind.STATE, f"{n}@x", "other", "RARE", n) for n in range(count))
    for where in (Where(value="RARE"), Where(EVERY, "other", "RARE"), Where(EVERY, "app", "RARE")):
        found = [entry for page in indexed._pages(Kind.STATE, where) for entry in page.entries]
        assert len(found) == len(set(found)) == (0 if where.name == "app" else count)
    assert indexed.rename("other", "RARE", "S1") == count


def test_long_keys_of_a_rare_state(indexed: SQLAlchemyStorage) -> None:
    """They are read one by one, and end a page."""
    fill(indexed)
    senders = {f"{number}{'x' * 400_000}" for number in range(8)}
    indexed._commit(Write(Kind.STATE, sender, "app", "RARE", 1) for sender in senders)
    assert {record.sender for record in indexed.records(state="RARE")} == senders


def test_a_module_that_few_are_in_takes_one_page(indexed: SQLAlchemyStorage) -> None:
    fill(indexed)
    indexed.set("rare", "7@x", "S1")
    (page,) = indexed._pages(Kind.STATE, Where(EVERY, "rare"))
    assert [entry.sender for entry in page.entries] == ["7@x"]
    assert list(indexed._pages(Kind.STATE, Where(EVERY, "none"))) == [Page([], None)]
    assert len(list(indexed.records(module="app"))) == ROWS


def test_rename_and_purge_change_what_they_find(indexed: SQLAlchemyStorage) -> None:
    fill(indexed)
    indexed.set("app", "new@x", "S1")
    assert indexed.rename("app", "S0", "S2") == ROWS / 2
    assert indexed.purge(older_than=timedelta(days=1), state="S1") == ROWS / 2
    assert indexed.purge(older_than=timedelta(days=1), module="app") == ROWS / 2
    assert [record.sender for record in indexed.records()] == ["new@x"]


def test_they_go_through_what_an_index_finds(
    indexed: SQLAlchemyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch by batch, of a hundred rows here."""
    fill(indexed)
    indexed._commit(Write(Kind.STATE, f"{n}@x", "other", "RARE", ROWS) for n in range(150))
    monkeypatch.setattr(pages, "_BATCH", 100)
    batches: list[int] = []
    ask = pages.Pages._one

    def counted(self: pages.Pages, statement: Any, values: Any) -> Any:
        batches.append(values.get("size", 0))
        return ask(self, statement, values)

    monkeypatch.setattr(pages.Pages, "_one", counted)
    assert indexed.rename("other", "RARE", "S1") == 150
    assert indexed.rename("other", "S1", "RARE") == 150
    assert indexed.purge(older_than=timedelta(0), state="NOBODY") == 0
    set_clock(indexed, 140)
    assert indexed.purge(older_than=timedelta(0)) == 140
    assert 3 <= batches.count(100) < 12
