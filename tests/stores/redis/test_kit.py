"""The conformance kit over one server, behind Sentinel, and in a cluster."""

from __future__ import annotations

from functools import partial

import pytest

from salmon_state.stores.redis import RedisStorage
from salmon_state.testing import (
    ContractSuite,
    ConversationSuite,
    DurableSuite,
    EntrySuite,
    HostileKeySuite,
    ModelSuite,
    OpenStore,
    RouterSuite,
    SharedConversationSuite,
    SharedEntrySuite,
    SharedSuite,
    StoreSuite,
    ThreadSuite,
    VersionSuite,
)
from tests.redis_services import RedisCluster, RedisSentinel, RedisServer, fresh_prefix

UNFAIR = {"test_a_busy_sender_starves_no_process": "whoever waits for a lease is promised no turn"}

LEASE = 2.0
"""Short, because whoever is killed in a conversation keeps it for so long."""


class OneServer(StoreSuite):
    @pytest.fixture
    def open_store(self, redis_server: RedisServer) -> OpenStore:
        redis_server.empty()
        return partial(RedisStorage, redis_server.url(), prefix=fresh_prefix(), lease=LEASE)


class TestRedis(
    OneServer,
    ContractSuite,
    HostileKeySuite,
    ModelSuite,
    RouterSuite,
    ThreadSuite,
    DurableSuite,
    SharedSuite,
    VersionSuite,
):
    runs = 30
    kills = 5
    sets = 200


@pytest.mark.stress
class TestRedisForLong(OneServer, ModelSuite, ThreadSuite, DurableSuite, SharedSuite):
    runs = 200
    sets = 500
    reopening_runs = 100
    kills = 50
    writes = 1000
    kills_beside_others = 20


class TestEntries(OneServer, EntrySuite, SharedEntrySuite):
    """What is staged and what is put in place show with twenty thousand as well."""


@pytest.mark.stress
class TestEntriesForLong(OneServer, EntrySuite, SharedEntrySuite):
    many = 100_000
    takers_killed = commits_killed = 20
    commit_size = 125


class TestConversations(OneServer, ConversationSuite, SharedConversationSuite):
    conversation_runs = 30
    freed_within = LEASE + 10
    left_out = UNFAIR


@pytest.mark.stress  # the same code but for the script that sets
class TestRedisWithTimeToLive(
    ContractSuite, HostileKeySuite, ModelSuite, ThreadSuite, ConversationSuite
):
    """Sets are scripts then."""

    @pytest.fixture
    def open_store(self, redis_server: RedisServer) -> OpenStore:
        return partial(RedisStorage, redis_server.url(), prefix=fresh_prefix(), ttl=3600)


class BehindSentinel(StoreSuite):
    @pytest.fixture
    def open_store(self, redis_sentinel: RedisSentinel) -> OpenStore:
        url = redis_sentinel.url()
        return partial(RedisStorage, url, prefix=fresh_prefix(), lease=LEASE, wait_replicas=1)


@pytest.mark.stress  # the same code once the primary is found; test_failover is about that
class TestSentinel(
    BehindSentinel, ContractSuite, ModelSuite, RouterSuite, ThreadSuite, DurableSuite, SharedSuite
):
    kills = 3


@pytest.mark.stress
class TestSentinelEntries(BehindSentinel, EntrySuite, SharedEntrySuite):
    pass


@pytest.mark.stress
class TestSentinelConversations(BehindSentinel, ConversationSuite, SharedConversationSuite):
    freed_within = LEASE + 10
    left_out = UNFAIR


class InACluster(StoreSuite):
    @pytest.fixture
    def open_store(self, redis_cluster: RedisCluster) -> OpenStore:
        redis_cluster.empty()
        return partial(RedisStorage, redis_cluster.url(), prefix=fresh_prefix(), lease=LEASE)


class TestCluster(InACluster, ContractSuite):
    """What differs by slot; the rest of the kit takes long and is in ``make stress``."""

    thousands = 500  # each a commit of its own


@pytest.mark.stress
class TestClusterWholly(
    InACluster, HostileKeySuite, ModelSuite, RouterSuite, ThreadSuite, DurableSuite, SharedSuite
):
    kills = 3


class TestClusterEntries(InACluster, EntrySuite, SharedEntrySuite):
    due = 90  # each claim asks all members


@pytest.mark.stress
class TestClusterEntriesForLong(InACluster, EntrySuite):
    many = 100_000


@pytest.mark.stress
class TestClusterConversations(InACluster, ConversationSuite, SharedConversationSuite):
    freed_within = LEASE + 10
    left_out = UNFAIR
