"""Requests that arrive when who sent them has been told that they failed: they change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

import pytest

from salmon_state import StorageUnavailable
from salmon_state.keys import Sender
from salmon_state.stores.redis import RedisStorage
from salmon_state.stores.redis.deadlines import CLOCKS
from salmon_state.testing.suite import contents
from tests.redis_services import RedisServer
from tests.services import again
from tests.stores.redis.proxy import Proxy

MODULE, ANNA, BEN = "app.handlers", "anna@example.com", "ben@example.com"
WRITES = (b"HSET", b"EVAL", b"UNLINK")


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def delayed(proxy: Proxy, server: RedisServer, prefix: str) -> Iterator[RedisStorage]:
    """A store whose requests can be delayed, and in which Anna's state is "A"."""
    url = server.url().replace(f":{server.port}/", f":{proxy.port}/")
    with again(lambda: RedisStorage(url, prefix=prefix, timeout=0.5)) as store:
        for state in ("A", "START", "A"):  # the server knows the scripts afterwards
            again(partial(store.set, MODULE, ANNA, state))
        again(store.clear)
        again(partial(store.set, MODULE, ANNA, "A"))
        yield store


def converse(store: RedisStorage, sender: Sender, proxy: Proxy) -> None:
    """Sets Anna's state within somebody's conversation, of which the commit is delayed."""
    hold, proxy.hold = proxy.hold, lambda asked: False
    with store.conversation(sender):
        store.set(MODULE, ANNA, "LATE")
        proxy.hold = hold


CALLS: dict[str, Callable[[RedisStorage, Proxy], object]] = {
    "set": lambda store, proxy: store.set(MODULE, ANNA, "LATE"),
    "remove": lambda store, proxy: store.set(MODULE, ANNA, "START"),
    "compare_and_set": lambda store, proxy: store.compare_and_set(MODULE, ANNA, "A", "LATE"),
    "set_all": lambda store, proxy: store.set_all(ANNA, "LATE"),
    "rename": lambda store, proxy: store.rename(MODULE, "A", "LATE"),
    "purge": lambda store, proxy: store.purge(older_than=timedelta(0)),
    "clear": lambda store, proxy: store.clear(),
    "conversation of nobody": lambda store, proxy: converse(store, None, proxy),
    "conversation of another": lambda store, proxy: converse(store, BEN, proxy),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_delayed_write_is_not_made(
    store: RedisStorage, delayed: RedisStorage, proxy: Proxy, name: str
) -> None:
    """Also if the state is again what it was, which a condition would not notice."""
    proxy.hold = lambda asked: any(command in asked for command in WRITES)
    with pytest.raises(StorageUnavailable) as caught:
        CALLS[name](delayed, proxy)
    assert "Timeout" in caught.value.detail
    store.set(MODULE, ANNA, "B")
    store.set(MODULE, ANNA, "A")
    proxy.let_go()
    assert contents(store) == {(MODULE, ANNA): "A"}


def test_a_delayed_lease_is_not_given(
    store: RedisStorage, delayed: RedisStorage, proxy: Proxy
) -> None:
    proxy.hold = lambda asked: b"EVAL" in asked
    with pytest.raises(StorageUnavailable):
        delayed.conversation(ANNA).__enter__()
    proxy.let_go()
    with store.conversation(ANNA, timeout=0):
        pass


def test_a_server_that_stood_still_makes_no_late_write(
    store: RedisStorage, server: RedisServer, prefix: str
) -> None:
    with again(lambda: RedisStorage(server.url(), prefix=prefix, timeout=0.2)) as hasty:
        again(lambda: hasty.set(MODULE, ANNA, "A"))
        server.pause()
        try:
            with pytest.raises(StorageUnavailable):
                hasty.set(MODULE, ANNA, "LATE")
        finally:
            server.resume()
        again(hasty.ping)
    assert contents(store) == {(MODULE, ANNA): "A"}


def test_a_server_whose_clock_was_set(store: RedisStorage) -> None:
    """Its connections took another time for granted, which it says; then they ask it again."""
    store.set(MODULE, ANNA, "A")
    for clock in CLOCKS._known.values():
        clock._ahead -= 1_000_000
    store.set(MODULE, ANNA, "B")
    assert contents(store) == {(MODULE, ANNA): "B"}


def test_a_connection_to_another_server_asks_for_its_clock(
    store: RedisStorage, server: RedisServer
) -> None:
    store.set(MODULE, ANNA, "A")
    connection = store._server._only()._free[-1]
    CLOCKS._known[connection]._ahead = 0
    connection.disconnect()
    connection.connect()
    assert connection not in CLOCKS._known
    store.set(MODULE, ANNA, "B")
    assert contents(store) == {(MODULE, ANNA): "B"}


def test_what_is_sent_again_goes_by_the_clock_of_its_own_connection(
    proxy: Proxy, server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may lead to another server by then, with another clock."""
    url = server.url().replace(f":{server.port}/", f":{proxy.port}/")
    with RedisStorage(url, prefix=prefix, timeout=60) as store:
        store.set(MODULE, ANNA, "A")
        deadlines: list[bytes] = []
        deadline = CLOCKS.deadline

        def watched(connection: object) -> bytes:
            deadlines.append(deadline(connection))
            return deadlines[-1]

        monkeypatch.setattr(CLOCKS, "deadline", watched)
        cuts = iter([True])
        proxy.cut = lambda asked, answered: b"EVALSHA" in asked and next(cuts, False)
        CLOCKS._known[store._server._only()._free[-1]]._ahead += 1_000_000  # the first
        store.set(MODULE, ANNA, "B")
        ahead, right = map(int, deadlines)
        assert ahead - right > 900_000_000_000
        assert contents(store) == {(MODULE, ANNA): "B"}


def test_a_clock_is_asked_again_before_two_clocks_come_apart(store: RedisStorage) -> None:
    store.set(MODULE, ANNA, "A")
    connection = store._server._only()._free[-1]
    clock = CLOCKS._known[connection]
    asked_until, ahead = clock._asked_until, clock._ahead
    store.set(MODULE, ANNA, "B")
    assert (clock._asked_until, clock._ahead) == (asked_until, ahead)
    clock._asked_until -= 10_000
    store.set(MODULE, ANNA, "C")
    assert clock._asked_until >= asked_until
    assert clock._ahead == pytest.approx(ahead, abs=60)
