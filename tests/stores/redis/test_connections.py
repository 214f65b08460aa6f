"""How many connections there are, and what becomes of whoever comes when all are in use."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

from salmon_state import ConfigurationError, StorageUnavailable
from salmon_state.stores.redis import RedisStorage
from salmon_state.testing.suite import contents
from salmon_state.testing.threads import run_together
from tests.redis_services import RedisServer
from tests.services import again
from tests.stores.redis.proxy import Proxy

MODULE, ANNA, BEN = "app.handlers", "anna@example.com", "ben@example.com"


def limited(server: RedisServer, number: int, prefix: str, **options: float) -> RedisStorage:
    url = f"{server.url()}?max_connections={number}"
    return RedisStorage(url, prefix=prefix, **options)  # type: ignore[arg-type]


def converse(store: RedisStorage, sender: str) -> None:
    with store.conversation(sender, timeout=60):
        store.set(MODULE, sender, "A")


def test_many_threads_share_few_connections(server: RedisServer, prefix: str) -> None:
    """None of them has one while a handler runs, so that none waits for another's handler."""
    proxy = Proxy(server.port)
    url = server.url().replace(f":{server.port}/", f":{proxy.port}/") + "?max_connections=2"
    try:
        with RedisStorage(url, prefix=prefix, timeout=60) as store:
            run_together([partial(converse, store, f"{number}@x") for number in range(100)])
            assert proxy.connections <= 2
            assert len(contents(store)) == 100
    finally:
        proxy.close()


def test_whoever_waits_too_long_for_a_connection_is_told(server: RedisServer, prefix: str) -> None:
    with again(lambda: limited(server, 1, prefix, timeout=0.3)) as store:
        connection = store._server._only().take()
        with pytest.raises(StorageUnavailable) as caught:
            store.set(MODULE, BEN, "B")
        assert "all 1 connections" in caught.value.detail
        assert "max_connections" in caught.value.detail
        store._server._only().give(connection)
        again(lambda: store.set(MODULE, BEN, "B"))


def test_an_iteration_takes_nobodys_connection(server: RedisServer, prefix: str) -> None:
    """Whoever goes through all sets states meanwhile: with one of so many, all would wait."""
    with limited(server, 1, prefix, timeout=60) as store:
        store.set(MODULE, ANNA, "A")
        for record in store:
            store.set(MODULE, record.sender, "B")
        assert contents(store) == {(MODULE, ANNA): "B"}


def test_failures_use_up_no_connection(server: RedisServer, prefix: str) -> None:
    with limited(server, 1, prefix, timeout=2) as store:
        store.set(MODULE, ANNA, "A")
        server.kill()
        for _ in range(5):
            with pytest.raises(StorageUnavailable) as caught:
                store.get(MODULE, ANNA)
            assert "refused" in caught.value.detail
        server.start()
        assert store.get(MODULE, ANNA) == "A"


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_a_number_of_connections_that_cannot_work(server: RedisServer, number: str) -> None:
    with pytest.raises(ConfigurationError, match="max_connections"):
        RedisStorage(f"{server.url()}?max_connections={number}")


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Takes all descriptors of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("kind", ["server", "sentinel", "cluster"])
def test_no_descriptor_is_left(kind: str, request: pytest.FixtureRequest, prefix: str) -> None:
    """It is nobody's configuration that is wrong, and the mail is kept."""
    url = request.getfixturevalue(kind).url()
    with RedisStorage(url, prefix=prefix) as store:
        for connections in store._server.pools():
            for connection in filter(None, connections._free):
                connection.disconnect()
        with no_descriptors():
            for call in (partial(RedisStorage, url, prefix=prefix), store.ping):
                with pytest.raises(StorageUnavailable):
                    call()
        store.ping()
