"""A store that fails at any moment: what the sending mail server hears, and what is left."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from salmon.queue import Queue
from salmon.routing import route
from salmon.server import SMTPError

from salmon_state import StorageError, StorageUnavailable, attach
from salmon_state.testing.endings import elsewhere
from salmon_state.testing.mails import held_by_another_thread
from salmon_state.testing.suite import contents
from tests.delivery.receivers import Client, Receive
from tests.delivery.router import MODULE, Ring, mail
from tests.faulty import FaultyStorage

# Salmon's own server uses what Salmon's own copy of smtpd deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Access to __rcpttos:DeprecationWarning")

ANNA, BEN = "anna@example.com", "ben@example.com"
UNAVAILABLE = [b"451 4.3.0 State store unavailable, try again later\r\n"]
BUSY = [b"451 4.3.0 Conversation busy, try again later\r\n"]

# By the moment of the failure: the hook that fails, how many of its calls go well before, and
# how many handlers have run by then.
MOMENTS = {
    "the lock": ("_lock", 0, 0),
    "the first read": ("_load", 0, 0),
    "a later read": ("_find", 1, 1),
    "the lock of another sender": ("_lock", 1, 1),
    "the first read of another sender": ("_load", 1, 1),
    "the commit": ("_commit", 0, 1),
}
ERRORS: list[Exception] = [
    OSError("the cause\r\n250 OK é"),
    StorageUnavailable("the cause\r\n250 OK é"),
    StorageError("the cause, damaged\r\n250 OK é"),
    RuntimeError("the cause, odd\r\n250 OK é"),
]


@pytest.fixture
def store(router: Any, caplog: pytest.LogCaptureFixture) -> FaultyStorage:
    """A store that can be made to fail, attached, with one sender in the state ONE."""
    caplog.set_level(logging.DEBUG)
    store = FaultyStorage()
    store.set(MODULE, ANNA, "ONE")
    attach(router, store, lock_timeout=0.05)
    return store


def reading(store: FaultyStorage) -> Any:
    """Returns a handler's part that reads states of others, in and out of a conversation."""

    def read(message: Any, state: str) -> None:
        store.get(MODULE, BEN)
        store.get("app", BEN)
        with store.conversation(BEN):
            store.get(MODULE, BEN)

    return read


def causes(caplog: pytest.LogCaptureFixture) -> int:
    """Returns how many log entries name the cause, traceback included."""
    formatter = logging.Formatter()
    return sum("the cause" in formatter.format(record) for record in caplog.records)


@pytest.mark.parametrize("kind", ["smtp", "lmtp"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_sending_server_keeps_the_mail(
    store: FaultyStorage,
    receive: Receive,
    kind: str,
    moment: str,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hook, after, handlers_run = MOMENTS[moment]
    ring = Ring(reading(store))
    client = receive(kind)
    store.fail(hook, error, after=after)
    assert client.send(ANNA) == UNAVAILABLE
    store.heal()
    assert contents(store) == {(MODULE, ANNA): "ONE"}
    assert len(ring.ran) == handlers_run
    assert causes(caplog) == 1
    check_that_it_goes_on(client, store, ring)


def check_that_it_goes_on(client: Client, store: FaultyStorage, ring: Ring) -> None:
    """On the same connection the mail comes again, and is handled."""
    [answer] = client.send(ANNA)
    assert answer.startswith(b"250")
    assert ring.ran[-1] == (ANNA, "ONE")
    assert contents(store) == {(MODULE, ANNA): "TWO"}


@pytest.mark.parametrize("kind", ["smtp", "lmtp"])
@pytest.mark.parametrize("log_exceptions", [True, False])
def test_a_failure_while_error_is_set(
    router: Any,
    store: FaultyStorage,
    receive: Receive,
    kind: str,
    log_exceptions: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    router.LOG_EXCEPTIONS = log_exceptions
    router.UNDELIVERABLE_QUEUE = Queue(str(tmp_path / "undeliverable"))
    broken = [True]

    def fail(message: Any, state: str) -> None:
        if broken:
            raise ZeroDivisionError

    ring = Ring(fail)
    client = receive(kind)
    store.fail("_commit", OSError("the cause"))
    assert client.send(ANNA) == UNAVAILABLE
    assert contents(store) == {(MODULE, ANNA): "ONE"}
    assert causes(caplog) == 1
    store.heal()
    broken.clear()
    check_that_it_goes_on(client, store, ring)


@pytest.mark.parametrize("kind", ["smtp", "lmtp"])
def test_a_busy_conversation(
    store: FaultyStorage, receive: Receive, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    ring = Ring()
    client = receive(kind)
    with held_by_another_thread(store, ANNA):
        assert client.send(ANNA) == BUSY
    assert ring.ran == []
    assert len([record for record in caplog.records if "same sender" in record.message]) == 1
    check_that_it_goes_on(client, store, ring)


@pytest.mark.parametrize("kind", ["smtp", "lmtp"])
def test_a_state_that_somebody_else_changed(
    store: FaultyStorage, receive: Receive, kind: str
) -> None:
    ring = Ring(lambda message, state: elsewhere(store.set, MODULE, ANNA, "START"))
    client = receive(kind)
    assert client.send(ANNA) == BUSY
    assert contents(store) == {}
    [answer] = client.send(ANNA)
    assert answer.startswith(b"250")
    assert [state for _, state in ring.ran] == ["ONE", "START"]


@pytest.mark.parametrize("kind", ["smtp", "lmtp"])
def test_a_handler_that_hides_the_failure_of_a_read(
    store: FaultyStorage, receive: Receive, kind: str
) -> None:
    """What a handler makes of a failure is its own affair; what was read before still holds."""

    def read(message: Any, state: str) -> None:
        with pytest.raises(StorageUnavailable):
            store.get(MODULE, BEN)
        store.heal()

    Ring(read)
    store.fail("_find", OSError("gone"))
    [answer] = receive(kind).send(ANNA)
    assert answer.startswith(b"250")
    assert contents(store) == {(MODULE, ANNA): "TWO"}


@pytest.mark.parametrize("kind", ["smtp", "lmtp"])
def test_what_a_handler_answers_is_heard(store: FaultyStorage, receive: Receive, kind: str) -> None:
    @route("refused@(host)", host=".+")
    def START(message: Any, host: str) -> Any:  # noqa: N802
        raise SMTPError(550, "5.7.1 No")

    assert receive(kind).send(ANNA, "refused@x") == [b"550 5.7.1 No\r\n"]


@pytest.mark.parametrize("kind", ["smtp", "lmtp"])
def test_mail_that_matches_nobody(
    router: Any, store: FaultyStorage, receive: Receive, kind: str, tmp_path: Path
) -> None:
    router.UNDELIVERABLE_QUEUE = Queue(str(tmp_path / "undeliverable"))
    [answer] = receive(kind).send(ANNA, "nobody@x")
    assert answer.startswith(b"250")
    assert len(router.UNDELIVERABLE_QUEUE) == 1


def test_a_damaged_entry_is_an_error_that_an_operator_can_mend(
    router: Any, store: FaultyStorage
) -> None:
    Ring()
    store.fail("_load", StorageError("damaged entry"))
    with pytest.raises(StorageUnavailable) as caught:
        router.deliver(mail(ANNA))
    assert caught.value.detail == "damaged entry"
    assert isinstance(caught.value.__cause__, StorageError)
