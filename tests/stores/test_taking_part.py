"""Handlers that write tables of their own in the transaction of a conversation."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from salmon.server import SMTPError

from salmon_state import (
    SQLAlchemyStorage,
    StorageUnavailable,
)
from salmon_state.testing.endings import elsewhere, left_with, refused
from salmon_state.testing.suite import contents
from tests.stores.sqlalchemy_places import Place
from tests.stores.subscribers import Subscribers

ANNA, BEN = "anna@example.com", "ben@example.com"


@pytest.fixture
def subscribers(place: Place) -> Subscribers:
    return Subscribers(place)


def test_a_row_and_a_state_together(store: SQLAlchemyStorage, subscribers: Subscribers) -> None:
    with store.conversation(ANNA):
        store.set("app", ANNA, "POSTING")
        subscribers.add("anna")
        assert store.get("app", ANNA) == "POSTING"
        assert store.get("app", BEN) == "START"
        assert (subscribers.committed(), elsewhere(contents, store)) == (set(), {})
        subscribers.add("another")
    assert subscribers.committed() == {"anna", "another"}
    assert contents(store) == {("app", ANNA): "POSTING"}


def test_a_row_and_two_states_of_which_one_is_read(
    store: SQLAlchemyStorage, subscribers: Subscribers
) -> None:
    store.set("lists", ANNA, "MEMBER")
    with store.conversation(ANNA):
        subscribers.add("anna")
        assert store.get("lists", ANNA) == "MEMBER"
        store.set("app", ANNA, "POSTING")
    assert subscribers.committed() == {"anna"}
    assert contents(store) == {("lists", ANNA): "MEMBER", ("app", ANNA): "POSTING"}


def test_a_row_without_a_state(store: SQLAlchemyStorage, subscribers: Subscribers) -> None:
    for sender in (ANNA, None):
        with store.conversation(sender):
            subscribers.add(str(sender))
    assert subscribers.committed() == {ANNA, "None"}


@pytest.mark.parametrize("error", [SMTPError(451), SystemExit(1), StorageUnavailable("down")])
def test_neither_row_nor_state(
    store: SQLAlchemyStorage, subscribers: Subscribers, error: BaseException
) -> None:
    with left_with(store, ANNA, error):
        subscribers.add("anna")
        store.set("app", ANNA, "POSTING")
    assert (subscribers.committed(), contents(store)) == (set(), {})


def test_a_state_that_changed_takes_the_row_down(
    place: Place, store: SQLAlchemyStorage, subscribers: Subscribers
) -> None:
    with refused(store, ANNA):
        store.set("app", ANNA, "POSTING")
        if place.kind == "sqlite":  # nobody else writes once the handler's transaction began
            elsewhere(store.set, "app", ANNA, "BANNED")
        subscribers.add("anna")
        if place.kind != "sqlite":
            elsewhere(store.set, "app", ANNA, "BANNED")
    assert subscribers.committed() == set()
    assert contents(store) == {("app", ANNA): "BANNED"}


def test_a_handler_that_raises_after_writing(
    store: SQLAlchemyStorage, subscribers: Subscribers
) -> None:
    """Salmon has set ERROR, which is committed with what was written."""
    with left_with(store, ANNA, ZeroDivisionError()):
        subscribers.add("anna")
        store.set("app", ANNA, "ERROR")
    assert subscribers.committed() == {"anna"}
    assert contents(store) == {("app", ANNA): "ERROR"}


@pytest.mark.parametrize("inner", [ANNA, BEN, None])
def test_an_inner_conversation_that_is_dropped(
    store: SQLAlchemyStorage, subscribers: Subscribers, inner: str | None
) -> None:
    with store.conversation(ANNA):
        subscribers.add("outer")
        with left_with(store, inner, SMTPError(451)):
            subscribers.add("dropped")
            store.set("app", inner, "DROPPED")
        with store.conversation(inner):
            subscribers.add("inner")
            with left_with(store, ANNA, SMTPError(450)):
                subscribers.add("dropped")
            store.set("app", ANNA, "POSTING")
    assert subscribers.committed() == {"outer", "inner"}
    assert contents(store) == {("app", ANNA): "POSTING"}


def test_only_the_inner_conversation_takes_part(
    store: SQLAlchemyStorage, subscribers: Subscribers
) -> None:
    with store.conversation(ANNA):
        with left_with(store, BEN, SMTPError(451)):
            subscribers.add("dropped")
        store.set("app", ANNA, "POSTING")
    assert subscribers.committed() == set()
    with store.conversation(ANNA), store.conversation(BEN):
        subscribers.add("inner")
    assert subscribers.committed() == {"inner"}
    assert contents(store) == {("app", ANNA): "POSTING"}


def test_an_engine_of_the_application(place: Place, subscribers: Subscribers) -> None:
    """Which may have other users: its connections come back as they went."""
    engine = sa.create_engine(place.url, pool_size=2)
    with SQLAlchemyStorage(engine) as store:
        for number in range(3):
            with store.conversation(ANNA):
                subscribers.add(f"outer{number}")
                with left_with(store, ANNA, SMTPError(451)):
                    subscribers.add("dropped")
                with store.conversation(BEN):
                    subscribers.add(f"inner{number}")
                store.set("app", ANNA, f"S{number}")
            with left_with(store, ANNA, SystemExit(1)):
                subscribers.add("dropped")
        with engine.connect() as connection:
            connection.execute(sa.text("DELETE FROM subscribers"))  # and is not committed
    with engine.begin() as connection:
        count = connection.scalar(sa.text("SELECT count(*) FROM subscribers"))
    engine.dispose()
    assert count == 6
    assert subscribers.committed() == {
        f"{layer}{n}" for layer in ("outer", "inner") for n in range(3)
    }


def test_what_a_handler_left_open_is_closed(
    store: SQLAlchemyStorage, subscribers: Subscribers
) -> None:
    """A savepoint that nobody ended does not reach into the next mail."""
    for number in range(3):
        with store.conversation(ANNA) as conversation:
            conversation.connection.begin_nested()
            subscribers.add(str(number))
    assert subscribers.committed() == {"0", "1", "2"}
