"""Repeated: a line in the log for what happens again and again, however often that is."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from salmon_state.log import log

__all__ = ["Repeated"]

_MOST_LINES = 100


class Repeated:
    """Logs the first of many alike at once and then their number, so that no disk is filled.

    Args:
        every: Seconds for which what was logged is only counted.
    """

    def __init__(self, every: float = 60.0) -> None:
        self._every = every
        self._lock = threading.Lock()
        self._said: dict[str, tuple[float, int]] = {}  # when, and how often it was counted since

    def say(
        self, text: str, *arguments: object, level: int = logging.WARNING, **options: Any
    ) -> None:
        """Logs a line, unless one with the same text, whatever its arguments, was just logged."""
        now = time.monotonic()
        with self._lock:
            at, more = self._said.get(text, (now - self._every, 0))
            if now - at < self._every:
                self._said[text] = at, more + 1
                return
            if len(self._said) > _MOST_LINES:
                self._said.clear()
            self._said[text] = now, 0
        if more:
            text, arguments = f"{text} (and %d times since the last such line)", (*arguments, more)
        log().log(level, text, *arguments, **options)
