"""Conversations in SQL databases: their connections and their locks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from salmon.server import SMTPError

from salmon_state import (
    ConversationBusy,
    SQLAlchemyStorage,
    StorageUnavailable,
    current_conversation,
)
from salmon_state.testing.endings import elsewhere, refused
from salmon_state.testing.mails import can_enter
from salmon_state.testing.suite import contents
from salmon_state.testing.threads import run_together
from tests.stores.sqlalchemy_places import HANG, Place, eventually

ANNA, BEN = "anna@example.com", "ben@example.com"


# ---------------------------------------------------------------- connections


def test_conversations_leave_a_connection_to_handlers(place: Place) -> None:
    """As many conversations as there are connections, whose handlers ask the store as well."""
    with SQLAlchemyStorage(place.url, pool_size=3) as store:

        def talk(sender: str) -> int:
            with store.conversation(sender):
                if place.kind != "sqlite":
                    assert current_conversation() is not None
                return len(store) + len(list(store.records()))

        assert run_together([partial(talk, f"{n}@x") for n in range(6)]) == [0] * 6


def test_more_conversations_than_connections(place: Place) -> None:
    """They take turns; whoever gets none in time is told so, and nothing is stuck."""
    with SQLAlchemyStorage(place.url, pool_size=2, timeout=2.0) as store, store.conversation(ANNA):
        assert current_conversation() is not None
        if place.kind == "sqlite":
            assert elsewhere(can_enter, store, [BEN]) == [True]
        else:
            with pytest.raises(StorageUnavailable, match="451"):
                elsewhere(can_enter, store, [BEN])
        assert store.get("app", BEN) == "START"


def test_no_connection_stays_behind(served: Place) -> None:
    with SQLAlchemyStorage(served.url) as store:
        for error in (None, SMTPError(451), ValueError(), SystemExit()):
            for sender in (ANNA, None):
                try:
                    with store.conversation(sender) as conversation:
                        assert conversation.connection is not None
                        if error is not None:
                            raise error
                except type(error or ValueError()):
                    pass
        assert served.connections() == 1
    eventually(lambda: served.connections() == 0)


def test_stores_with_other_tables_do_not_share_locks(place: Place) -> None:
    with (
        SQLAlchemyStorage(place.url) as one,
        SQLAlchemyStorage(place.url, table="others") as two,
        SQLAlchemyStorage(place.url) as same,
        one.conversation(ANNA),
    ):
        expected = place.kind != "sqlite"  # whose lock file is that of the database
        assert elsewhere(can_enter, two, [ANNA]) == [expected]
        assert elsewhere(can_enter, same, [ANNA]) == [False]


@pytest.fixture
def repeatable_read(place: Place) -> Iterator[Any]:
    """A database whose transactions see one moment, unless they ask for something else."""
    if place.kind == "postgresql":
        place.run(
            f"ALTER DATABASE {place.database} SET default_transaction_isolation = 'repeatable read'"
        )
    with SQLAlchemyStorage(place.url) as store:
        yield store


def test_a_snapshot_is_from_after_the_lock(repeatable_read: SQLAlchemyStorage) -> None:
    store = repeatable_read

    def step() -> None:
        for _ in range(20):
            with store.conversation(ANNA, timeout=HANG):
                state = store.get("app", ANNA)
                store.set("app", ANNA, str(1 + (0 if state == "START" else int(state))))

    run_together([step] * 3)
    assert store.get("app", ANNA) == "60"


def test_the_database_holds_the_lock_by_its_digest(served: Place) -> None:
    """What an attacker writes into a sender is in no statement and in no name."""
    evil = "'; DROP TABLE salmon_state; --%s%%:x\0\\"
    with SQLAlchemyStorage(served.url) as store:
        for _ in range(2):
            with store.conversation(evil):
                store.set(evil, evil, evil)
                with pytest.raises(ConversationBusy):
                    elsewhere(_enter, store, evil)
        assert contents(store) == {(evil, evil): evil}


def test_a_connection_that_ends_while_the_commit_is_awaited(served: Place) -> None:
    """A single change is its own commit on MariaDB: nobody knows whether it happened."""
    with (
        SQLAlchemyStorage(served.url, timeout=HANG) as store,
        served.administrator() as cursor,
    ):
        store.set("app", ANNA, "BEFORE")
        conversation = store.conversation(ANNA)
        conversation.__enter__()
        store.set("app", ANNA, "AFTER")
        cursor.execute("BEGIN")
        cursor.execute("UPDATE salmon_state SET state = 'BEFORE', updated_at = 1")
        killer = threading.Thread(target=_kill_who_waits, args=(served,))
        killer.start()
        with pytest.raises(StorageUnavailable) as caught:
            conversation.__exit__(None, None, None)
        killer.join()
        cursor.execute("COMMIT")
        assert ("not confirmed" in caught.value.detail) == (served.kind == "mariadb")
        assert store.get("app", ANNA) == "BEFORE"
        with store.conversation(ANNA, timeout=HANG):
            store.set("app", ANNA, "AGAIN")
        assert contents(store) == {("app", ANNA): "AGAIN"}


def _kill_who_waits(place: Place) -> None:
    """Ends the connection whose statement waits for a row."""
    eventually(lambda: bool(place.waiting()))
    [number] = place.waiting()
    kill = "SELECT pg_terminate_backend({})" if place.kind == "postgresql" else "KILL {}"
    place.run(kill.format(number))


def test_a_row_that_is_locked_while_the_commit_is_awaited(served: Place) -> None:
    """The database refuses in time; nothing has happened, and nothing happens later."""
    with (
        SQLAlchemyStorage(served.url, timeout=5.0) as store,
        SQLAlchemyStorage(served.url, timeout=HANG) as patient,
        served.administrator() as cursor,
    ):
        patient.set("app", ANNA, "BEFORE")
        with refused(store, ANNA, StorageUnavailable):
            store.set("app", ANNA, "AFTER")
            cursor.execute("BEGIN")
            cursor.execute("UPDATE salmon_state SET updated_at = 1")
        cursor.execute("COMMIT")
        with patient.conversation(ANNA, timeout=HANG):
            assert patient.get("app", ANNA) == "BEFORE"


def _enter(store: SQLAlchemyStorage, sender: str) -> None:
    with store.conversation(sender, timeout=0):
        pass
