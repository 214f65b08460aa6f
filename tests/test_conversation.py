"""Conversations: of stores that can do less, and of stores that fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from salmon.server import SMTPError

from salmon_state import (
    ConversationBusy,
    MemoryStorage,
    StateStorage,
    StorageError,
    StorageUnavailable,
    current_conversation,
)
from salmon_state.backend import Lock, UnitOfWork
from salmon_state.entries import Entry, Kind, Want, Write
from salmon_state.keys import Sender
from salmon_state.testing.endings import elsewhere, left_with, refused
from salmon_state.testing.mails import can_enter, fork_inside, held_by_another_thread
from salmon_state.testing.processes import store_processes
from salmon_state.testing.suite import contents
from tests.faulty import FaultyStorage

ANNA, BEN = "anna@example.com", "ben@example.com"


class DocumentedStorage(StateStorage):
    """What Salmon's documentation teaches."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, Sender], str] = {}

    def get(self, module: str, sender: Sender) -> str:
        return self.states.get((module, sender), "START")

    def set(self, module: str, sender: Sender, state: str) -> None:
        self.states[module, sender] = state

    def clear(self) -> None:
        self.states.clear()


# ---------------------------------------------------------------- stores that can do less


def test_a_store_with_get_set_and_clear_has_the_lock() -> None:
    store = DocumentedStorage()
    with store.conversation(ANNA):
        store.set("app", ANNA, "ONE")
        assert elsewhere(store.get, "app", ANNA) == "ONE"  # it writes at once
        assert elsewhere(can_enter, store, [ANNA, BEN]) == [False, True]
        with store.conversation(ANNA), store.conversation(BEN), store.conversation(None):
            assert store.get("app", ANNA) == "ONE"
    assert elsewhere(can_enter, store, [ANNA, BEN]) == [True, True]


def test_a_store_with_get_set_and_clear_says_what_it_cannot() -> None:
    store = DocumentedStorage()
    calls: list[Callable[[], object]] = [
        lambda: store.set_all(ANNA, "ONE"),
        lambda: store.set_all(BEN, "ONE"),
        lambda: store.compare_and_set("app", ANNA, "START", "ONE"),
        lambda: store.compare_and_set("app", BEN, "START", "ONE"),
        lambda: list(store.records()),
        lambda: store.conversation(ANNA).add(Write(Kind.HANDLED, ANNA, "mail", b"", 0)),
        lambda: store.conversation(ANNA).find(Kind.HANDLED, ANNA, "mail"),
    ]
    for call in calls:
        with pytest.raises(NotImplementedError, match="DocumentedStorage cannot"):
            call()
        with store.conversation(ANNA), pytest.raises(NotImplementedError, match="Documented"):
            call()
    assert store.states == {}


def test_a_store_without_a_database_has_no_connection() -> None:
    for store in (MemoryStorage(), DocumentedStorage()):
        with (
            store.conversation(ANNA) as conversation,
            pytest.raises(NotImplementedError, match=f"{type(store).__name__} has no database"),
        ):
            assert conversation.connection


def test_a_child_of_a_process_with_states_in_memory() -> None:
    """It has a copy of the states, and nobody who could give the sender's lock back."""
    with store_processes(MemoryStorage, 1) as (other,):
        assert other.call(fork_inside, ANNA) == ("None START True True", 0)


def test_what_an_inner_conversation_removed_is_not_moved_by_it() -> None:
    store = MemoryStorage()
    with store.conversation(ANNA):
        store.set("app", BEN, "ONE")
        with store.conversation(ANNA):
            store.set("app", BEN, "START")
            assert store.set_all(BEN, "TWO") == 0
            assert store.get("app", BEN) == "START"
    assert contents(store) == {}


# ---------------------------------------------------------------- what is no state


def test_what_a_handler_that_failed_wanted_to_send_is_dropped() -> None:
    store = MemoryStorage()
    outgoing = [Write(kind, ANNA, "mail", b"hello", 0) for kind in (Kind.OUTGOING, Kind.BODY)]
    mark = Write(Kind.HANDLED, ANNA, "mail", b"", 0)
    with store.conversation(ANNA) as outer:
        outer.add(outgoing[0])
        with suppress(ValueError), store.conversation(ANNA) as inner:
            inner.add(outgoing[1])
            inner.add(mark)
            raise ValueError("a handler broke")
        assert outer.find(Kind.OUTGOING, ANNA, "mail") == b"hello"
        assert outer.find(Kind.BODY, ANNA, "mail") is None
        outer.fail()
    assert [store._count(kind) for kind in (Kind.OUTGOING, Kind.BODY, Kind.HANDLED)] == [0, 0, 1]


