"""Finding: what a store has to say about itself, and what to do about it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MANY", "STUCK", "Finding", "recommend_indexes"]

STUCK = 60.0
"""Seconds after which a conversation that is still held is worth a look: no handler takes that."""

MANY = 100_000
"""So many conversations take half a second, and more, to be searched."""


class Finding(NamedTuple):
    """One thing that was looked at; see `salmon_state.StateStorage.diagnose`."""

    check: str
    """What it is about: ``durability``, ``replicas``, ``writers``, ``schema``, ``indexes``,
    ``clock``, ``files`` or ``locks``."""
    text: str
    """What there is, in a sentence."""
    advice: str = ""
    """What to do about it; empty if nothing is wrong."""


def recommend_indexes(many: str) -> Finding:
    """Returns that there are many conversations, and none of the indexes that are an option.

    That is no advice: they make each `set` slower, and who never searches has no use for them.
    """
    return Finding(
        "indexes",
        f"{many}, and no index of the states: records, rename and purge look at all of them; "
        "open_storage(url, indexes=True) makes one",
    )
