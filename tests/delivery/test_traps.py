"""Handlers that do what a conversation is easily broken by."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from salmon.routing import route, stateless
from salmon.server import SMTPError

from salmon_state import (
    ConversationBusy,
    StateStorage,
    attach,
)
from salmon_state.testing.endings import elsewhere
from salmon_state.testing.mails import can_enter
from salmon_state.testing.suite import contents
from salmon_state.testing.threads import run_together
from tests.delivery.router import MODULE, Ring, mail
from tests.faulty import FaultyStorage

ANNA, BEN = "anna@example.com", "ben@example.com"
HANG = 60.0


@pytest.fixture
def store(router: Any) -> StateStorage:
    """An empty store, attached."""
    store = FaultyStorage()
    attach(router, store, lock_timeout=0.2)
    return store


def once(action: Callable[[], object]) -> Callable[[Any, str], None]:
    """Returns what does something in the first handler that runs, and never again."""
    left = [action]

    def before(message: Any, state: str) -> None:
        if left:
            left.pop()()

    return before


# ---------------------------------------------------------------- Router.deliver in a handler


def test_another_mail_of_the_same_sender(router: Any, store: StateStorage) -> None:
    ring = Ring(once(lambda: router.deliver(mail(ANNA))))
    router.deliver(mail(ANNA))
    # The inner mail found START as well: the outer handler had not returned yet.
    assert ring.ran == [(ANNA, "START"), (ANNA, "START")]
    assert contents(store) == {(MODULE, ANNA): "ONE"}
    assert elsewhere(can_enter, store, [ANNA]) == [True]


def test_a_mail_of_another_sender(router: Any, store: StateStorage) -> None:
    seen: list[dict[Any, str]] = []

    def forward() -> None:
        router.deliver(mail(BEN))
        assert store.get(MODULE, BEN) == "ONE"
        seen.append(elsewhere(contents, store))

    ring = Ring(once(forward))
    router.deliver(mail(ANNA))
    assert ring.ran == [(ANNA, "START"), (BEN, "START")]
    assert seen == [{}]  # both are committed together
    assert contents(store) == {(MODULE, ANNA): "ONE", (MODULE, BEN): "ONE"}


def test_a_mail_of_another_sender_comes_again_with_the_outer_one(
    router: Any, store: StateStorage
) -> None:
    def forward() -> None:
        router.deliver(mail(BEN))
        raise SMTPError(451, "later")

    ring = Ring(once(forward))
    with pytest.raises(SMTPError):
        router.deliver(mail(ANNA))
    assert contents(store) == {}
    router.deliver(mail(ANNA))
    assert ring.ran == [(ANNA, "START"), (BEN, "START"), (ANNA, "START")]


def test_an_inner_mail_that_fails_is_dropped_alone(router: Any, store: StateStorage) -> None:
    def forward() -> None:
        with pytest.raises(SMTPError):
            router.deliver(mail(BEN, "refuse@x"))

    Ring(once(forward))

    @route("refuse@(host)", host=".+")
    def START(message: Any, host: str) -> Any:  # noqa: N802
        store.set("app", BEN, "HALF")
        raise SMTPError(451, "later")

    router.deliver(mail(ANNA))
    assert contents(store) == {(MODULE, ANNA): "ONE"}


def test_two_threads_that_want_each_others_sender(router: Any, store: StateStorage) -> None:
    """Both hold their own sender's lock, and nothing of Salmon's keeps them apart."""
    inside, tried = threading.Barrier(2), threading.Barrier(2)

    def cross(message: Any, state: str) -> None:
        inside.wait(HANG)
        try:
            router.deliver(mail({ANNA: BEN, BEN: ANNA}[message.From]))
        finally:
            tried.wait(HANG)

    Ring(cross, locking=False)

    def deliver(sender: str) -> str:
        with pytest.raises(ConversationBusy) as caught:
            router.deliver(mail(sender))
        return str(caught.value)

    answers = run_together([lambda: deliver(ANNA), lambda: deliver(BEN)])
    assert answers == ["451 4.3.0 Conversation busy, try again later"] * 2
    assert contents(store) == {}
    assert can_enter(store, [ANNA, BEN]) == [True, True]


def test_a_thread_that_waits_for_the_call_lock(router: Any) -> None:
    """One holds its sender's lock and waits for Salmon's call_lock, whose holder wants the first
    one's sender: the deadlock of a lock without a timeout."""
    ben_is_locked, anna_is_inside = threading.Event(), threading.Event()

    class Announcing(FaultyStorage):
        def _load(self, sender: str | None, wants: Any) -> Any:
            if sender == BEN:
                ben_is_locked.set()
            return super()._load(sender, wants)

    store = Announcing()
    attach(router, store)

    def handle(message: Any, state: str) -> None:
        if message.From == ANNA:
            anna_is_inside.set()
            assert ben_is_locked.wait(HANG)
            router.deliver(mail(BEN))

    ring = Ring(handle)

    def deliver_anna() -> None:
        with pytest.raises(ConversationBusy):
            router.deliver(mail(ANNA))

    def deliver_ben() -> None:
        assert anna_is_inside.wait(HANG)
        router.deliver(mail(BEN))

    run_together([deliver_anna, deliver_ben])
    assert ring.ran == [(ANNA, "START"), (BEN, "START")]
    assert contents(store) == {(MODULE, BEN): "ONE"}


