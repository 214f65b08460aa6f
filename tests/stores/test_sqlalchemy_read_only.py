"""A server that only reads for now, as one does while another takes over: worth another try."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from salmon_state import SQLAlchemyStorage, StorageUnavailable
from tests.stores.sqlalchemy_places import Place


@pytest.fixture
def ordinary_url(served: Place) -> Iterator[str]:
    """The URL of a user whom a read-only server binds; it writes again after the test."""
    if served.kind == "postgresql":
        yield served.url
        return
    yield served.user(f"ALL ON {served.database}.*")
    served.run("SET GLOBAL read_only = 0")


def read_only(place: Place, *, now: bool) -> None:
    if place.kind == "postgresql":
        switch = "on" if now else "off"
        setting = f"SET default_transaction_read_only = {switch}"
        with place.server.connect() as administrator:  # of another database, which can be written
            administrator.execute(f"ALTER DATABASE {place.database} {setting}")
    else:
        place.run(f"SET GLOBAL read_only = {int(now)}")


@pytest.mark.parametrize("known", [True, False], ids=["with its tables", "without tables"])
def test_opening(served: Place, ordinary_url: str, known: bool) -> None:
    """No error of the configuration: a minute later the same URL works."""
    if known:
        SQLAlchemyStorage(ordinary_url).close()
    read_only(served, now=True)
    with pytest.raises(StorageUnavailable):
        SQLAlchemyStorage(ordinary_url)
    read_only(served, now=False)
    with SQLAlchemyStorage(ordinary_url) as store:
        store.set("app", "a@x", "POSTING")


def test_connections_from_before(served: Place, served_store: SQLAlchemyStorage) -> None:
    """Those that lead to a server which only reads now are given up, all of them."""
    served_store.set("app", "a@x", "ONE")
    leases = [served_store._pool.take() for _ in range(3)]
    for lease in leases:
        setting = "default_transaction_read_only = on"
        if served.kind == "mariadb":
            setting = "SESSION TRANSACTION READ ONLY"
        lease.driver.cursor().execute(f"SET {setting}")
        served_store._pool.give_back(lease)
    served_store.set("app", "a@x", "TWO")
    assert served_store.compare_and_set("app", "a@x", "TWO", "THREE") is True
    assert served_store.get("app", "a@x") == "THREE"
