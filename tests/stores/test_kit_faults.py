"""What the kit finds of our stores when their place is away, full or damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from salmon_state import ShelveStorage, SQLAlchemyStorage
from salmon_state.keys import Sender
from salmon_state.stores.redis import RedisStorage
from salmon_state.testing import FaultSuite, OpenStore
from salmon_state.testing.faults import Fault
from tests.directories import InADirectory
from tests.redis_services import RedisServer, fresh_prefix
from tests.stores.sqlalchemy_places import Place
from tests.stores.test_kit import InMariaDB, InPostgreSQL, InSQLite, OnAShelf, OnOneServer

Damage = Callable[[str, Sender], None]

STILL_THERE = {
    "test_what_is_away_is_not_empty": "a file that is open can be read wherever its directory goes"
}


FULL = {"fail_writes": "the disk of a server is not the tests' to fill"}


class TestShelf(InADirectory, FaultSuite):
    store_name = OnAShelf.store_name

    @pytest.fixture
    def open_store(self, place: Path) -> OpenStore:
        return partial(ShelveStorage, str(place / "states"), timeout=0.5)

    @pytest.fixture
    def damage(self, place: Path) -> Damage:
        return partial(execute, place / "states", "UPDATE Dict SET value = X'00' WHERE ")


class TestSQLite(InADirectory, FaultSuite):
    store_name = InSQLite.store_name
    left_out = STILL_THERE

    @pytest.fixture
    def open_store(self, place: Path) -> OpenStore:
        return partial(SQLAlchemyStorage, f"sqlite:///{place}/states.db", timeout=0.5)

    @pytest.fixture
    def damage(self, place: Path) -> Damage:
        return partial(execute, place / "states.db", "UPDATE salmon_state SET state = 'x y' WHERE ")


class OnAServer(FaultSuite):
    """The server is stopped and started, which takes seconds."""

    left_out = FULL

    @pytest.fixture
    def server(self) -> Any:
        """Overridden by the store's class."""

    @pytest.fixture
    def take_away(self, server: Any) -> Fault:
        @contextmanager
        def take_away() -> Iterator[None]:
            server.stop()
            try:
                yield
            finally:
                server.start()

        return take_away


class OnADatabaseServer(OnAServer):
    key = '"key"'

    @pytest.fixture
    def place(self, server: Any) -> Place:
        return Place("a server", server.fresh_database(), server)

    @pytest.fixture
    def open_store(self, place: Place) -> OpenStore:
        return partial(SQLAlchemyStorage, place.url, timeout=1.0)

    @pytest.fixture
    def damage(self, place: Place) -> Damage:
        def damage(module: str, sender: Sender) -> None:
            place.run(f"UPDATE salmon_state SET state = 'x y' WHERE {self.key} LIKE '%{sender}%'")

        return damage


@pytest.mark.stress
class TestPostgreSQL(OnADatabaseServer):
    store_name = InPostgreSQL.store_name

    @pytest.fixture
    def server(self, postgresql: Any) -> Any:
        return postgresql


@pytest.mark.stress
class TestMariaDB(OnADatabaseServer):
    store_name = InMariaDB.store_name
    key = "`key`"

    @pytest.fixture
    def server(self, mariadb: Any) -> Any:
        return mariadb


@pytest.mark.stress
class TestRedis(OnAServer):
    store_name = OnOneServer.store_name

    @pytest.fixture
    def server(self, redis_server: RedisServer) -> RedisServer:
        return redis_server

    @pytest.fixture
    def open_store(self, server: RedisServer) -> OpenStore:
        server.empty()
        return partial(RedisStorage, server.url(), prefix=fresh_prefix(), timeout=1.0)

    @pytest.fixture
    def damage(self, server: RedisServer) -> Damage:
        def damage(module: str, sender: Sender) -> None:
            with server.client() as client:
                for key in client.scan_iter():
                    if str(sender).encode() in (client.hget(key, "sender") or b""):
                        states = [f for f in client.hkeys(key) if f != b"sender" and f[:1] != b"@"]
                        client.hset(key, mapping=dict.fromkeys(states, "x y"))

        return damage


def execute(path: Path, statement: str, module: str, sender: Sender) -> None:
    """Changes the row of a sender."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        changed = connection.execute(f"{statement} instr(key, ?)", [str(sender).encode()])
        assert changed.rowcount == 1
