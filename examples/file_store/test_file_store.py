"""Proves the store with the kit: `pip install '.[test]'`, then `pytest`."""

from functools import partial
from pathlib import Path

import pytest

from salmon_state import open_storage
from salmon_state.testing import (
    ContractSuite,
    ConversationSuite,
    DurableSuite,
    EntrySuite,
    HostileKeySuite,
    ModelSuite,
    OpenStore,
    RouterSuite,
    SharedConversationSuite,
    SharedEntrySuite,
    SharedSuite,
    ThreadSuite,
    VersionSuite,
)


class InADirectory:
    """Opens the store in a directory of the test's own."""

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        """Returns what opens it, as often as a test needs and in whichever process."""
        return partial(open_storage, f"files:///{tmp_path}")


class TestFileStorage(
    InADirectory,
    ContractSuite,
    EntrySuite,
    HostileKeySuite,
    ModelSuite,
    RouterSuite,
    ThreadSuite,
    ConversationSuite,
    DurableSuite,
    VersionSuite,
):
    """What every durable store can be asked."""

    memory = 50_000_000  # a sender's file is made in memory
    thousands = 300  # files that are synced, each


class TestSharedFileStorage(InADirectory, SharedSuite, SharedEntrySuite):
    """What processes can ask that share it."""


class TestSharedConversations(InADirectory, SharedConversationSuite):
    """One conversation of a sender at a time, whatever process it is in."""
