"""The databases that the tests of the SQL stores run on, each fresh for its test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from salmon_state import SQLAlchemyStorage
from tests.services import lent_database
from tests.stores.sqlalchemy_places import HANG, Place


@pytest.fixture(params=("sqlite", "postgresql", "mariadb"))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield Place("sqlite", f"sqlite:///{tmp_path}/states.db")
        return
    server = request.getfixturevalue(request.param)
    with lent_database(server) as url:
        yield Place(request.param, url, server)


@pytest.fixture(params=("postgresql", "mariadb"))
def served(request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty database on each kind of server, which runs again when the test is over."""
    server = request.getfixturevalue(request.param)
    with lent_database(server) as url:
        yield Place(request.param, url, server)
    server.resume()
    if server.process.poll() is not None:
        server.start()


@pytest.fixture(scope="module")
def emptied() -> Iterator[Callable[[str, Any], str]]:
    """Gives a function that returns the URL of a database whose tables have no row.

    For tests of what a store does with rows: making the tables takes longer than most of them.
    """
    kept: dict[str, tuple[str, Any]] = {}
    with contextlib.ExitStack() as administrators:

        def empty(kind: str, server: Any) -> str:
            if kind not in kept:
                place = Place(kind, server.fresh_database(), server)
                SQLAlchemyStorage(place.url).close()
                kept[kind] = place.url, administrators.enter_context(place.administrator())
            url, cursor = kept[kind]
            remove = "TRUNCATE" if kind == "postgresql" else "DELETE FROM"  # the quicker one
            for table in ("salmon_state", "salmon_state_entries"):
                cursor.execute(f"{remove} {table}")
            return url

        yield empty


@pytest.fixture
def store(place: Place) -> Iterator[SQLAlchemyStorage]:
    """A store in each kind of database."""
    with SQLAlchemyStorage(place.url, timeout=HANG) as store:
        yield store


@pytest.fixture
def served_store(served: Place) -> Iterator[SQLAlchemyStorage]:
    """A store on each kind of server."""
    with SQLAlchemyStorage(served.url, timeout=HANG) as store:
        yield store
