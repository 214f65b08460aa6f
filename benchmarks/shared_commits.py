"""Conversations on SQLite that commit at the same time: who waits for the disk, with which lock.

``python -m benchmarks.shared_commits [DIRECTORY]``, which must be on a disk and not in memory.
Ours, which waits for the disk when its commit has given SQLite's lock back, beside ours as it would
be if SQLite did so before (``synchronous = FULL``).
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from salmon_state import open_storage
from salmon_state.stores.sqlalchemy.databases.sqlite_patience import PatientConnection

SECONDS = 1.0
ROUNDS = 7
WHO = ((1, 1), (1, 8), (2, 1), (2, 8))
"""Processes, and threads of each."""


def converse(path: Path, process: int, threads: int, by_hand: bool, start: Any, done: Any) -> None:
    """Runs the threads of a process, and says how many conversations they had."""
    if not by_hand:
        PatientConnection.sync_by_hand = lambda _: None  # type: ignore[method-assign]
    counts = [0] * threads
    with open_storage(f"sqlite:///{path}") as store:

        def run(number: int) -> None:
            start.wait()
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                sender = f"{process}-{number}-{counts[number] % 100}@example.com"
                with store.conversation(sender):
                    store.get("app.handlers", sender)
                    store.set("app.handlers", sender, f"STATE_{counts[number]}")
                counts[number] += 1

        all_ = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for each in all_:
            each.start()
        for each in all_:
            each.join()
    done.put(sum(counts))


def measure(directory: Path, processes: int, threads: int, *, by_hand: bool) -> float:
    """Returns how many conversations a second all of them have."""
    context = multiprocessing.get_context("spawn")
    start, done = context.Barrier(processes * threads), context.Queue()
    with tempfile.TemporaryDirectory(dir=directory) as place:
        path = Path(place, "states.db")
        open_storage(f"sqlite:///{path}").close()
        all_ = [
            context.Process(target=converse, args=(path, number, threads, by_hand, start, done))
            for number in range(processes)
        ]
        for each in all_:
            each.start()
        total: int = sum(done.get() for _ in all_)
        for each in all_:
            each.join()
    return total / SECONDS


def main() -> None:
    """Prints the rates and their ratio, by how many there are."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for processes, threads in WHO:
        rounds = [
            [measure(directory, processes, threads, by_hand=each) for each in (False, True)]
            for _ in range(ROUNDS)
        ]
        locked, free = (statistics.median(each[n] for each in rounds) for n in (0, 1))
        ratio = statistics.median(b / a for a, b in rounds)
        print(
            f"{processes} processes of {threads} threads: {locked:,.0f} a second if SQLite waits "
            f"for the disk, {free:,.0f} if we do, ratio {ratio:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
