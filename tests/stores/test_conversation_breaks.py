"""A network that fails in the middle of a conversation with a database server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import sqlalchemy as sa

from salmon_state import SQLAlchemyStorage, StorageUnavailable, current_conversation
from salmon_state.testing.endings import left_with, refused
from salmon_state.testing.suite import contents
from tests.counting_proxy import CountingProxy
from tests.stores.sqlalchemy_places import HANG, Place

ANNA, BEN = "anna@example.com", "ben@example.com"


@pytest.fixture
def proxy(served: Place) -> Iterator[CountingProxy]:
    with CountingProxy(served.server.port) as proxy:
        yield proxy


@pytest.fixture
def store(served: Place, proxy: CountingProxy) -> Iterator[SQLAlchemyStorage]:
    """A store that reaches its server through the proxy."""
    with SQLAlchemyStorage(sa.make_url(served.url).set(port=proxy.port)) as store:
        yield store


def check_that_it_goes_on(store: SQLAlchemyStorage) -> None:
    """The next mail of the sender finds nothing changed and the lock free."""
    assert current_conversation() is None
    assert contents(store) == {}
    with store.conversation(ANNA, timeout=HANG):
        store.set("app", ANNA, "TWO")
    assert contents(store) == {("app", ANNA): "TWO"}


def test_a_connection_that_breaks_inside(store: SQLAlchemyStorage, proxy: CountingProxy) -> None:
    """With the connection the lock is lost: nothing may be committed on another one."""
    with refused(store, ANNA, StorageUnavailable):
        store.set("app", ANNA, "ONE")
        proxy.break_connections()
        with suppress(StorageUnavailable):  # by a handler that takes it for a small matter
            store.get("app", BEN)
        with pytest.raises(StorageUnavailable), store.conversation(BEN):
            raise AssertionError("it was entered")
    check_that_it_goes_on(store)


def test_a_connection_that_breaks_before_the_commit(
    store: SQLAlchemyStorage, proxy: CountingProxy
) -> None:
    with refused(store, ANNA, StorageUnavailable):
        store.set("app", ANNA, "ONE")
        proxy.break_connections()
    check_that_it_goes_on(store)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), ValueError()])
def test_a_connection_that_breaks_while_another_error_is_on_its_way(
    store: SQLAlchemyStorage, proxy: CountingProxy, error: BaseException
) -> None:
    """A rollback that cannot be sent has happened all the same, and hides no error."""
    if isinstance(error, ValueError):  # whose writes had to be committed
        with pytest.raises(StorageUnavailable), store.conversation(ANNA):
            _break(store, proxy, error)
    else:
        with left_with(store, ANNA, error):
            store.set("app", ANNA, "ONE")
            proxy.break_connections()
    check_that_it_goes_on(store)


def _break(store: SQLAlchemyStorage, proxy: CountingProxy, error: BaseException) -> None:
    store.set("app", ANNA, "ERROR")
    proxy.break_connections()
    raise error


def test_a_connection_that_breaks_under_a_handlers_statement(
    store: SQLAlchemyStorage, proxy: CountingProxy
) -> None:
    """The handler sees SQLAlchemy's error; hiding it does not make the rest happen."""
    with refused(store, ANNA, StorageUnavailable):
        current = current_conversation()
        assert current is not None
        store.set("app", ANNA, "ONE")
        connection = current.connection
        proxy.break_connections()
        with pytest.raises(sa.exc.DBAPIError):
            connection.execute(sa.text("SELECT 1"))
    check_that_it_goes_on(store)


def test_a_connection_that_breaks_in_an_inner_conversation(
    store: SQLAlchemyStorage, proxy: CountingProxy
) -> None:
    with refused(store, ANNA, StorageUnavailable):
        store.set("app", ANNA, "ONE")
        inner = store.conversation(BEN)
        inner.__enter__()
        assert inner.connection is not None
        proxy.break_connections()
        with pytest.raises(StorageUnavailable):
            inner.__exit__(None, None, None)
    check_that_it_goes_on(store)


def test_a_connection_that_broke_before(store: SQLAlchemyStorage, proxy: CountingProxy) -> None:
    """A connection that died while nobody used it costs no mail."""
    with store.conversation(ANNA):
        pass
    proxy.break_connections()
    check_that_it_goes_on(store)
