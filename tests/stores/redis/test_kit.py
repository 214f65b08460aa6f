"""The conformance kit over one server, behind Sentinel, and in a cluster."""

from __future__ import annotations

from functools import partial

import pytest

from salmon_state.stores.redis import RedisStorage
from salmon_state.testing import (
    ContractSuite,
    DurableSuite,
    HostileKeySuite,
    ModelSuite,
    RouterSuite,
    SharedSuite,
    ThreadSuite,
    VersionSuite,
)
from salmon_state.testing.suite import OpenStore, StoreSuite
from tests.redis_services import RedisCluster, RedisSentinel, RedisServer, fresh_prefix


class TestRedis(
    ContractSuite,
    HostileKeySuite,
    ModelSuite,
    RouterSuite,
    ThreadSuite,
    DurableSuite,
    SharedSuite,
    VersionSuite,
):
    kills = 5
    sets = 200

    @pytest.fixture
    def open_store(self, redis_server: RedisServer) -> OpenStore:
        return partial(RedisStorage, redis_server.url(), prefix=fresh_prefix())


@pytest.mark.stress  # the same code but for the script that sets
class TestRedisWithTimeToLive(ContractSuite, HostileKeySuite, ModelSuite, ThreadSuite):
    """Sets are scripts then."""

    @pytest.fixture
    def open_store(self, redis_server: RedisServer) -> OpenStore:
        return partial(RedisStorage, redis_server.url(), prefix=fresh_prefix(), ttl=3600)


@pytest.mark.stress  # the same code once the primary is found; test_failover is about that
class TestSentinel(ContractSuite, ModelSuite, RouterSuite, ThreadSuite, DurableSuite, SharedSuite):
    kills = 3

    @pytest.fixture
    def open_store(self, redis_sentinel: RedisSentinel) -> OpenStore:
        redis_sentinel.heal()
        return partial(RedisStorage, redis_sentinel.url(), prefix=fresh_prefix(), wait_replicas=1)


class ClusterSuite(StoreSuite):
    @pytest.fixture
    def open_store(self, redis_cluster: RedisCluster) -> OpenStore:
        redis_cluster.heal()
        return partial(RedisStorage, redis_cluster.url(), prefix=fresh_prefix())


class TestCluster(ClusterSuite, ContractSuite):
    """What differs by slot; the rest of the kit takes long and is in ``make stress``."""


@pytest.mark.stress
class TestClusterWholly(
    ClusterSuite, HostileKeySuite, ModelSuite, RouterSuite, ThreadSuite, DurableSuite, SharedSuite
):
    kills = 3
