"""The whole kit finds nothing wrong with right stores that have the four required hooks alone.

One is the smallest of docs/writing-a-store.md, the other one durable and shared: all else that
they do are the defaults.
"""

from __future__ import annotations

import doctest
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from salmon_state.storage import StateStorage
from salmon_state.testing import (
    DurableSuite,
    EveryStoreSuites,
    FaultSuite,
    FileSuite,
    OpenStore,
    RouterSuite,
    SharedConversationSuite,
    SharedEntrySuite,
    SharedStoreSuites,
    SharedSuite,
    StoreSuite,
)
from tests.testing.right_stores import OneProcess, ShortLeases, TablePlace, TableStorage
from tests.testing.wrong_shared_conversations import LockedTable

UNFAIR = {"test_a_busy_sender_starves_no_process": "whoever waits for a lease is promised no turn"}

GUIDE = Path(__file__).parents[2] / "docs" / "writing-a-store.md"


def smallest_store() -> Any:
    """Returns the class that the guide begins with."""
    names: dict[str, Any] = {"__name__": "guide"}
    for example in doctest.DocTestParser().get_examples(GUIDE.read_text()):
        exec(example.source, names)
        if "DictStorage" in names:
            return names["DictStorage"]
    raise AssertionError("the guide has no DictStorage")


class TestDict(EveryStoreSuites):
    runs = conversation_runs = 5
    memory = 100_000_000  # this store keeps them where others do not

    @pytest.fixture
    def open_store(self) -> OpenStore:
        return smallest_store()  # type: ignore[no-any-return]


class Table(TablePlace, StoreSuite):
    freed_within = 30.0
    left_out = UNFAIR

    @pytest.fixture
    def open_store(self, place: Path) -> OpenStore:
        return partial(ShortLeases, str(place / "states.db"))


class TestTable(Table, DurableSuite, SharedSuite, SharedEntrySuite, SharedConversationSuite):
    """Those suites that the dict cannot pass; the file store passes that of other Pythons."""

    reopening_runs = 5
    mails = 20  # the default lock is two commits
    histories = 1


class TestOneProcess(TablePlace, RouterSuite, DurableSuite):
    """No suite holds the store open while another one has a process open it."""

    reopening_runs = 1

    @pytest.fixture
    def open_store(self, place: Path) -> OpenStore:
        return partial(OneProcess, str(place / "states.db"))


@pytest.mark.stress
class TestTableWholly(Table, SharedStoreSuites):
    """All of them, for as long as a store's author runs them."""


class TestLockedTable(TablePlace, SharedConversationSuite):
    """What the wrong ones are made from, with the locks of most."""

    mails = 40

    @pytest.fixture
    def open_store(self, place: Path) -> OpenStore:
        return partial(LockedTable, str(place / "states.db"))


class Impatient(TableStorage):
    timeout = 0.5


class TestFaults(TablePlace, FaultSuite, FileSuite):
    @pytest.fixture
    def open_store(self, place: Path) -> OpenStore:
        return partial(Impatient, str(place / "states.db"))

    @pytest.fixture
    def open_at(self) -> Callable[[str], StateStorage]:
        return TableStorage
