"""Proves the store with the kit: `pip install '.[test]'`, then `pytest`."""

from functools import partial
from pathlib import Path

import pytest

from salmon_state import open_storage
from salmon_state.testing import (
    ContractSuite,
    ConversationSuite,
    DurableSuite,
    HostileKeySuite,
    ModelSuite,
    OpenStore,
    RouterSuite,
    SharedConversationSuite,
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
    HostileKeySuite,
    ModelSuite,
    RouterSuite,
    ThreadSuite,
    ConversationSuite,
    DurableSuite,
    VersionSuite,
):
    """What every durable store can be asked."""


class TestSharedFileStorage(InADirectory, SharedSuite):
    """What processes can ask that share it."""


class TestSharedConversations(InADirectory, SharedConversationSuite):
    """One conversation of a sender at a time, whatever process it is in."""