# ---------------------------------------------------------------- handlers that meddle


def test_a_handler_that_rewrites_the_sender(router: Any, store: StateStorage) -> None:
    @route("(any)@(host)", any=".+", host=".+")
    @stateless
    def rewrite(message: Any, **_: str) -> None:
        message.From = BEN

    ring = Ring()
    for _ in range(2):
        router.deliver(mail(ANNA))
    assert ring.ran == [(BEN, "START"), (BEN, "ONE")]
    assert contents(store) == {(MODULE, BEN): "TWO"}
    assert elsewhere(can_enter, store, [ANNA, BEN]) == [True, True]


def test_a_stateless_handler_that_changes_the_state(router: Any, store: StateStorage) -> None:
    """Salmon asks for the state lazily: the function that runs is the one of the new state."""

    @route("(any)@(host)", any=".+", host=".+")
    @stateless
    def promote(message: Any, **_: str) -> None:
        router.set_state(MODULE, message, "TWO")

    ring = Ring()
    router.deliver(mail(ANNA))
    assert ring.ran == [(ANNA, "TWO")]
    assert contents(store) == {}  # TWO led to START


def test_a_bounce_moves_a_sender_whose_mail_is_in_hand(router: Any, store: StateStorage) -> None:
    bounced: list[int] = []

    @route("bounces@(host)", host=".+")
    @stateless
    def bounce(message: Any, host: str) -> None:
        bounced.append(store.set_all(ANNA, "TWO"))

    ring = Ring(locking=False)
    router.deliver(mail(ANNA))
    ring.before = once(lambda: elsewhere(router.deliver, mail(None, "bounces@x")))
    with pytest.raises(ConversationBusy):
        router.deliver(mail(ANNA))
    assert bounced == [1]
    assert contents(store) == {(MODULE, ANNA): "TWO"}
    router.deliver(mail(ANNA))  # which comes again
    assert ring.ran == [(ANNA, "START"), (ANNA, "ONE"), (ANNA, "TWO")]


def test_clear_states_inside(router: Any, store: StateStorage) -> None:
    ring = Ring()
    router.deliver(mail(ANNA))
    router.deliver(mail(BEN))
    ring.before = once(router.clear_states)
    router.deliver(mail(ANNA))
    assert contents(store) == {(MODULE, ANNA): "TWO"}


def test_clear_states_beside(router: Any, store: StateStorage) -> None:
    ring = Ring()
    router.deliver(mail(ANNA))
    ring.before = once(lambda: elsewhere(router.clear_states))
    with pytest.raises(ConversationBusy):
        router.deliver(mail(ANNA))
    assert contents(store) == {}
    router.deliver(mail(ANNA))
    assert ring.ran == [(ANNA, "START"), (ANNA, "ONE"), (ANNA, "START")]


def test_clear_states_while_everybody_writes(router: Any, store: StateStorage) -> None:
    """It holds Router.lock; conversations hold senders' locks and call_lock: nobody waits."""
    Ring()

    def write(sender: str) -> None:
        for _ in range(30):
            try:
                router.deliver(mail(sender))
            except ConversationBusy:
                continue

    def clear() -> None:
        for _ in range(30):
            router.clear_states()
            router.reload()

    run_together([lambda: write(ANNA), lambda: write(BEN), lambda: write(ANNA), clear])
    assert can_enter(store, [ANNA, BEN]) == [True, True]
