"""Confirmations: Salmon's engine with its secrets and its pending mails in a store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from salmon.confirm import ConfirmationEngine
from salmon.mail import MailRequest
from salmon.routing import MemoryStorage as SalmonMemory
from salmon.routing import route, route_like
from salmon.server import SMTPError

from salmon_state import (
    ConfigurationError,
    Confirmations,
    MemoryStorage,
    StateStorage,
    StorageError,
    attach,
    open_storage,
)
from salmon_state.entries import Kind, Write
from salmon_state.testing.endings import elsewhere, left_with, refused
from salmon_state.testing.keys import HOSTILE_KEYS
from salmon_state.testing.suite import NOON, contents, everything, set_clock
from tests.delivery.router import mail
from tests.redis_services import fresh_prefix
from tests.services import fresh_url

# Salmon's queue leaves the closing of its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

ANNA, BEN = "anna@example.com", "ben@example.com"
NOTHING = (None, None)
RAW = b"From: Anna <anna@example.com>\nTo: x\nX-Odd: \xe9 \xff\n\nhello\n\nFrom the end"


@pytest.fixture(params=["memory", "shelve", "sqlite", "postgresql", "mariadb", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStorage]:
    """An empty store of each kind."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url()
        with open_storage(url, prefix=fresh_prefix()) as store:
            yield store
        return
    with open_storage(fresh_url(request, request.param, tmp_path)) as store:
        yield store


@pytest.fixture
def memory() -> MemoryStorage:
    return MemoryStorage()


def request(sender: Any = ANNA, data: bytes = RAW) -> Any:
    message = MailRequest(("127.0.0.1", 25), None, "subscribe@x", data)
    message.From = sender
    return message


# ---------------------------------------------------------------- over every store


def test_what_is_stored_is_found_until_it_is_deleted(store: StateStorage) -> None:
    confirmations = Confirmations(store)
    assert confirmations.get("subscribe", ANNA) == NOTHING
    confirmations.delete("subscribe", ANNA)
    for secret in ("one", "two"):  # there is one, and no more
        confirmations.store("subscribe", ANNA, secret, "1")
        assert confirmations.get("subscribe", ANNA) == (secret, "1")
    confirmations.store("post", ANNA, "three", None)
    confirmations.delete("subscribe", ANNA)
    assert confirmations.get("subscribe", ANNA) == NOTHING
    assert confirmations.get("post", ANNA) == ("three", None)
    assert confirmations.get("post", BEN) == NOTHING
    confirmations.clear()
    assert confirmations.get("post", ANNA) == NOTHING
    assert contents(store) == {}


def test_any_characters(store: StateStorage) -> None:
    confirmations = Confirmations(store)
    for number, (target, address) in enumerate(HOSTILE_KEYS):
        confirmations.store(target, address, f"{number} {target}", target)
    for number, (target, address) in enumerate(HOSTILE_KEYS):
        assert confirmations.get(target, address) == (f"{number} {target}", target)


def test_a_pending_mail_comes_back_as_it_was(store: StateStorage) -> None:
    pending = Confirmations(store).pending
    keys = [pending.push(request(sender)) for sender in (ANNA, None, "Ö <\udcff@x>")]
    for key, sender in zip(keys, (ANNA, None, "Ö <\udcff@x>"), strict=True):
        found: Any = pending.get(key)
        assert (found.Data, found.To) == (RAW, "subscribe@x")
        assert found.From == (sender or "Anna <anna@example.com>")
        pending.remove(key)
        pending.remove(key)
        assert pending.get(key) is None


def test_the_engine_in_conversations(router: Any, store: StateStorage) -> None:
    """From the request to the confirmation, each in the commit of its mail."""
    attach(router, store, once_within=timedelta(days=7))
    engine = Confirmations(store).engine()
    addresses: list[str] = []
    originals: list[Any] = []
    failures: list[int] = [451, 451]

    @route("(what)@(host)", what="subscribe|subscribe-confirm-.*", host=".+")
    def START(message: Any, what: str, host: str) -> Any:  # noqa: N802
        addresses.append(engine.register("subscribe", message))
        fail()
        return CONFIRMING

    @route_like(START)
    def CONFIRMING(message: Any, what: str, host: str) -> Any:  # noqa: N802
        secret = what.rpartition("-")[2]
        original = engine.verify("subscribe", message.From, secret)
        fail()
        originals.append(original)
        return START if original else None

    def fail() -> None:
        if failures:
            raise SMTPError(failures.pop())

    def come(to: str) -> None:
        message = mail(ANNA, f"{to}@x", "hello")
        if failures:
            with pytest.raises(SMTPError):
                router.deliver(message)
            failures.clear()
        router.deliver(message)

    come("subscribe")
    assert len(addresses) == 2
    assert len(everything(store, Kind.CONFIRMATION)) == 2  # the secret and the mail, once
    come(addresses[0])
    assert originals.pop() is None
    failures.append(451)
    come(addresses[1])  # whose secret the first try has not used up
    [original] = originals
    assert original.Data == b"Subject: hi\nTo: subscribe@x\n\nhello\n"
    assert engine.verify("subscribe", ANNA, addresses[1].rpartition("-")[2]) is None
    assert contents(store) == {}


