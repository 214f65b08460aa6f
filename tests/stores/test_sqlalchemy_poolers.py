"""What a pooler between us and PostgreSQL needs: nothing prepared, nothing in a session."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import ConfigurationError, SQLAlchemyStorage
from tests.stores.sqlalchemy_places import Place

USES = 12
"""After 5 psycopg prepares a statement, if it is not told otherwise."""


@pytest.fixture
def place(postgresql: Any) -> Place:
    return Place("postgresql", postgresql.fresh_database(), postgresql)


def prepared(store: SQLAlchemyStorage) -> int:
    """Uses everything often enough; returns how many statements the server has prepared for it."""
    for number in range(USES):
        store.set("app", "a@x", f"S{number}")
        assert store.get("app", "a@x") == f"S{number}"
        assert store.compare_and_set("app", "a@x", f"S{number}", "POSTING")
        with store.conversation("a@x") as conversation:
            conversation.connection.execute(sa.select(store.table)).all()
            assert store.get("app", "b@x") == "START"
            store.set("app", "a@x", "LATER")
        assert [record.state for record in store] == ["LATER"]
        assert store.set_all("a@x", "LAST") == 1
    count = "SELECT count(*) FROM pg_prepared_statements"
    found: int = store._pool.run(store._fetch_one, count, ())[0]
    return found


def with_threshold(place: Place, threshold: str) -> sa.URL:
    return sa.make_url(place.url).update_query_dict({"prepare_threshold": threshold})


def test_statements_are_prepared_by_themselves(place: Place) -> None:
    with SQLAlchemyStorage(place.url) as store:
        assert prepared(store) > 5


@pytest.mark.parametrize("threshold", ["none", "None"])
def test_the_url_says_that_nothing_is_prepared(place: Place, threshold: str) -> None:
    with SQLAlchemyStorage(with_threshold(place, threshold)) as store:
        assert prepared(store) == 0


@pytest.mark.parametrize(("threshold", "expected"), [("0", True), ("3", True), ("100000", False)])
def test_the_url_says_when_something_is_prepared(
    place: Place, threshold: str, expected: bool
) -> None:
    with SQLAlchemyStorage(with_threshold(place, threshold)) as store:
        assert (prepared(store) > 0) == expected


def test_every_connection_is_told(place: Place) -> None:
    with SQLAlchemyStorage(with_threshold(place, "3")) as store:
        leases = [store._pool.take() for _ in range(3)]
        assert {lease.driver.prepare_threshold for lease in leases} == {3}
        for lease in leases:
            store._pool.give_back(lease)


def test_an_own_engine_says_that_nothing_is_prepared(place: Place) -> None:
    engine = sa.create_engine(place.url, connect_args={"prepare_threshold": None})
    with SQLAlchemyStorage(engine) as store:
        assert prepared(store) == 0
    engine.dispose()


@pytest.mark.parametrize("threshold", ["", "never", "-1", "1.5", "²"])
def test_a_threshold_that_means_nothing(place: Place, threshold: str) -> None:
    with pytest.raises(ConfigurationError, match="prepare_threshold must be 'none'"):
        SQLAlchemyStorage(with_threshold(place, threshold))


def test_a_conversation_leaves_nothing_in_the_session(place: Place) -> None:
    """Its lock, its time limit and what it reads belong to the transaction."""
    with SQLAlchemyStorage(place.url) as store:
        with store.conversation("a@x"):
            store.set("app", "a@x", "POSTING")
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            assert place.rows(locks) == [(1,)]
        assert place.rows(locks) == [(0,)]
        timeout = "SELECT setting FROM pg_settings WHERE name = 'lock_timeout'"
        assert store._pool.run(store._fetch_one, timeout, ()) == ("0",)
