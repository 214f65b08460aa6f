"""ContractSuite: what every method of StateStorage promises."""

from __future__ import annotations

from salmon_state.testing.lifecycle import LifecycleTests
from salmon_state.testing.records import RecordTests
from salmon_state.testing.states import StateTests
from salmon_state.testing.sweeps import SweepTests

__all__ = ["ContractSuite"]


class ContractSuite(StateTests, RecordTests, SweepTests, LifecycleTests):
    """Every store: the docstrings of `StateStorage`, sentence by sentence.

    `StateTests` is about one conversation, `RecordTests` about listing them, `SweepTests` about
    changing many at once and `LifecycleTests` about the store itself.
    """
