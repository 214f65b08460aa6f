"""Ends what the servers of a test run leave behind when the run itself is killed.

A process beside the run, ``python -m tests.janitor``, which reads what to watch from a pipe. The
pipe closes when the run ends, however it ends; what is watched then is killed and removed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


class Janitor:
    """Watches over directories and the process that works in each of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def watch(self, directory: Path, pid: int) -> None:
        """Has a process killed, and its directory removed, if this run does not get to it."""
        self._tell(f"{pid} {directory}")

    def forget(self, directory: Path) -> None:
        """Leaves a directory alone: it is gone."""
        self._tell(f"0 {directory}")

    def _tell(self, line: str) -> None:
        if self._process is None:
            command = [sys.executable, "-m", "tests.janitor"]
            # A session of its own: Ctrl-C is for the run.
            self._process = subprocess.Popen(
                command, cwd=CHECKOUT, stdin=subprocess.PIPE, text=True, start_new_session=True
            )
            atexit.register(self._end, self._process)
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _end(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def clean_up(lines: Iterable[str]) -> None:
    """Reads to the end what is watched, then kills and removes it."""
    watched: dict[str, int] = {}
    for line in lines:
        pid, _, directory = line.rstrip("\n").partition(" ")
        watched[directory] = int(pid)
    for directory, number in watched.items():
        if number:
            with contextlib.suppress(OSError):
                # The number may be somebody else's by now.
                if os.readlink(f"/proc/{number}/cwd").startswith(directory):
                    os.kill(number, signal.SIGKILL)
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    clean_up(sys.stdin)
