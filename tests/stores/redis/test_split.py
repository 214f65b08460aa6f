"""Two primaries at once: the old one has not heard that another has its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from salmon_state import StorageUnavailable
from salmon_state.stores.redis import RedisStorage
from tests.redis_services import RedisServer, fresh_prefix, wait_until
from tests.services import provide

MODULE, ANNA = "app.handlers", "anna@example.com"


@pytest.fixture
def chain() -> Iterator[list[RedisServer]]:
    """A primary, its replica, and the replica of that one."""
    servers: list[RedisServer] = []
    with ExitStack() as ends:
        for number in range(3):
            settings = {"replicaof": f"127.0.0.1 {servers[-1].port}"} if number else {}
            provided = provide(partial(RedisServer, **settings))
            servers.append(next(provided))
            ends.callback(next, provided, None)
        wait_until(lambda: all(keeps_up(server) for server in servers[1:]), "the replicas")
        yield servers


def keeps_up(server: RedisServer) -> bool:
    with server.client() as client:
        info: Any = client.info("replication")
    return bool(info["master_link_status"] == "up")


def test_only_the_primary_that_replicas_follow_acknowledges(chain: list[RedisServer]) -> None:
    """Nothing tells the old one's clients; that its writes are not confirmed does."""
    first, second, _ = chain
    opened = partial(RedisStorage, prefix=fresh_prefix(), wait_replicas=1, lease=0.5)
    with opened(first.url(), wait_timeout=0.1) as old:
        with pytest.raises(StorageUnavailable) as caught, old.conversation(ANNA):  # noqa: PT012
            old.set(MODULE, ANNA, "OLD")
            with second.client() as client:
                client.replicaof("no", "one")
            with opened(second.url()) as new, new.conversation(ANNA, timeout=60):
                new.set(MODULE, ANNA, "NEW")
        assert "not confirmed: 0 of 1" in caught.value.detail
        with pytest.raises(StorageUnavailable):
            old.set(MODULE, ANNA, "OLD")
        with first.client() as client:  # somebody tells it
            client.replicaof("127.0.0.1", second.port)
        wait_until(lambda: keeps_up(first), "the old primary to follow")
        assert old.get(MODULE, ANNA) == "NEW"
