"""SQLAlchemyStorage keeps the contract of all stores, on each kind of database."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from salmon_state import SQLAlchemyStorage
from salmon_state.entries import Kind, Where
from salmon_state.testing import (
    ContractSuite,
    DurableSuite,
    EntrySuite,
    HostileKeySuite,
    ModelSuite,
    RouterSuite,
    SharedEntrySuite,
    SharedSuite,
    ThreadSuite,
    VersionSuite,
)
from salmon_state.testing.suite import OpenStore


class TestSQLAlchemyStorage(
    ContractSuite,
    EntrySuite,
    ModelSuite,
    RouterSuite,
    ThreadSuite,
    DurableSuite,
    SharedEntrySuite,
    SharedSuite,
):
    runs = reopening_runs = 10  # on each of three databases

    @pytest.fixture
    def open_store(self, open_anywhere: OpenStore) -> OpenStore:
        return open_anywhere


@pytest.mark.stress
class TestSQLAlchemyStorageForLong(
    ModelSuite, ThreadSuite, DurableSuite, SharedSuite, SharedEntrySuite
):
    moments = thread_moments = 16
    takers_killed = commits_killed = 20
    commit_size = 125
    runs = 200
    sets = 500
    reopening_runs = 100
    kills = 50
    writes = 1000
    kills_beside_others = 20

    @pytest.fixture
    def open_store(self, open_anywhere: OpenStore) -> OpenStore:
        return open_anywhere


@pytest.fixture(scope="module", params=("sqlite", "postgresql", "mariadb"))
def kept(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SQLAlchemyStorage]:
    """A store in each kind of database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('hostile')}/states.db"
    else:
        url = request.getfixturevalue(request.param).fresh_database()
    with SQLAlchemyStorage(url) as store:
        yield store


class TestHostileKeys(HostileKeySuite):
    """They are many: a store is made once for all of them, and emptied."""

    @pytest.fixture
    def store(self, kept: SQLAlchemyStorage) -> SQLAlchemyStorage:
        kept._sweep(Kind.STATE, Where(), None)  # to truncate a table takes longer
        return kept


@pytest.mark.slow
class TestVersions(VersionSuite):
    """What they could disagree about, the digests, has nothing to do with the database."""

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(SQLAlchemyStorage, f"sqlite:///{tmp_path}/states.db")
