"""The conformance kit over each of our stores; `make stores` writes what it says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import MemoryStorage, ShelveStorage, SQLAlchemyStorage
from salmon_state.stores.redis import RedisStorage
from salmon_state.testing import (
    ContractSuite,
    ConversationSuite,
    DurableSuite,
    EntrySuite,
    EveryStoreSuites,
    FileSuite,
    HostileKeySuite,
    ModelSuite,
    OpenStore,
    Rows,
    RowSuite,
    SharedConversationSuite,
    SharedEntrySuite,
    SharedStoreSuites,
    SharedSuite,
    StoreSuite,
    ThreadSuite,
)
from tests.redis_services import RedisCluster, RedisSentinel, RedisServer, fresh_prefix

LEASE = 2.0
"""Short, because whoever is killed in a conversation keeps it for so long."""

PATIENCE = 60.0
"""Seconds, because whatever is busy with something else takes some for 20 MB, or for its turn."""

UNFAIR = {"test_a_busy_sender_starves_no_process": "whoever waits for a lease is promised no turn"}

MAILS = 60
"""How many a process has of one sender: the wrong stores that lose one do so within 40."""

IN_MEMORY = {"memory": "bytes for a commit of 20 MB, which it keeps where others do not"}

Emptied = Callable[[str, Any], str]


class TestMemory(EveryStoreSuites):
    runs = conversation_runs = 30
    memory = 100_000_000
    limits = IN_MEMORY

    @pytest.fixture
    def open_store(self) -> OpenStore:
        return MemoryStorage


# ---------------------------------------------------------------- files


class OnAShelf(StoreSuite):
    store_name = "Shelf"

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(ShelveStorage, str(tmp_path / "states"))

    @pytest.fixture
    def open_at(self) -> OpenStore:
        return ShelveStorage


class TestShelf(OnAShelf, SharedStoreSuites, FileSuite):
    runs = reopening_runs = conversation_runs = 10
    mails = MAILS


class WithAnIndex(ContractSuite, EntrySuite, HostileKeySuite, ModelSuite, SharedEntrySuite):
    """By which a store finds states instead of looking at all: what filters find, and writers."""

    runs = 10


class TestShelfWithAnIndex(WithAnIndex):
    store_name = "Shelf with an index"

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(ShelveStorage, str(tmp_path / "states"), indexes=True)


class WithRows(RowSuite):
    @pytest.fixture
    def rows(self, open_store: partial[SQLAlchemyStorage]) -> Iterator[Rows]:
        engine = sa.create_engine(open_store.args[0])
        table = sa.Table("rows_of_handlers", sa.MetaData(), sa.Column("text", sa.String(9)))
        table.drop(engine, checkfirst=True)
        table.create(engine)

        def committed() -> set[str]:
            with engine.connect() as connection:
                return set(connection.scalars(table.select()))

        yield Rows(lambda c, text: c.execute(table.insert(), {"text": text}), committed)
        table.drop(engine)
        engine.dispose()


class InSQLite(StoreSuite):
    store_name = "SQLite"

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(SQLAlchemyStorage, f"sqlite:///{tmp_path}/states.db", timeout=PATIENCE)

    @pytest.fixture
    def open_at(self) -> OpenStore:
        return _sqlite


def _sqlite(path: str) -> SQLAlchemyStorage:
    return SQLAlchemyStorage(f"sqlite:///{path}")


class TestSQLite(InSQLite, SharedStoreSuites, WithRows, FileSuite):
    runs = reopening_runs = conversation_runs = 10
    mails = MAILS


class TestSQLiteWithAnIndex(WithAnIndex):
    store_name = "SQLite with an index"

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return _indexed(f"sqlite:///{tmp_path}/states.db")


def _indexed(url: str) -> OpenStore:
    return partial(SQLAlchemyStorage, url, timeout=PATIENCE, indexes=True)


# ---------------------------------------------------------------- database servers


class InPostgreSQL(StoreSuite):
    store_name = "PostgreSQL"
    left_out = dict.fromkeys(
        ("test_written_there_and_read_here", "test_written_here_and_read_there"),
        "its driver is written in C; the digests, which Pythons could disagree about, are SQLite's",
    )

    @pytest.fixture
    def open_store(self, postgresql: Any, emptied: Emptied) -> OpenStore:
        return partial(SQLAlchemyStorage, emptied("postgresql", postgresql), timeout=PATIENCE)


class TestPostgreSQL(InPostgreSQL, SharedStoreSuites, WithRows):
    runs = conversation_runs = 10
    mails = MAILS
    reopening_runs = 3  # each step is a new connection


class InMariaDB(StoreSuite):
    store_name = "MariaDB"
    left_out = dict.fromkeys(
        InPostgreSQL.left_out, "the digests, which Pythons could disagree about, are SQLite's"
    )

    @pytest.fixture
    def open_store(self, mariadb: Any, emptied: Emptied) -> OpenStore:
        return partial(SQLAlchemyStorage, emptied("mariadb", mariadb), timeout=PATIENCE)


class TestMariaDB(InMariaDB, SharedStoreSuites, WithRows):
    runs = conversation_runs = 10
    mails = MAILS
    reopening_runs = 3  # each step is a new connection


@pytest.mark.stress  # tests/stores/test_sqlalchemy_indexes.py asks whatever is particular to it
class TestPostgreSQLWithAnIndex(WithAnIndex):
    store_name = "PostgreSQL with an index"

    @pytest.fixture
    def open_store(self, postgresql: Any) -> OpenStore:
        return _indexed(postgresql.fresh_database())


@pytest.mark.stress  # as PostgreSQL
class TestMariaDBWithAnIndex(WithAnIndex):
    """It looks a few up, and goes through many."""

    store_name = "MariaDB with an index"

    @pytest.fixture
    def open_store(self, mariadb: Any) -> OpenStore:
        return _indexed(mariadb.fresh_database())


# ---------------------------------------------------------------- Redis


class OnRedis(StoreSuite):
    freed_within = LEASE + 10
    memory = 12_000_000  # a script that its server does not know goes there twice
    left_out = UNFAIR


class OnOneServer(OnRedis):
    store_name = "Redis"

    @pytest.fixture
    def open_store(self, redis_server: RedisServer) -> OpenStore:
        redis_server.empty()
        return partial(RedisStorage, redis_server.url(), prefix=fresh_prefix(), lease=LEASE)


class TestRedis(OnOneServer, SharedStoreSuites):
    runs = reopening_runs = conversation_runs = 10
    mails = MAILS
    kills = 5


@pytest.mark.stress  # the same code but for the script that sets
class TestRedisWithTimeToLive(EveryStoreSuites):
    """Sets are scripts then."""

    store_name = "Redis with a ttl"

    @pytest.fixture
    def open_store(self, redis_server: RedisServer) -> OpenStore:
        return partial(RedisStorage, redis_server.url(), prefix=fresh_prefix(), ttl=3600)


class TestRedisWithAnIndex(OnRedis, EveryStoreSuites, SharedEntrySuite):
    """Where each write of a state keeps it, and filters use it."""

    store_name = "Redis with an index"
    runs = conversation_runs = 10

    @pytest.fixture
    def open_store(self, redis_server: RedisServer) -> OpenStore:
        redis_server.empty()
        return partial(
            RedisStorage, redis_server.url(), prefix=fresh_prefix(), lease=LEASE, indexes=True
        )


@pytest.mark.stress  # the same code once the primary is found; test_failover is about that
class TestRedisSentinel(OnRedis, SharedStoreSuites):
    store_name = "Redis Sentinel"
    kills = 3

    @pytest.fixture
    def open_store(self, redis_sentinel: RedisSentinel) -> OpenStore:
        url = redis_sentinel.url()
        return partial(RedisStorage, url, prefix=fresh_prefix(), lease=LEASE, wait_replicas=1)


class InARedisCluster(OnRedis):
    store_name = "Redis Cluster"
    thousands = 500  # each a commit of its own
    due = 90  # each claim asks all members

    @pytest.fixture
    def open_store(self, redis_cluster: RedisCluster) -> OpenStore:
        redis_cluster.empty()
        return partial(RedisStorage, redis_cluster.url(), prefix=fresh_prefix(), lease=LEASE)


class TestInARedisCluster(InARedisCluster, EntrySuite, SharedEntrySuite):
    """What differs by slot; the rest of the kit takes long."""


@pytest.mark.stress
class TestRedisCluster(InARedisCluster, SharedStoreSuites):
    kills = 3


@pytest.mark.stress  # it takes a second to make one, of a part for each slot
class TestRedisClusterWithAnIndex(InARedisCluster, EveryStoreSuites, SharedEntrySuite):
    """Where it has a part in each slot."""

    store_name = "Redis Cluster with an index"
    runs = conversation_runs = 3

    @pytest.fixture
    def open_store(self, redis_cluster: RedisCluster) -> OpenStore:
        redis_cluster.empty()
        return partial(
            RedisStorage, redis_cluster.url(), prefix=fresh_prefix(), lease=LEASE, indexes=True
        )


# ---------------------------------------------------------------- for long


class ForLong(
    ModelSuite,
    ConversationSuite,
    ThreadSuite,
    DurableSuite,
    SharedSuite,
    SharedEntrySuite,
    SharedConversationSuite,
):
    """What finds more the longer it runs."""

    moments = thread_moments = forks = 16
    takers_killed = commits_killed = kills_beside_others = 20
    commit_size = 125
    runs = conversation_runs = 200
    sets = 500
    mails = 500
    reopening_runs = 100
    kills = 50
    writes = 1000


@pytest.mark.stress
class TestShelfForLong(OnAShelf, ForLong):
    kills = 200


@pytest.mark.stress
class TestSQLiteForLong(InSQLite, ForLong):
    """In a file."""


@pytest.mark.stress
class TestPostgreSQLForLong(InPostgreSQL, ForLong):
    """On a server."""


@pytest.mark.stress
class TestMariaDBForLong(InMariaDB, ForLong):
    """On another one."""


@pytest.mark.stress
class TestRedisForLong(OnOneServer, ForLong, EntrySuite):
    many = 100_000


@pytest.mark.stress
class TestRedisClusterForLong(InARedisCluster, EntrySuite):
    many = 100_000
