"""How a receiver ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Ending"]


class Ending:
    """A receiver that ends at `stop`, when the mails in hand have had their answers.

    Attributes:
        at_end: What is called when it has ended, in its thread; nobody is told before.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.at_end: list[Callable[[], object]] = []
        self._stopping = False
        self._stopped_by: int | None = None
        self._ended = threading.Event()
        super().__init__(*arguments, **options)

    def stop(self) -> None:
        """Asks the receiver to end; safe in a signal handler."""
        self._stopping = True

    def stop_at_signals(self) -> None:
        """Lets SIGTERM and SIGHUP, which is ``salmon stop``, stop it, unless others handle them."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._stop_at_signal)

    def _stop_at_signal(self, number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one kills
        self._stopped_by = number
        self.stop()

    def has_ended(self) -> None:
        """Tells those who wait for it."""
        try:
            for each in self.at_end:
                each()
        finally:
            self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Waits for the receiver to end; returns whether it has."""
        return self._ended.wait(seconds)
