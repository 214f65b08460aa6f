"""The clock of a server: for what says until when it may be done, and beside ours.

A request that is delayed on its way outlives the patience of who sent it, and the connection: it
must not undo what was acknowledged in between. So each says a moment by the server's clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from salmon_state.findings import Finding

__all__ = ["ServerClock", "compare_clocks"]

_DRIFT = 0.001
"""How much faster one clock may run than another: twice what is allowed to whoever adjusts it."""

_FAR_APART = 1.0
"""Seconds; what is due and what expires goes by the clocks of all machines."""


class ServerClock:
    """What the server of one connection takes for the time.

    Args:
        ask: Returns the server's time, in seconds since 1970, given the connection.
        patience: How long after it was sent something may begin, in seconds.
    """

    def __init__(self, ask: Callable[[Any], float], patience: float) -> None:
        self._ask = ask
        self._patience = patience
        self._asked_until = -math.inf
        self._ahead = 0.0

    def deadline(self, connection: Any) -> float:
        """Returns until when what is sent now may begin, by the server's clock.

        In seconds since 1970; too early rather than too late: by how long the server's answer took
        when it was asked for the time, and by how far two clocks may come apart until it is asked
        again, after some minutes; or the next time, if that answer was long in coming.
        """
        now = time.monotonic()
        if now > self._asked_until:
            asked, drift = now, self._patience / 10
            theirs = self._ask(connection)
            now = time.monotonic()
            self._ahead = theirs - now + self._patience - drift
            if now - asked < drift:
                self._asked_until = now + drift / _DRIFT
        return now + self._ahead


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
