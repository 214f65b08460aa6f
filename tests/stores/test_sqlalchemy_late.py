"""Requests that arrive when who sent them has been told that they failed: they change nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import SQLAlchemyStorage, StorageUnavailable
from salmon_state.stores.clock import ServerClock
from salmon_state.testing.threads import run_together
from tests.services import MariaDBServer, again
from tests.stores.redis.proxy import Proxy

MODULE, ANNA = "app.handlers", "anna@example.com"

Call = Callable[[SQLAlchemyStorage, str, Callable[[], object]], object]
"""Changes a sender's state, and says from when on it is to be delayed."""


@pytest.fixture(params=("postgresql", "mariadb"))
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def url(server: Any) -> str:
    fresh: str = server.fresh_database()
    return fresh


@pytest.fixture
def proxy(server: Any) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


def plain(call: Callable[[SQLAlchemyStorage, str], object]) -> Call:
    def run(store: SQLAlchemyStorage, sender: str, delay: Callable[[], object]) -> None:
        delay()
        call(store, sender)

    return run


def converse(
    store: SQLAlchemyStorage, sender: str, delay: Callable[[], object], whose: str = ""
) -> None:
    with store.conversation(whose + sender):
        store.set(MODULE, sender, "LATE")
        delay()


CALLS: dict[str, Call] = {
    "set": plain(lambda store, sender: store.set(MODULE, sender, "LATE")),
    "remove": plain(lambda store, sender: store.set(MODULE, sender, "START")),
    "compare": plain(lambda store, sender: store.compare_and_set(MODULE, sender, "A", "LATE")),
    "set_all": plain(lambda store, sender: store.set_all(sender, "LATE")),
    "conversation": converse,
    "conversation of another": partial(converse, whose="another-"),
}


def test_a_delayed_write_is_not_made(url: str, proxy: Proxy) -> None:
    """Whether there was a state or none. All at once: each waits until its client gives up."""
    far = sa.make_url(url).set(port=proxy.port)
    cases = {
        f"{name}-{before}@example.com": (CALLS[name], before)
        for name, before in product(CALLS, ("A", "START"))
    }
    delay = threading.Barrier(len(cases), lambda: setattr(proxy, "hold", lambda asked: True))

    def fail(store: SQLAlchemyStorage, call: Call, sender: str) -> None:
        with pytest.raises(StorageUnavailable):
            call(store, sender, delay.wait)

    with ExitStack() as stack:
        jobs = []
        for sender, (call, before) in cases.items():
            store = stack.enter_context(SQLAlchemyStorage(far, timeout=1, pool_size=2))
            for state in ("B", before):
                again(partial(store.set, MODULE, sender, state))
            jobs.append(partial(fail, store, call, sender))
        run_together(jobs)
    with SQLAlchemyStorage(url) as near:
        for sender in cases:
            near.set(MODULE, sender, "NEW")
        proxy.let_go()
        states = {sender: near.get(MODULE, sender) for sender in cases}
    assert states == dict.fromkeys(cases, "NEW")


@pytest.mark.parametrize("state", ["B", "START"])
def test_a_server_whose_clock_was_set(url: str, state: str) -> None:
    """Its connections take another time for granted until they are refused, and ask again."""
    with SQLAlchemyStorage(url) as store:
        store.set(MODULE, ANNA, "A")
        loan = store._pool.take()
        loan.driver.clock._ahead -= 1_000_000
        store._pool.give_back(loan)
        store.set(MODULE, ANNA, state)
        assert store.get(MODULE, ANNA) == state


def test_what_is_too_late_says_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with SQLAlchemyStorage(url) as store:
        store.set(MODULE, ANNA, "A")
        monkeypatch.setattr(ServerClock, "deadline", lambda clock, driver: 0.0)
        for state in ("B", "START"):
            with pytest.raises(StorageUnavailable, match="after its deadline"):
                store.set(MODULE, ANNA, state)
        assert store.get(MODULE, ANNA) == "A"


def test_a_clock_is_asked_again_before_two_clocks_come_apart(url: str) -> None:
    with SQLAlchemyStorage(url) as store:
        store.set(MODULE, ANNA, "A")
        loan = store._pool.take()
        loan.driver.clock._asked_until, loan.driver.clock._ahead = 0.0, -1_000_000.0
        deadline = loan.driver.clock.deadline(loan.driver)
        assert deadline <= loan.driver.clock.deadline(loan.driver)
        assert loan.driver.clock._ahead > 0
        store._pool.give_back(loan)


@pytest.mark.parametrize("timeout", [2, 5])
def test_who_waits_for_a_row_of_mariadb_ends_before_its_client_gives_up(
    mariadb: MariaDBServer, timeout: float
) -> None:
    """Also if it began at the last moment."""
    with SQLAlchemyStorage(mariadb.fresh_database(), timeout=timeout) as store:
        loan = store._pool.take()
        with loan.driver.cursor() as cursor:
            cursor.execute("SELECT @@innodb_lock_wait_timeout")
            ((waiting,),) = cursor.fetchall()
        assert loan.driver.clock._patience + waiting <= loan.driver._read_timeout
        store._pool.give_back(loan)


@pytest.mark.parametrize("zone", ["+13:00", "-12:00"])
@pytest.mark.parametrize("mode", ["", "ANSI,TRADITIONAL"])
def test_a_session_of_mariadb_does_not_change_the_deadline(
    mariadb: MariaDBServer, mode: str, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"SET SESSION sql_mode = '{mode}', time_zone = '{zone}'"
    url = sa.make_url(mariadb.fresh_database()).update_query_dict({"init_command": command})
    with SQLAlchemyStorage(url) as store:
        store.set(MODULE, ANNA, "A")
        monkeypatch.setattr(ServerClock, "deadline", lambda clock, driver: time.time() - 60)
        for state in ("B", "START"):
            with pytest.raises(StorageUnavailable, match="after its deadline"):
                store.set(MODULE, ANNA, state)
        assert store.get(MODULE, ANNA) == "A"
        monkeypatch.setattr(ServerClock, "deadline", lambda clock, driver: time.time() + 60)
        for state in ("B", "START"):
            store.set(MODULE, ANNA, state)
            assert store.get(MODULE, ANNA) == state
