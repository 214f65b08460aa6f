"""What the processes do that the tests of copy start."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from typing import Any

from salmon_state import StorageUnavailable, open_storage
from salmon_state.entries import Write
from salmon_state.operate.copying import Copy
from salmon_state.testing.processes import forking_context

CONTEXT = forking_context(__name__)
"""Its processes are forked from one that has imported this."""


def copy_and_die(source: str, target: str, commits: int, *, after: bool) -> None:
    """Copies, and is killed at a commit: before it was asked for, or when it has happened."""
    with open_storage(source) as old, open_storage(target) as new:
        real, left = new._commit, [commits]

        def commit(writes: Iterable[Write]) -> list[int]:
            left[0] -= 1
            if not after and not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            done = real(writes)
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        new._commit = commit  # type: ignore[method-assign]
        Copy(old, new).run()


def write_until(url: str, stopped: Any, written: Any, rate: float) -> None:
    """Sets states like mails do, so many a second; says how many were acknowledged.

    Of a hundred senders, each in the state of the last number that was acknowledged.
    """
    number = 0
    with open_storage(url) as store:
        while not stopped.is_set():
            sender = f"{number % 100}@live"
            try:
                with store.conversation(sender):
                    store.set("app", sender, f"S{number}" if number % 7 else "START")
            except StorageUnavailable:
                continue  # it comes again
            number += 1
            written.value = number
            time.sleep(1 / rate)
