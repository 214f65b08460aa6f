"""Leaving a relay alone that is down."""

from __future__ import annotations

import random
import threading
import time

from salmon_state.log import log
from salmon_state.mail.answers import RelayDown

__all__ = ["Pause"]

_LONGEST = 60.0
"""Seconds."""


class Pause:
    """Lets the relay be while it is down, all connections of this process.

    Attributes:
        failures: How often it has been down since it last took something.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._until = 0.0
        self._changing = threading.Lock()

    def is_on(self) -> bool:
        """Returns whether nobody shall try now."""
        return time.monotonic() < self._until

    def begin(self, error: RelayDown) -> None:
        """Lets it be for a while, each time for longer, unless somebody else has found out."""
        with self._changing:
            if self.is_on():
                return
            wait = min(2.0 ** min(self.failures, 10), _LONGEST)
            self.failures += 1
            about = wait * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
            self._until = time.monotonic() + about
        log().warning("the relay is down, tried again in %.0f s: %s", wait, error)

    def end(self) -> None:
        """Notes that it takes something again."""
        self.failures = 0
