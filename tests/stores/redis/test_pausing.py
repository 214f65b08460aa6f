"""Nobody writes into Redis for a moment: what waits, what goes on, and what ends it."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from salmon_state import StorageUnavailable
from salmon_state.entries import Entry, Kind, Where, Write
from salmon_state.stores.redis import RedisStorage
from salmon_state.testing.processes import forking_context
from salmon_state.testing.suite import everything
from tests.redis_services import RedisServer

MODULE, ANNA, BEN = "app.handlers", "anna@example.com", "ben@example.com"
LARGE = b"x" * 700_000

CONTEXT = forking_context(__name__)


def of_all_kinds(store: RedisStorage) -> set[Entry]:
    return {entry for kind in Kind for entry in everything(store, kind)}


def test_reading_goes_on(url: str, prefix: str) -> None:
    """Of every kind, in hashes of all sizes, and on each server of a cluster."""
    with (
        RedisStorage(url, prefix=prefix, timeout=30) as store,
        RedisStorage(url, prefix=prefix, timeout=30) as other,
    ):
        for number in range(20):
            sender = f"{number}@x"
            store.set(MODULE, sender, "POSTING")
            for kind in (Kind.HANDLED, Kind.CURSOR):
                store._commit([Write(kind, sender, "n", b"x", number)])
        store._commit([Write(Kind.BODY, ANNA, f"{n}", LARGE, n) for n in range(3)])
        store._commit([Write(Kind.BODY, BEN, "n", b"x", 5)])
        for value in (b"1", b"2"):  # so many are staged, and are put in order when they are due
            store._commit([Write(Kind.OUTGOING, ANNA, f"{n}", value, n) for n in range(1_500)])
        store._commit([Write(Kind.OUTGOING, ANNA, "7", b"3", 7)])
        writing = threading.Thread(target=other.set, args=(MODULE, ANNA, "POSTING"))
        with store.paused(20):
            writing.start()
            before = of_all_kinds(store)
            assert (len(store), store._count(Kind.BODY)) == (20, 4)
            assert len(everything(store, Kind.OUTGOING)) == 1_500
            assert len(everything(store, Kind.BODY, Where(sender=ANNA))) == 3
            assert store.get(MODULE, ANNA) == other.get(MODULE, ANNA) == "START"
            assert writing.is_alive()
        writing.join(60)
        assert store.get(MODULE, ANNA) == "POSTING"
        after = of_all_kinds(store)
        assert after - before == {
            entry for entry in after if entry.sender == ANNA and entry.kind is Kind.STATE
        }
        assert before < after


def test_it_took_longer(server: RedisServer, prefix: str) -> None:
    """The server let others go on, and whoever relied on it hears so."""
    with RedisStorage(server.url(), prefix=prefix, timeout=30) as store:
        too_short = pytest.raises(StorageUnavailable, match="others may have written")
        with too_short, store.paused(0.1):
            store.set(MODULE, ANNA, "POSTING")  # waits until the server ends it
        assert store.get(MODULE, ANNA) == "POSTING"


def test_another_one_ended(url: str, prefix: str) -> None:
    """Redis knows one pause for all: whoever ends his own lets everybody write."""
    with (
        RedisStorage(url, prefix=prefix, timeout=30) as store,
        RedisStorage(url, prefix=prefix, timeout=30) as other,
    ):
        first, second = other.paused(60), store.paused(60)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        other.set(MODULE, ANNA, "POSTING")
        with pytest.raises(StorageUnavailable, match="others may have written"):
            second.__exit__(None, None, None)
        with store.paused(60):
            assert store.get(MODULE, ANNA) == "POSTING"


def test_who_pauses_is_killed(server: RedisServer, prefix: str) -> None:
    process = CONTEXT.Process(target=pause_and_die, args=(server.url(), prefix))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with RedisStorage(server.url(), prefix=prefix, timeout=30) as store:
        store.set(MODULE, ANNA, "POSTING")
        assert store.get(MODULE, ANNA) == "POSTING"


def pause_and_die(url: str, prefix: str) -> None:
    with RedisStorage(url, prefix=prefix) as store, store.paused(0.5):
        os.kill(os.getpid(), signal.SIGKILL)


def test_an_error_within_ends_it(store: RedisStorage) -> None:
    with pytest.raises(ZeroDivisionError), store.paused(600):
        raise ZeroDivisionError
    store.set(MODULE, ANNA, "POSTING")


@pytest.mark.parametrize("missing", ["-client|pause", "-eval_ro"])
def test_who_may_not(store: RedisStorage, raw: Any, missing: str, server: RedisServer) -> None:
    """As on a server that is too old: nobody waits, and it is said."""
    raw.acl_setuser(
        "other", enabled=True, passwords=["+p"], keys=["*"], commands=["+@all", missing]
    )
    try:
        with RedisStorage(server.url(user="other", password="p")) as others:
            with pytest.raises(NotImplementedError, match="stop what writes"), others.paused():
                pass
            others.set(MODULE, ANNA, "POSTING")
    finally:
        raw.acl_deluser("other")


def test_the_server_died(store: RedisStorage, server: RedisServer) -> None:
    """Whoever took its place keeps nobody waiting."""
    with pytest.raises(StorageUnavailable, match="others may have written"), store.paused(60):
        server.kill()
