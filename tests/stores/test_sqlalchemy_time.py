"""A database that does not answer: every call ends in time, and with the truth."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import SQLAlchemyStorage, StorageUnavailable
from tests.services import again, free_port
from tests.stores.sqlalchemy_places import Place, eventually

TIMEOUT = 0.5
BOUND = 20.0
"""Far more than promised: this guards against hanging, it does not measure."""

CALLS: dict[str, Callable[[SQLAlchemyStorage], object]] = {
    "get": lambda store: store.get("app", "a@x"),
    "set": lambda store: store.set("app", "a@x", "LATER"),
    "remove": lambda store: store.set("app", "a@x", "START"),
    "compare_and_set": lambda store: store.compare_and_set("app", "a@x", "POSTING", "LATER"),
    "set_all": lambda store: store.set_all("a@x", "LATER"),
    "rename": lambda store: store.rename("app", "POSTING", "LATER"),
    "records": lambda store: list(store.records()),
    "len": len,
    "ping": lambda store: store.ping(),
}


@contextlib.contextmanager
def ends_in_time() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < BOUND


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+pymysql"])
def test_a_silent_endpoint(driver: str, silent_port: int) -> None:
    with ends_in_time(), pytest.raises(StorageUnavailable):
        SQLAlchemyStorage(f"{driver}://me:secret@127.0.0.1:{silent_port}/states", timeout=TIMEOUT)


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+pymysql"])
def test_a_refusing_port_ends_at_once(driver: str) -> None:
    # Waiting for it would be noticed.
    with ends_in_time(), pytest.raises(StorageUnavailable):
        SQLAlchemyStorage(f"{driver}://me:secret@127.0.0.1:{free_port()}/states", timeout=3600)


def test_a_server_that_stops_answering(served: Place) -> None:
    """In mid-use; when it answers again the store works again, without a restart."""
    with again(lambda: SQLAlchemyStorage(served.url, timeout=TIMEOUT)) as store:
        again(lambda: store.set("app", "a@x", "POSTING"))
        for name in ("get", "set"):
            served.server.pause()
            with ends_in_time(), pytest.raises(StorageUnavailable):
                CALLS[name](store)
            served.server.resume()
        again(lambda: store.set("app", "a@x", "AGAIN"))
        assert again(lambda: store.get("app", "a@x")) == "AGAIN"
        eventually(lambda: served.connections() <= 10)


def test_a_new_store_while_the_server_does_not_answer(served: Place) -> None:
    served.server.pause()
    with ends_in_time(), pytest.raises(StorageUnavailable):
        SQLAlchemyStorage(served.url, timeout=TIMEOUT)
    served.server.resume()
    SQLAlchemyStorage(served.url).close()


@pytest.mark.parametrize("name", ["set", "compare_and_set"])
def test_a_row_that_somebody_else_has_locked(served: Place, name: str) -> None:
    """Who was told that nothing happened is right: nothing happens later either."""
    # PostgreSQL must cancel it in a tenth of that time, which a busy machine may need.
    with again(lambda: SQLAlchemyStorage(served.url, timeout=10 * TIMEOUT)) as store:
        again(lambda: store.set("app", "a@x", "POSTING"))
        with locked_rows(served), ends_in_time(), pytest.raises(StorageUnavailable):
            CALLS[name](store)
        with locked_rows(served):  # whoever was waiting would have been first
            pass
        assert again(lambda: store.get("app", "a@x")) == "POSTING"
        assert served.connections() <= 2
        again(lambda: CALLS[name](store))
        assert again(lambda: store.get("app", "a@x")) != "POSTING"


def test_a_table_that_somebody_else_has_locked(served: Place) -> None:
    lock = {
        "postgresql": "LOCK TABLE salmon_state IN ACCESS EXCLUSIVE MODE",
        "mariadb": "LOCK TABLES salmon_state WRITE",
    }[served.kind]
    with again(lambda: SQLAlchemyStorage(served.url, timeout=TIMEOUT)) as store:
        again(lambda: store.set("app", "a@x", "POSTING"))
        for name in ("get", "set"):
            with served.administrator() as cursor:
                cursor.execute("BEGIN")
                cursor.execute(lock)
                with ends_in_time(), pytest.raises(StorageUnavailable):
                    CALLS[name](store)
        assert again(lambda: store.get("app", "a@x")) == "POSTING"


@contextlib.contextmanager
def locked_rows(place: Place) -> Iterator[None]:
    with place.administrator() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE salmon_state SET updated_at = 1")
        yield
        cursor.execute("ROLLBACK")


def test_all_connections_in_use(served: Place) -> None:
    with again(lambda: SQLAlchemyStorage(served.url, timeout=TIMEOUT, pool_size=2)) as store:
        leases = [again(store._pool.take) for _ in range(2)]
        with ends_in_time(), pytest.raises(StorageUnavailable) as caught:
            store.get("app", "a@x")
        assert "pool_size" in caught.value.detail
        got: list[str] = []
        waiter = threading.Thread(target=lambda: got.append(again(lambda: store.get("app", "a@x"))))
        waiter.start()
        for lease in leases:
            store._pool.give_back(lease)
        waiter.join(BOUND)
        assert got == ["START"]


def test_another_writer_of_the_file(tmp_path: Any) -> None:
    place = Place("sqlite", f"sqlite:///{tmp_path}/states.db")
    with SQLAlchemyStorage(place.url, timeout=0.2) as store:
        store.set("app", "a@x", "POSTING")
        with place.administrator() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            assert store.get("app", "a@x") == "POSTING"
            for name in ("set", "remove", "compare_and_set", "set_all", "rename"):
                with ends_in_time(), pytest.raises(StorageUnavailable):
                    CALLS[name](store)
        store.set("app", "a@x", "LATER")


def test_the_url_decides_over_the_option(served: Place, silent_port: int) -> None:
    url = sa.make_url(served.url).set(port=silent_port)
    url = url.update_query_dict({"connect_timeout": "2"})
    with ends_in_time(), pytest.raises(StorageUnavailable):
        SQLAlchemyStorage(url, timeout=60 if served.kind == "postgresql" else 2)
