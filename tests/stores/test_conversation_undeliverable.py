"""One mail ends in one place: told to come again, or kept in the undeliverable queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from salmon.queue import Queue

from salmon_state import SQLAlchemyStorage, StorageUnavailable, attach, current_conversation
from salmon_state.testing.suite import contents
from tests.counting_proxy import CountingProxy
from tests.delivery.router import MODULE, Ring, mail, router  # noqa: F401 - a fixture
from tests.stores.sqlalchemy_places import Place

ANNA = "anna@example.com"


@pytest.fixture
def proxy(served: Place) -> Iterator[CountingProxy]:
    with CountingProxy(served.server.port) as proxy:
        yield proxy


@pytest.fixture
def store(served: Place, proxy: CountingProxy) -> Iterator[SQLAlchemyStorage]:
    """A store that reaches its server through the proxy."""
    with SQLAlchemyStorage(sa.make_url(served.url).set(port=proxy.port)) as store:
        yield store


def lend() -> sa.Connection:
    conversation = current_conversation()
    assert conversation is not None
    connection: sa.Connection = conversation.connection
    return connection


def execute(proxy: CountingProxy) -> None:
    connection = lend()
    proxy.break_connections()
    connection.execute(sa.text("SELECT 1"))


def go_on_after_an_error(proxy: CountingProxy) -> None:
    """With a statement that SQLAlchemy does not even send."""
    connection = lend()
    proxy.break_connections()
    with pytest.raises(sa.exc.DBAPIError):
        connection.execute(sa.text("SELECT 1"))
    connection.execute(sa.text("SELECT 1"))


def past_sqlalchemy(proxy: CountingProxy) -> None:
    cursor = lend().connection.cursor()
    proxy.break_connections()
    cursor.execute("SELECT 1")


def a_fault_of_its_own(proxy: CountingProxy) -> None:
    """Which has nothing to do with the connection, not even asked for it."""
    proxy.break_connections()
    raise ZeroDivisionError


HANDLERS = [execute, go_on_after_an_error, past_sqlalchemy, a_fault_of_its_own]


@pytest.mark.parametrize("handle", HANDLERS)
def test_a_connection_that_breaks_in_a_handler(
    router: Any,  # noqa: F811
    store: SQLAlchemyStorage,
    proxy: CountingProxy,
    tmp_path: Path,
    handle: Callable[[CountingProxy], None],
) -> None:
    """The mail comes again, so no copy is kept; whoever replays the queue would handle it twice."""
    router.UNDELIVERABLE_QUEUE = Queue(str(tmp_path / "undeliverable"))
    attach(router, store)
    broken: list[int] = []

    def once(message: Any, state: str) -> None:
        if not broken:
            broken.append(1)
            handle(proxy)

    Ring(once)
    with pytest.raises(StorageUnavailable):
        router.deliver(mail(ANNA))
    assert len(router.UNDELIVERABLE_QUEUE) == 0
    assert contents(store) == {}
    router.deliver(mail(ANNA))
    assert contents(store).keys() == {(MODULE, ANNA)}


def test_a_failed_statement_is_kept(
    router: Any,  # noqa: F811
    store: SQLAlchemyStorage,
    tmp_path: Path,
) -> None:
    """A statement that the database refuses will be refused the next time as well."""
    router.UNDELIVERABLE_QUEUE = Queue(str(tmp_path / "undeliverable"))
    attach(router, store)

    def handle(message: Any, state: str) -> None:
        lend().execute(sa.text("SELECT nonsense"))

    Ring(handle)
    router.deliver(mail(ANNA))
    assert len(router.UNDELIVERABLE_QUEUE) == 1
    assert contents(store) == {(MODULE, ANNA): "ERROR"}
