"""Handlers that raise, answer for themselves, or end the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from salmon.mail import MailRequest
from salmon.queue import Queue
from salmon.routing import route, stateless
from salmon.server import SMTPError

from salmon_state import (
    MemoryStorage,
    StateStorage,
    attach,
    current_conversation,
)
from salmon_state.testing.endings import elsewhere
from salmon_state.testing.mails import can_enter
from salmon_state.testing.suite import contents
from tests.delivery.router import MODULE, Ring, mail
from tests.faulty import FaultyStorage

ANNA = "anna@example.com"


@pytest.fixture
def store(router: Any) -> StateStorage:
    """An empty store, attached."""
    store = FaultyStorage()
    attach(router, store)
    return store


@pytest.mark.parametrize("log_exceptions", [True, False])
@pytest.mark.parametrize("undeliverable", [True, False])
def test_a_handler_that_raises(
    router: Any, store: StateStorage, log_exceptions: bool, undeliverable: bool, tmp_path: Path
) -> None:
    router.LOG_EXCEPTIONS = log_exceptions
    queue = Queue(str(tmp_path / "undeliverable"))
    router.UNDELIVERABLE_QUEUE = queue if undeliverable else None

    def fail(message: Any, state: str) -> None:
        store.set("app", ANNA, "HALF")
        raise ZeroDivisionError

    ring = Ring(fail)
    if log_exceptions:
        router.deliver(mail(ANNA))
    else:
        with pytest.raises(ZeroDivisionError):
            router.deliver(mail(ANNA))
    assert contents(store) == {(MODULE, ANNA): "ERROR", ("app", ANNA): "HALF"}
    assert len(queue) == undeliverable
    assert elsewhere(can_enter, store, [ANNA]) == [True]
    assert len(ring.ran) == 1


def test_a_stateless_handler_that_raises(router: Any, store: StateStorage) -> None:
    @route("(any)@(host)", any=".+", host=".+")
    @stateless
    def fail(message: Any, **_: str) -> None:
        raise ZeroDivisionError

    router.deliver(mail(ANNA))
    assert contents(store) == {(fail.__module__, ANNA): "ERROR"}


@pytest.mark.parametrize(("code", "kept"), [(250, True), (451, False), (499, False), (550, True)])
def test_a_handler_that_answers(router: Any, store: StateStorage, code: int, kept: bool) -> None:
    def answer(message: Any, state: str) -> None:
        store.set("app", ANNA, "SET")
        raise SMTPError(code, "because")

    Ring(answer)
    with pytest.raises(SMTPError) as caught:
        router.deliver(mail(ANNA))
    assert str(caught.value) == f"{code} because"
    assert contents(store) == ({("app", ANNA): "SET"} if kept else {})


@pytest.mark.parametrize("end", [SystemExit(1), KeyboardInterrupt()])
def test_a_handler_that_ends_the_process(
    router: Any, store: StateStorage, end: BaseException
) -> None:
    def leave(message: Any, state: str) -> None:
        store.set("app", ANNA, "HALF")
        raise end

    Ring(leave)
    with pytest.raises(type(end)) as caught:
        router.deliver(mail(ANNA))
    assert caught.value is end
    assert contents(store) == {}
    assert current_conversation() is None
    assert elsewhere(can_enter, store, [ANNA]) == [True]


@pytest.mark.parametrize("sender", ["o'neil@x", "\udcff@x", "a\0b@x", "a" * 100_000, "é@x"])
def test_whoever_writes(router: Any, sender: str) -> None:
    store = MemoryStorage()
    attach(router, store)
    ring = Ring()
    message: Any = MailRequest(("127.0.0.1", 25), ANNA, "ring@x", "To: ring@x\n\nhi\n")
    message.From = sender
    router.deliver(message)
    router.deliver(message)
    assert [state for _, state in ring.ran] == ["START", "ONE"]
    assert contents(store) == {(MODULE, sender): "TWO"}
