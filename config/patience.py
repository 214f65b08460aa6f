"""Waiting for a store that is away while the server starts, as a database that fails over is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from salmon_state import StorageUnavailable

__all__ = ["when_there"]

LOG = logging.getLogger("config.patience")

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0


_Result = TypeVar("_Result")


def when_there(prepare: Callable[[], _Result], patience: float) -> _Result:
    """Returns what something with the store gives, tried again and again as long as that is away.

    Args:
        prepare: What to do; it may be done in part, and then anew.
        patience: How long to try, in seconds; 0 tries once.

    Raises:
        StorageUnavailable: It was away all the time.
    """
    deadline = time.monotonic() + patience
    pause = _SHORTEST_PAUSE
    while True:
        try:
            return prepare()
        except StorageUnavailable as error:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise
            LOG.warning("the store is away, tried again in %.1f s: %s", pause, error.detail)
            time.sleep(min(pause, remaining))
            pause = min(2 * pause, _LONGEST_PAUSE)
