"""How a receiver ends."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["SIZE_LIMIT", "Ending"]

SIZE_LIMIT = 10 * 1024 * 1024
"""Bytes that a mail may have, unless a receiver is told otherwise."""


class Ending:
    """A receiver that ends at `stop`, when the mail in hand has had its answer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._stopping = False
        self._ended = threading.Event()
        super().__init__(*arguments, **options)

    def stop(self) -> None:
        """Asks the receiver to end; safe in a signal handler.

        Clients that are connected but have not finished their mail are cut off and will come
        again.
        """
        self._stopping = True

    def wait(self, seconds: float) -> bool:
        """Waits for the receiver to end; returns whether it has."""
        return self._ended.wait(seconds)
