"""What one call costs in round trips, counted on the wire."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from salmon_state import SQLAlchemyStorage
from tests.stores.sqlalchemy_places import Place
from tests.stores.sqlalchemy_proxy import CountingProxy

WARM = 12
"""Uses after which psycopg has prepared a statement, which takes one round trip more, once."""


@pytest.fixture
def proxy(served: Place) -> Iterator[CountingProxy]:
    with CountingProxy(served.server.port) as proxy:
        yield proxy


@pytest.fixture
def near(served: Place, proxy: CountingProxy) -> Iterator[SQLAlchemyStorage]:
    """A store that is connected through the proxy."""
    with SQLAlchemyStorage(sa.make_url(served.url).set(port=proxy.port)) as store:
        yield store


def trips(proxy: CountingProxy, call: Callable[[], object]) -> int:
    for _ in range(WARM):
        call()
    before = proxy.trips
    for _ in range(10):
        call()
    total, rest = divmod(proxy.trips - before, 10)
    assert rest == 0
    return total


def test_get_is_one_round_trip(near: SQLAlchemyStorage, proxy: CountingProxy) -> None:
    near.set("app", "a@x", "POSTING")
    assert trips(proxy, lambda: near.get("app", "a@x")) == 1
    assert trips(proxy, lambda: near.get("app", "nobody@x")) == 1


def test_set_is_one_round_trip(near: SQLAlchemyStorage, proxy: CountingProxy) -> None:
    assert trips(proxy, lambda: near.set("app", "a@x", "POSTING")) == 1
    assert trips(proxy, lambda: near.set("app", "a@x", "START")) == 1


def test_other_calls(served: Place, near: SQLAlchemyStorage, proxy: CountingProxy) -> None:
    near.set("app", "a@x", "POSTING")
    assert trips(proxy, near.ping) == 1
    assert trips(proxy, lambda: len(near)) == 1
    assert trips(proxy, lambda: list(near.records(sender="a@x"))) == 1
    # Begin, change, commit: they must not happen twice.
    expected = 3 if served.kind == "postgresql" else 2
    assert (
        trips(proxy, lambda: near.compare_and_set("app", "a@x", "POSTING", "POSTING")) == expected
    )
    # And two locks at once, or one, to be given back, and an isolation of its own.
    expected = 2 if served.kind == "postgresql" else 4
    assert trips(proxy, lambda: near.set_all("a@x", "POSTING")) == expected


def test_a_conversation(served: Place, near: SQLAlchemyStorage, proxy: CountingProxy) -> None:
    """Lock and snapshot; what changed; and where there are several, the commit."""
    postgresql = served.kind == "postgresql"
    steps = itertools.count()

    def talk(*modules: str, connect: bool = False, look: bool = False) -> None:
        with near.conversation("a@x") as conversation:
            if connect:
                assert conversation.connection is not None
            if look:  # which is compared at the commit
                near.get("app", "a@x")
                near.get("nobody", "a@x")
            for module in modules:
                near.set(module, "a@x", f"S{next(steps)}")

    assert trips(proxy, talk) == 2
    assert trips(proxy, lambda: talk("app")) == (3 if postgresql else 2)
    assert trips(proxy, lambda: talk("app", "other")) == 3
    assert trips(proxy, lambda: talk("app", look=True)) == 3
    assert trips(proxy, lambda: talk("other", look=True)) == 3
    # Whoever takes part has a transaction, with a savepoint.
    taking_part = trips(proxy, lambda: talk("app", connect=True))
    assert taking_part == (4 if postgresql else 6)


def test_one_connection_is_used_again_and_again(
    near: SQLAlchemyStorage, proxy: CountingProxy
) -> None:
    for _ in range(100):
        near.set("app", "a@x", "POSTING")
        near.get("app", "a@x")
    assert proxy.connections == 1


def test_the_tables_are_checked_in_a_few(served: Place, proxy: CountingProxy) -> None:
    url = sa.make_url(served.url).set(port=proxy.port)
    SQLAlchemyStorage(url).close()
    before = proxy.trips
    SQLAlchemyStorage(url).close()
    assert proxy.trips - before < 25