def test_two_that_confirm_the_same_at_the_same_moment(store: StateStorage) -> None:
    """In conversations of others, which no lock keeps apart: one of them comes again."""
    confirmations = Confirmations(store)
    confirmations.store("subscribe", ANNA, "secret", None)

    def confirm() -> None:
        confirmations.delete("subscribe", ANNA)
        store.set("app", ANNA, "ONE")

    def confirm_as_another() -> None:
        with store.conversation("carol@example.com"):
            assert confirmations.get("subscribe", ANNA) == ("secret", None)
            confirm()

    with refused(store, BEN):
        assert confirmations.get("subscribe", ANNA) == ("secret", None)
        elsewhere(confirm_as_another)
        store.set("app", BEN, "TWO")
        confirm()
    assert contents(store) == {("app", ANNA): "ONE"}


# ---------------------------------------------------------------- in one store


@pytest.mark.filterwarnings("ignore:You are adding text:UnicodeWarning")  # Salmon's own queue
def test_a_maildir_for_the_pending_mails(memory: MemoryStorage, tmp_path: Path) -> None:
    """As Salmon has it."""
    engine = ConfirmationEngine(str(tmp_path / "pending"), Confirmations(memory))
    secret = engine.register("subscribe", mail(ANNA)).rpartition("-")[2]
    assert engine.verify("subscribe", f"Anna <{ANNA}>", "another") is None
    assert engine.verify("subscribe", f"Anna <{ANNA}>", secret).body() == "hello\n"
    assert engine.verify("subscribe", ANNA, secret) is None
    assert len(everything(memory, Kind.CONFIRMATION)) == 0


@pytest.mark.parametrize(
    "key",
    [None, "1700000000.M1P2.host", "", "[1]", "{}", '["a", 5]', '[5, "a"]', '["a", "b", "c"]'],
)
def test_what_is_no_pending_mail_of_ours(memory: MemoryStorage, key: Any) -> None:
    """As where none waits, or where it waits in the Maildir that an application had before."""
    confirmations = Confirmations(memory)
    assert confirmations.pending.get(key) is None
    confirmations.pending.remove(key)
    confirmations.store("join", ANNA, "secret", key)
    assert confirmations.engine().verify("join", ANNA, "secret") is None
    assert confirmations.get("join", ANNA) == NOTHING


def test_cancelling_and_clearing(memory: MemoryStorage) -> None:
    engine = Confirmations(memory).engine()
    secret = engine.register("subscribe", request()).rpartition("-")[2]
    engine.cancel("subscribe", ANNA, "another")
    assert len(everything(memory, Kind.CONFIRMATION)) == 2
    engine.cancel("subscribe", ANNA, secret)
    assert everything(memory, Kind.CONFIRMATION) == []
    engine.register("subscribe", request())
    engine.clear()
    assert everything(memory, Kind.CONFIRMATION) == []


def test_they_expire(memory: MemoryStorage) -> None:
    confirmations = Confirmations(memory, expires=timedelta(hours=1))
    set_clock(memory, NOON)
    confirmations.store("subscribe", ANNA, "secret", "1")
    key = confirmations.pending.push("From: x@y\n\nhello\n")
    assert {entry.at for entry in everything(memory, Kind.CONFIRMATION)} == {NOON + 3_600_000_000}
    set_clock(memory, NOON + 3_600_000_000)
    assert confirmations.get("subscribe", ANNA) == NOTHING
    assert confirmations.pending.get(key) is None
    confirmations.store("subscribe", ANNA, "another", "1")
    assert confirmations.get("subscribe", ANNA) == ("another", "1")
    set_clock(memory, NOON + 3_600_000_001)
    Confirmations(memory).store("post", ANNA, "secret", None)  # which takes the old ones along
    assert len(everything(memory, Kind.CONFIRMATION)) == 2


def test_a_conversation_that_is_left_with_a_temporary_failure(memory: MemoryStorage) -> None:
    confirmations = Confirmations(memory)
    confirmations.store("subscribe", ANNA, "secret", "1")
    with left_with(memory, ANNA, SMTPError(451)):
        confirmations.delete("subscribe", ANNA)
        assert confirmations.get("subscribe", ANNA) == NOTHING
        confirmations.store("post", ANNA, "secret", "1")
        assert confirmations.get("post", ANNA) == ("secret", "1")
    assert confirmations.get("subscribe", ANNA) == ("secret", "1")
    assert confirmations.get("post", ANNA) == NOTHING


def test_what_is_refused(memory: MemoryStorage) -> None:
    with pytest.raises(ConfigurationError, match="cannot keep confirmations"):
        Confirmations(SalmonMemory())
    with pytest.raises(TypeError, match="expires must be a datetime"):
        Confirmations(memory, expires=7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expires must be more than nothing"):
        Confirmations(memory, expires=timedelta(0))
    confirmations = Confirmations(MemoryStorage(protect=True))
    with pytest.raises(StorageError, match="protect=True"):
        confirmations.clear()
    wrong: tuple[Any, ...]
    for wrong in ((1, ANNA, "s", "1"), ("t", 1, "s", "1"), ("t", ANNA, b"s", "1")):
        with pytest.raises(TypeError, match="must be a str"):
            confirmations.store(*wrong)
    with pytest.raises(TypeError, match="the id of a message must be a str, not 1"):
        confirmations.store("t", ANNA, "s", 1)  # type: ignore[arg-type]


def test_a_damaged_one_is_an_error(memory: MemoryStorage) -> None:
    confirmations = Confirmations(memory)
    for value in (b"", b"nonsense", b"[1]", b"5"):
        memory._commit([Write(Kind.CONFIRMATION, ANNA, "secret subscribe", value, NOON)])
        with pytest.raises(StorageError, match="damaged entry: CONFIRMATION 'secret subscribe'"):
            confirmations.get("subscribe", ANNA)
