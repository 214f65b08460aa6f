"""The Redis servers, and stores on them under prefixes that are fresh for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from salmon_state.stores.redis import RedisStorage
from tests.redis_services import RedisCluster, RedisSentinel, RedisServer, fresh_prefix


@pytest.fixture
def prefix() -> str:
    """What nobody else's keys begin with."""
    return fresh_prefix()


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[RedisServer]:
    """One server, which runs again when the test is over."""
    redis_server.empty()  # what earlier tests left is searched through, too
    yield redis_server
    redis_server.revive()


@pytest.fixture
def sentinel(redis_sentinel: RedisSentinel) -> Iterator[RedisSentinel]:
    """A primary with its replica, and Sentinel; all are well when the test is over."""
    redis_sentinel.primary().empty()
    yield redis_sentinel
    redis_sentinel.heal()


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """A cluster that is whole, and is so when the test is over."""
    redis_cluster.empty()
    yield redis_cluster
    redis_cluster.heal()


@pytest.fixture
def store(server: RedisServer, prefix: str) -> Iterator[RedisStorage]:
    """A store on one server."""
    with RedisStorage(server.url(), prefix=prefix, timeout=2) as store:
        yield store


@pytest.fixture
def raw(server: RedisServer) -> Iterator[redis.Redis]:
    """Redis itself, past the store."""
    with server.client() as client:
        yield client


@pytest.fixture(params=["one", "sentinel", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of each kind."""
    name = {"one": "server", "sentinel": "sentinel", "cluster": "cluster"}[request.param]
    found: str = request.getfixturevalue(name).url()
    return found
