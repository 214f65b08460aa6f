"""EntrySuite: what the hooks of a store promise about entries of every kind."""

from __future__ import annotations

from salmon_state.testing.churn import ChurnTests
from salmon_state.testing.commits import CommitTests
from salmon_state.testing.expectations import ExpectationTests
from salmon_state.testing.pages import PageTests

__all__ = ["EntrySuite"]


class EntrySuite(ExpectationTests, CommitTests, PageTests, ChurnTests):
    """Every store: the docstrings of `salmon_state.backend`, sentence by sentence.

    `ExpectationTests` is about one entry, `CommitTests` about writing several, `PageTests`
    about listing, sweeping and claiming many, and `ChurnTests` about a store that tidies itself up.
    """
