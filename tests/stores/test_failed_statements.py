"""Handlers' statements that fail, and transactions that end under a conversation."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from salmon_state import (
    SQLAlchemyStorage,
    StorageUnavailable,
    current_conversation,
)
from salmon_state.testing.endings import refused
from salmon_state.testing.suite import contents
from tests.stores.sqlalchemy_places import Place
from tests.stores.subscribers import Subscribers

ANNA, BEN = "anna@example.com", "ben@example.com"


@pytest.fixture
def subscribers(place: Place) -> Subscribers:
    return Subscribers(place)


def add_twice(subscribers: Subscribers, name: str) -> None:
    subscribers.add(name)
    subscribers.add(name)


def test_a_failed_statement_that_the_handler_lets_out(
    place: Place, store: SQLAlchemyStorage, subscribers: Subscribers
) -> None:
    """Salmon sets ERROR: the mail is not told to come again for ever."""
    with store.conversation(ANNA) as conversation:
        try:
            add_twice(subscribers, "anna")
        except sa.exc.IntegrityError:
            store.set("app", ANNA, "ERROR")
            conversation.fail()
    assert contents(store) == {("app", ANNA): "ERROR"}
    # PostgreSQL has given up what came before in the transaction; the others have not.
    assert subscribers.committed() == (set() if place.kind == "postgresql" else {"anna"})


@pytest.mark.parametrize("state", ["POSTING", None])
def test_a_failed_statement_that_the_handler_hides(
    place: Place, store: SQLAlchemyStorage, subscribers: Subscribers, state: str | None
) -> None:
    """Row and state together or not at all: PostgreSQL's COMMIT would quietly roll back."""
    conversation = store.conversation(ANNA)
    conversation.__enter__()
    with pytest.raises(sa.exc.IntegrityError):
        add_twice(subscribers, "anna")
    if state is not None:
        store.set("app", ANNA, state)
    if place.kind == "postgresql":
        with pytest.raises(StorageUnavailable):
            conversation.__exit__(None, None, None)
        assert (subscribers.committed(), contents(store)) == (set(), {})
    else:
        conversation.__exit__(None, None, None)
        assert subscribers.committed() == {"anna"}
    with store.conversation(ANNA):  # on the same connection, as if nothing had been
        subscribers.add("again")
        store.set("app", ANNA, "POSTING")
    assert contents(store) == {("app", ANNA): "POSTING"}
    assert "again" in subscribers.committed()


def test_a_statement_that_may_fail(store: SQLAlchemyStorage, subscribers: Subscribers) -> None:
    with store.conversation(ANNA) as conversation:
        subscribers.add("anna")
        with (
            pytest.raises(sa.exc.IntegrityError),
            conversation.connection.begin_nested(),
        ):
            subscribers.add("anna")
        subscribers.add("ben")
        store.set("app", ANNA, "POSTING")
    assert subscribers.committed() == {"anna", "ben"}
    assert contents(store) == {("app", ANNA): "POSTING"}


@pytest.mark.parametrize("state", ["ERROR", "POSTING"])
def test_a_failed_statement_in_an_inner_conversation(
    place: Place, store: SQLAlchemyStorage, subscribers: Subscribers, state: str
) -> None:
    with store.conversation(ANNA):
        subscribers.add("outer")
        inner = store.conversation(BEN)
        inner.__enter__()
        with pytest.raises(sa.exc.IntegrityError):
            add_twice(subscribers, "inner")
        store.set("app", BEN, state)
        if state == "ERROR":
            inner.fail()
        if (place.kind, state) == ("postgresql", "POSTING"):
            with pytest.raises(StorageUnavailable):
                inner.__exit__(None, None, None)
            subscribers.add("later")
        else:
            inner.__exit__(None, None, None)
        store.set("app", ANNA, "POSTING")
    expected = {("app", ANNA): "POSTING", ("app", BEN): state}
    if place.kind != "postgresql":
        assert subscribers.committed() == {"outer", "inner"}
    elif state == "ERROR":
        assert subscribers.committed() == {"outer"}
    else:
        assert subscribers.committed() == {"outer", "later"}
        del expected["app", BEN]
    assert contents(store) == expected


@pytest.mark.parametrize("statement", ["ROLLBACK", "COMMIT"])
@pytest.mark.parametrize("state", ["ERROR", "POSTING"])
def test_a_transaction_that_ended_under_the_conversation(
    store: SQLAlchemyStorage, subscribers: Subscribers, statement: str, state: str
) -> None:
    """By a handler that must not, or by the database that chose it in a deadlock."""
    conversation = store.conversation(ANNA)
    conversation.__enter__()
    subscribers.add("before")
    conversation.connection.exec_driver_sql(statement)
    store.set("app", ANNA, state)
    store.set("other", ANNA, state)
    if state == "ERROR":
        conversation.fail()
        conversation.__exit__(None, None, None)
        assert contents(store) == {("app", ANNA): "ERROR", ("other", ANNA): "ERROR"}
    else:
        with pytest.raises(StorageUnavailable):
            conversation.__exit__(None, None, None)
        assert contents(store) == {}
    assert subscribers.committed() == ({"before"} if statement == "COMMIT" else set())
    with store.conversation(ANNA, timeout=0):
        subscribers.add("after")
    assert "after" in subscribers.committed()


def test_a_statement_that_rolls_back_by_itself(
    tmp_path: Path,
) -> None:
    """SQLite's OR ROLLBACK, or a full disk."""
    place = Place("sqlite", f"sqlite:///{tmp_path}/states.db")
    subscribers = Subscribers(place)
    with SQLAlchemyStorage(place.url) as store, refused(store, ANNA, StorageUnavailable):
        subscribers.add("anna")
        current = current_conversation()
        assert current is not None
        with pytest.raises(sa.exc.IntegrityError):
            current.connection.exec_driver_sql(
                "INSERT OR ROLLBACK INTO subscribers VALUES ('anna')"
            )
        store.set("app", ANNA, "POSTING")
    assert subscribers.committed() == set()
    assert place.rows("SELECT * FROM salmon_state") == []
