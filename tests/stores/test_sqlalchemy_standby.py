"""PostgreSQL with a synchronous standby: what it does not confirm is not acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta

import psycopg
import pytest
import sqlalchemy as sa

from salmon_state import SQLAlchemyStorage, StorageUnavailable, current_conversation
from tests.services import PostgreSQLServer, PostgreSQLStandby, provide
from tests.stores.sqlalchemy_places import HANG, Place, eventually

ANNA = "anna@example.com"
TIMEOUT = 1.0


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgreSQLServer]:
    yield from provide(lambda: PostgreSQLServer(durable=False))


@pytest.fixture(scope="module")
def standby(primary: PostgreSQLServer) -> Iterator[PostgreSQLStandby]:
    for standby in provide(lambda: PostgreSQLStandby(primary)):
        with primary.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            connection.execute("SELECT pg_reload_conf()")
        yield standby


@pytest.fixture
def store(primary: PostgreSQLServer, standby: PostgreSQLStandby) -> Iterator[SQLAlchemyStorage]:
    """A store whose standby has all that it holds, and then says nothing."""
    place = Place("postgresql", primary.fresh_database(), primary)
    with SQLAlchemyStorage(place.url, timeout=TIMEOUT) as store:
        store.set("app", ANNA, "POSTING")
        store.set("app", "ben@example.com", "POSTING")
        synchronous = "SELECT sync_state FROM pg_stat_replication"
        eventually(lambda: place.rows(synchronous) == [("sync",)])
        standby.pause()
        yield store
        standby.resume()


def converse(store: SQLAlchemyStorage) -> None:
    with store.conversation(ANNA):
        store.set("app", ANNA, "LATER")


def take_part(store: SQLAlchemyStorage) -> None:
    with store.conversation(ANNA):
        conversation = current_conversation()
        assert conversation is not None
        conversation.connection.execute(sa.text("CREATE TABLE handlers_own ()"))


CHANGES: dict[str, Callable[[SQLAlchemyStorage], object]] = {
    "set": lambda store: store.set("app", ANNA, "LATER"),
    "remove": lambda store: store.set("app", ANNA, "START"),
    "compare_and_set": lambda store: store.compare_and_set("app", ANNA, "POSTING", "LATER"),
    "set_all": lambda store: store.set_all(ANNA, "LATER"),
    "rename": lambda store: store.rename("app", "POSTING", "LATER"),
    "purge": lambda store: store.purge(older_than=timedelta(0)),
    "clear": lambda store: store.clear(),
    "conversation": converse,
    "a handler's rows": take_part,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_standby_that_does_not_answer(store: SQLAlchemyStorage, name: str) -> None:
    """The cancel at the end of the timeout makes PostgreSQL report success, with a warning."""
    with pytest.raises(StorageUnavailable):
        CHANGES[name](store)


def test_reading_waits_for_no_standby(store: SQLAlchemyStorage) -> None:
    assert store.get("app", ANNA) == "POSTING"
    with store.conversation(ANNA):
        assert store.get("app", ANNA) == "POSTING"


@pytest.mark.parametrize("name", ["set", "compare_and_set", "conversation"])
def test_somebody_else_who_ends_the_waiting(
    primary: PostgreSQLServer, store: SQLAlchemyStorage, name: str
) -> None:
    """An administrator's cancel, long before the timeout."""
    with SQLAlchemyStorage(store._pool._engine.url, timeout=HANG) as patient:
        refused = []

        def change() -> None:
            with pytest.raises(StorageUnavailable) as caught:
                CHANGES[name](patient)
            refused.append(caught.value.detail)

        thread = threading.Thread(target=change, daemon=True)
        thread.start()
        with primary.connect() as administrator:
            eventually(lambda: _cancel_whoever_waits(administrator))
        thread.join(HANG)
    assert "standby" in refused[0]


def _cancel_whoever_waits(administrator: psycopg.Connection[object]) -> bool:
    waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    return administrator.execute(waiting).fetchone() is not None


@pytest.fixture
def own_primary() -> Iterator[PostgreSQLServer]:
    yield from provide(lambda: PostgreSQLServer(durable=False))


@pytest.fixture
def own_standby(own_primary: PostgreSQLServer) -> Iterator[PostgreSQLStandby]:
    yield from provide(lambda: PostgreSQLStandby(own_primary))


def test_what_was_acknowledged_outlives_a_failover(
    own_primary: PostgreSQLServer, own_standby: PostgreSQLStandby
) -> None:
    """The promoted standby has every state whose `set` returned."""
    primary, standby = own_primary, own_standby
    acknowledged = dict.fromkeys((f"{number}@x" for number in range(200)), "POSTING")
    with primary.connect() as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        connection.execute("SELECT pg_reload_conf()")
    with SQLAlchemyStorage(primary.url(), timeout=TIMEOUT) as store:
        for sender in acknowledged:
            store.set("app", sender, "POSTING")
        standby.kill()
        for sender in ("0@x", "new@x"):
            with suppress(StorageUnavailable):
                store.set("app", sender, "LATER")
                acknowledged[sender] = "LATER"
        primary.kill()
    standby.start()
    with pytest.raises(StorageUnavailable):  # a server that boots now tries again
        SQLAlchemyStorage(standby.url())
    standby.promote()
    with SQLAlchemyStorage(standby.url()) as store:
        found = {str(record.sender): record.state for record in store}
    assert {sender: found.get(sender) for sender in acknowledged} == acknowledged
