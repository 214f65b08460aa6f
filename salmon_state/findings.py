"""Finding: what a store has to say about itself, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["STUCK", "Finding", "compare_clocks"]

STUCK = 60.0
"""Seconds after which a conversation that is still held is worth a look: no handler takes that."""

_FAR_APART = 1.0
"""Seconds; what is due and what expires goes by the clocks of all machines."""


class Finding(NamedTuple):
    """One thing that was looked at; see `salmon_state.StateStorage.diagnose`."""

    check: str
    """What it is about: ``durability``, ``replicas``, ``writers``, ``schema``, ``indexes``,
    ``clock``, ``files`` or ``locks``."""
    text: str
    """What there is, in a sentence."""
    advice: str = ""
    """What to do about it; empty if nothing is wrong."""


def compare_clocks(ours: Callable[[], int], theirs: Callable[[], float]) -> Finding:
    """Returns how far the clock of a server is from ours.

    Args:
        ours: Our time, in microseconds since 1970.
        theirs: Asks the server for its time, in seconds since 1970.
    """
    before = ours()
    answer = theirs()
    after = ours()
    ahead = answer - (before + after) / 2e6
    doubt = (after - before) / 2e6
    text = f"the server's clock is {abs(ahead):.3f} s {'ahead of' if ahead >= 0 else 'behind'} ours"
    wrong = abs(ahead) > doubt + _FAR_APART
    return Finding("clock", text, "set both by NTP (chrony, systemd-timesyncd)" if wrong else "")
