"""Finding: what a store has to say about itself, and what to do about it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["STUCK", "Finding"]

STUCK = 60.0
"""Seconds after which a conversation that is still held is worth a look: no handler takes that."""


class Finding(NamedTuple):
    """One thing that was looked at; see `salmon_state.StateStorage.diagnose`."""

    check: str
    """What it is about: ``durability``, ``replicas``, ``writers``, ``schema``, ``indexes``,
    ``clock``, ``files`` or ``locks``."""
    text: str
    """What there is, in a sentence."""
    advice: str = ""
    """What to do about it; empty if nothing is wrong."""