def test_a_cleared_store_has_no_marks_either() -> None:
    store = MemoryStorage()
    store._commit([Write(Kind.HANDLED, ANNA, "mail", b"", 0)])
    with store._converse(ANNA, 0, [(Kind.HANDLED, "mail")]) as conversation:
        assert conversation.find(Kind.HANDLED, ANNA, "mail") == b""
        store.clear()
        assert conversation.find(Kind.HANDLED, ANNA, "mail") is None


# ---------------------------------------------------------------- more than one store


def test_stores_know_nothing_of_each_other() -> None:
    one, two = MemoryStorage(), MemoryStorage()
    with one.conversation(ANNA) as first:
        one.set("app", ANNA, "ONE")
        two.set("app", ANNA, "OUTSIDE")
        with two.conversation(ANNA) as second:
            assert current_conversation() is second
            two.set("app", ANNA, "TWO")
            assert one.get("app", ANNA) == "ONE"
        assert current_conversation() is first
        assert contents(two) == {("app", ANNA): "TWO"}
    assert contents(one) == {("app", ANNA): "ONE"}


def test_a_conversation_with_one_store_is_dropped_without_the_other() -> None:
    one, two = MemoryStorage(), MemoryStorage()
    with one.conversation(ANNA):
        with left_with(two, ANNA, SMTPError(451)):
            one.set("app", ANNA, "ONE")
            two.set("app", ANNA, "TWO")
        assert current_conversation() is not None
    assert (contents(one), contents(two)) == ({("app", ANNA): "ONE"}, {})


# ---------------------------------------------------------------- stores that fail


@pytest.mark.parametrize("hook", ["_lock", "_load"])
@pytest.mark.parametrize("error", [OSError("gone"), StorageUnavailable("gone"), KeyError("odd")])
def test_a_failure_on_entering(
    hook: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store = FaultyStorage()
    store.fail(hook, error)
    with pytest.raises(StorageError, match=r"gone|odd|unavailable"), store.conversation(ANNA):
        raise AssertionError("it was entered")
    assert current_conversation() is None
    assert len(caplog.records) == 1
    store.heal()
    assert elsewhere(can_enter, store, [ANNA]) == [True]


def test_a_failure_of_the_commit_leaves_everything_as_it_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FaultyStorage()
    store.set("app", ANNA, "ONE")
    with refused(store, ANNA, StorageUnavailable):
        store.set("app", ANNA, "TWO")
        store.set("new", ANNA, "TWO")
        store.set_all(BEN, "TWO")
        store.fail("_commit", OSError("disk full"))
    store.heal()
    assert contents(store) == {("app", ANNA): "ONE"}
    assert [record.getMessage() for record in caplog.records] == [
        f"{store!r}: OSError: disk full",
    ]
    assert elsewhere(can_enter, store, [ANNA]) == [True]


def test_a_failure_of_a_read_of_somebody_else() -> None:
    store = FaultyStorage()
    with store.conversation(ANNA):
        store.set("app", ANNA, "ONE")
        store.fail("_find", OSError("gone"))
        assert store.get("app", ANNA) == "ONE"  # from the snapshot
        with pytest.raises(StorageUnavailable):
            store.get("app", BEN)
        with pytest.raises(StorageUnavailable):
            store.compare_and_set("app", BEN, "START", "TWO")
        store.heal()
    assert contents(store) == {("app", ANNA): "ONE"}


def test_nothing_to_commit_needs_no_store() -> None:
    store = FaultyStorage()
    with store.conversation(ANNA):
        store.fail("_commit", OSError("gone"))


class _Stuck(UnitOfWork):
    """Cannot give its lock back."""

    def enter(self, sender: Sender, timeout: float, wants: Sequence[Want]) -> list[Entry]:
        entries = super().enter(sender, timeout, wants)
        self._locks = (Lock(self._fail), *self._locks, Lock(self._fail))
        return entries

    def _fail(self) -> None:
        raise OSError("no lock file")


class StuckStorage(MemoryStorage):
    def _begin(self) -> UnitOfWork:
        return _Stuck(self)


@pytest.mark.parametrize("error", [SystemExit(3), SMTPError(451), SMTPError(550), ValueError()])
def test_a_lock_that_cannot_be_given_back_hides_no_error(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    store = StuckStorage()
    with left_with(store, ANNA, error):
        store.set("app", ANNA, "ONE")
    assert "no lock file" in caplog.text
    assert elsewhere(can_enter, store, [ANNA]) == [True]  # the others were given back


def test_a_lock_that_cannot_be_given_back_undoes_no_commit() -> None:
    store = StuckStorage()
    with store.conversation(ANNA):
        store.set("app", ANNA, "ONE")
    assert contents(store) == {("app", ANNA): "ONE"}


def test_the_log_tells_busy_from_broken(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStorage()
    with (
        held_by_another_thread(store, ANNA),
        pytest.raises(ConversationBusy),
        store.conversation(ANNA, timeout=0.01),
    ):
        raise AssertionError("it was entered")
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "another mail of the same sender was in hand for 0.01 s" in record.getMessage()
