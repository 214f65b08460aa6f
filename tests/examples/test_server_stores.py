"""The stores on servers that docs/writing-a-store.md has to copy."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from examples.server_stores.compare_and_set import DocumentStorage
from examples.server_stores.transactions import TableStorage
from salmon_state.testing import (
    EntrySuite,
    OpenStore,
    SharedStoreSuites,
    StoreSuite,
)
from tests.redis_services import RedisServer, fresh_prefix

UNFAIR = {"test_a_busy_sender_starves_no_process": "whoever waits for a lease is promised no turn"}


class Transactions(StoreSuite):
    store_name = "TableStorage"
    many = 2_000

    @pytest.fixture(scope="module")
    def conninfo(self, postgresql: Any) -> str:
        return str(postgresql.fresh_database()).replace("+psycopg", "")

    @pytest.fixture
    def open_store(self, conninfo: str) -> OpenStore:
        open_store = partial(TableStorage, conninfo)
        with open_store() as store:
            store._wipe()
        return open_store


class Documents(StoreSuite):
    store_name = "DocumentStorage"
    many = 2_000
    largest = 2_000_000  # a document is read and written whole, six times
    freed_within = 20.0
    left_out = UNFAIR

    @pytest.fixture
    def open_store(self, redis_server: RedisServer) -> OpenStore:
        return partial(DocumentStorage, redis_server.url(), prefix=fresh_prefix())


class TestTransactions(Transactions, EntrySuite):
    """What can go wrong with expectations, and in a commit."""


class TestDocuments(Documents, EntrySuite):
    """The same."""


@pytest.mark.stress  # some six hundred tests
class TestTransactionsWholly(Transactions, SharedStoreSuites):
    """Everything."""


@pytest.mark.stress
class TestDocumentsWholly(Documents, SharedStoreSuites):
    """Everything."""
