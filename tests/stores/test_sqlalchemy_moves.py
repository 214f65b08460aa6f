"""`set_all` beside others who write: it happens at one moment, wherever it must wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from salmon_state import ConversationBusy, SQLAlchemyStorage
from salmon_state.entries import Kind, Write
from salmon_state.stores.encoding import name_digest, sender_digest
from salmon_state.testing.suite import contents
from tests.stores.sqlalchemy_places import HANG, Place, eventually

SENDER = "anna@example.com"
FIRST, NEW, MIDDLE, LAST = sorted(("one", "two", "three", "four"), key=name_digest)
"""Modules in the order in which their rows lie."""


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Any]]]:
    """What does something in a thread of its own."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit


@contextmanager
def middle_row_held(served: Place) -> Iterator[None]:
    """Gives a block in which somebody else has locked one of the sender's rows."""
    with served.administrator() as cursor:
        begin, parameters = "BEGIN", (sender_digest(SENDER), name_digest(MIDDLE))
        cursor.execute(begin)
        cursor.execute(
            "SELECT state FROM salmon_state WHERE sender_digest = %s AND module_digest = %s "
            "FOR UPDATE",
            parameters,
        )
        yield
        cursor.execute("ROLLBACK")


def move(store: SQLAlchemyStorage) -> None:
    assert store.set_all(SENDER, "MOVED") >= 3


def move_in_a_conversation(store: SQLAlchemyStorage) -> None:
    """A bounce handler's: the mail comes from a daemon, which has a state of its own."""
    with store.conversation("daemon@example.com"):
        store.set_all(SENDER, "MOVED")
        store.set("app", "daemon@example.com", "BOUNCING")


@pytest.mark.parametrize("moving", [move, move_in_a_conversation])
@pytest.mark.parametrize("turn", [1, 0])
def test_others_write_while_it_waits_for_a_row(
    served: Place,
    served_store: SQLAlchemyStorage,
    background: Callable[..., Future[Any]],
    moving: Callable[[SQLAlchemyStorage], None],
    turn: int,
) -> None:
    """Somebody makes a row, then changes an old one: if that one is moved, so is the new one."""
    store = served_store
    for module in (FIRST, MIDDLE, LAST):
        store.set(module, SENDER, "BEFORE")

    def write() -> None:
        store.set(NEW, SENDER, "NEW")
        store.set((FIRST, LAST)[turn], SENDER, "OLD")

    with middle_row_held(served):
        mover = background(moving, store)
        eventually(lambda: len(served.waiting()) == 1)
        writer = background(write)
        eventually(lambda: writer.done() or len(served.waiting()) == 2)
    mover.result(HANG)
    writer.result(HANG)
    states = contents(store, sender=SENDER)
    assert states[MIDDLE, SENDER] == "MOVED"
    if states[(FIRST, LAST)[turn], SENDER] == "MOVED":
        assert states[NEW, SENDER] == "MOVED"


@pytest.mark.parametrize("turn", [1, 0])
def test_a_state_that_a_mail_changes_while_all_are_moved(
    served: Place,
    served_store: SQLAlchemyStorage,
    background: Callable[..., Future[Any]],
    turn: int,
) -> None:
    """That needs no lock of its own: it is moved afterwards, or the mail comes again."""
    store, changed = served_store, (FIRST, LAST)[turn]
    for module in (FIRST, MIDDLE, LAST):
        store.set(module, SENDER, "BEFORE")

    def handle() -> None:
        with suppress(ConversationBusy), store.conversation(SENDER, timeout=HANG):
            store.set(changed, SENDER, "CHANGED")

    with middle_row_held(served):
        mover = background(store.set_all, SENDER, "MOVED")
        eventually(lambda: len(served.waiting()) == 1)
        mail = background(handle)
        eventually(lambda: mail.done() or len(served.waiting()) == 2)
    assert mover.result(HANG) == 3
    mail.result(HANG)
    assert set(contents(store, sender=SENDER).values()) == {"MOVED"}


def test_bounces_of_many_meet(served_store: SQLAlchemyStorage) -> None:
    """Conversations that move others and make rows beside them never deadlock."""
    store = served_store
    with ThreadPoolExecutor(8) as pool:

        def bounce(number: int) -> None:
            for step in range(10):
                with store.conversation(f"daemon{number}.{step}@x", timeout=HANG):
                    for other in {number, (number * 3 + step) % 8, (step * 5) % 8}:
                        store.set_all(f"{other}@x", "BOUNCING")
                        store.set("app", f"{other}.{number}.{step}@x", "NEW")
                    store.set("app", f"daemon{number}.{step}@x", "BOUNCING")
                store.set(f"app{step}", f"{number}@x", "POSTING")

        list(pool.map(bounce, range(8)))
    assert len(contents(store, state="BOUNCING")) >= 80


def test_more_senders_than_a_server_has_locks_for(served_store: SQLAlchemyStorage) -> None:
    store = served_store
    senders = [f"{number}@x" for number in range(12_000)]
    store._commit(Write(Kind.STATE, sender, "app", "A", 1) for sender in senders)
    with store.conversation("list@example.com"):
        for sender in senders:
            store.set("app", sender, "B")
    assert len(list(store.records(state="B"))) == len(senders)
    assert store.rename("app", "B", "C") == len(senders)


def test_a_state_that_is_made_anew_while_somebody_waits_for_its_row(
    served: Place, served_store: SQLAlchemyStorage, background: Callable[..., Future[Any]]
) -> None:
    """As `set_all` to START and then `set` do in one commit: it was in this state all the time."""
    served_store.set(FIRST, SENDER, "SAME")
    with served.administrator() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM salmon_state")
        row = cursor.fetchone()
        cursor.execute("DELETE FROM salmon_state")
        cursor.execute(f"INSERT INTO salmon_state VALUES ({', '.join(['%s'] * len(row))})", row)
        step = background(served_store.compare_and_set, FIRST, SENDER, "SAME", "NEXT")
        eventually(lambda: len(served.waiting()) == 1)
        cursor.execute("COMMIT")
    assert step.result(HANG) is True
    assert contents(served_store) == {(FIRST, SENDER): "NEXT"}
