"""Leases: the lock that a store has by default, made of its entries."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from salmon_state import ConversationBusy, StorageUnavailable
from salmon_state.entries import Entry, Kind
from salmon_state.testing.endings import refused
from salmon_state.testing.mails import can_enter, held_by_another_thread
from salmon_state.testing.processes import PATIENCE
from salmon_state.testing.suite import contents
from tests.testing.right_stores import TableStorage

MODULE = "app.handlers"
SENDER = "anna@example.com"


@pytest.fixture
def open_table(tmp_path: Path) -> Iterator[Callable[[], TableStorage]]:
    opened: list[TableStorage] = []

    def open_one() -> TableStorage:
        opened.append(TableStorage(str(tmp_path / "states.db")))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def lease(store: TableStorage) -> Entry:
    [entry] = store._load(SENDER, [(Kind.LEASE, "")])
    return entry


def an_hour_later() -> int:
    return time.time_ns() // 1000 + 3_600_000_000


def test_a_lease_is_there_while_the_conversation_is(
    open_table: Callable[[], TableStorage],
) -> None:
    store = open_table()
    with store.conversation(SENDER):
        assert lease(store).at
        assert can_enter(open_table(), [SENDER, "ben@example.com"]) == [False, True]
    assert store._count(Kind.LEASE) == 0


def test_a_thread_waits_for_another_of_its_process_without_asking_the_store(
    open_table: Callable[[], TableStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_table()
    asked: list[object] = []
    with held_by_another_thread(store, SENDER), monkeypatch.context() as patch:
        patch.setattr(store, "_load", asked.append)
        patch.setattr(store, "_commit", asked.append)
        with pytest.raises(ConversationBusy):
            store.conversation(SENDER, timeout=0.01).__enter__()
    assert asked == []


def test_a_lease_that_ended_is_somebody_elses(open_table: Callable[[], TableStorage]) -> None:
    slow, other = open_table(), open_table()
    other._clock = an_hour_later
    with refused(slow, SENDER):
        slow.set(MODULE, SENDER, "SLOW")
        with other.conversation(SENDER, timeout=0):
            other.set("another", SENDER, "OTHER")
    assert contents(slow) == {("another", SENDER): "OTHER"}


def test_whoever_lost_a_lease_leaves_the_new_one_alone(
    open_table: Callable[[], TableStorage],
) -> None:
    slow, other = open_table(), open_table()
    other._clock = an_hour_later
    with ExitStack() as held:
        with slow.conversation(SENDER):
            held.enter_context(held_by_another_thread(other, SENDER))
            theirs = lease(other)
        assert lease(other) == theirs
    assert other._count(Kind.LEASE) == 0


def test_a_lease_is_extended_while_it_is_held(open_table: Callable[[], TableStorage]) -> None:
    holder, other = open_table(), open_table()
    holder.lease_seconds = 3.0
    with holder.conversation(SENDER):
        first = lease(other)
        deadline = time.monotonic() + PATIENCE
        while (extended := lease(other)).at == first.at and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (extended.at or 0) > (first.at or 0)
        assert extended.value == first.value
        other._clock = lambda: first.at or 0  # when it would have ended
        assert can_enter(other, [SENDER]) == [False]
        holder.set(MODULE, SENDER, "POSTING")
    assert contents(other) == {(MODULE, SENDER): "POSTING"}


def test_a_lease_that_no_thread_would_extend_is_given_back(
    open_table: Callable[[], TableStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may have one for the next mail, whose lease is extended then."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = open_table()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StorageUnavailable):
            store.conversation(SENDER).__enter__()
    with store.conversation(SENDER, timeout=0):
        assert store._entry_leases._thread in threading.enumerate()


def test_clearing_keeps_the_leases_of_its_own_process(
    open_table: Callable[[], TableStorage],
) -> None:
    store, other = open_table(), open_table()
    with store.conversation(SENDER):
        store.clear()
        assert can_enter(other, [SENDER]) == [False]
        store.set(MODULE, SENDER, "POSTING")
    assert contents(store) == {(MODULE, SENDER): "POSTING"}


def test_clearing_takes_the_leases_of_others(open_table: Callable[[], TableStorage]) -> None:
    store, other = open_table(), open_table()
    with refused(store, SENDER):
        store.set(MODULE, SENDER, "POSTING")
        other.clear()
    assert contents(store) == {}


def test_a_lease_says_whose_it_is(open_table: Callable[[], TableStorage]) -> None:
    first, second = open_table(), open_table()
    with first.conversation("anna@x"):
        (found,) = second.diagnose()
        assert (found.check, found.advice) == ("locks", "")
        assert f"'anna@x' is held by process {os.getpid()} on " in found.text
        second._clock = an_hour_later
        assert not list(second.diagnose())  # by then it has ended
    assert not list(first.diagnose())
