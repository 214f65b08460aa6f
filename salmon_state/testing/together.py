"""The suites put together, by how far a store reaches."""

from __future__ import annotations

from salmon_state.testing.contract import ContractSuite
from salmon_state.testing.conversations import ConversationSuite, SharedConversationSuite
from salmon_state.testing.durable import DurableSuite
from salmon_state.testing.entries import EntrySuite
from salmon_state.testing.hostile import HostileKeySuite
from salmon_state.testing.model import ModelSuite
from salmon_state.testing.router import RouterSuite
from salmon_state.testing.shared import SharedSuite
from salmon_state.testing.shared_entries import SharedEntrySuite
from salmon_state.testing.threads import ThreadSuite
from salmon_state.testing.versions import VersionSuite

__all__ = ["EveryStoreSuites", "SharedStoreSuites"]


class EveryStoreSuites(
    ContractSuite,
    EntrySuite,
    HostileKeySuite,
    ModelSuite,
    RouterSuite,
    ConversationSuite,
    ThreadSuite,
):
    """What every store is asked that fills in the hooks, if it lives no longer than its process."""


class SharedStoreSuites(
    EveryStoreSuites,
    DurableSuite,
    SharedSuite,
    SharedEntrySuite,
    SharedConversationSuite,
    VersionSuite,
):
    """What a store is asked that outlives its process, and that processes share."""
