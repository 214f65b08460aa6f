"""The clock of a server, for statements that say until when they may be made."""

from __future__ import annotations

import math
import time
from typing import Any

__all__ = ["ServerClock"]

_DRIFT = 0.001
"""How much faster one clock may run than another: twice what is allowed to whoever adjusts it."""


class ServerClock:
    """What the server of one connection takes for the time.

    Args:
        question: Selects the server's time, in seconds since 1970.
        patience: How long after it was sent a statement may begin, in seconds.
    """

    def __init__(self, question: str, patience: float) -> None:
        self._question = question
        self._patience = patience
        self._asked_until = -math.inf
        self._ahead = 0.0

    def deadline(self, driver: Any) -> float:
        """Returns until when a statement that is sent now may begin, by the server's clock.

        In seconds since 1970; too early rather than too late: by how long the server's answer took
        when it was asked for the time, and by how far two clocks may come apart until it is asked
        again, after some minutes.

        Args:
            driver: The connection.
        """
        now = time.monotonic()
        if now > self._asked_until:
            cursor = driver.cursor()
            cursor.execute(self._question)
            ((theirs,),) = cursor.fetchall()
            cursor.close()
            now = time.monotonic()
            drift = self._patience / 10
            self._asked_until = now + drift / _DRIFT
            self._ahead = theirs - now + self._patience - drift
        return now + self._ahead
