"""Commits of several threads on SQLite: one disk write each, or one for those that meet.

``python -m benchmarks.shared_commits [DIRECTORY]``, which must be on a disk and not in memory. What
is measured is bare sqlite3, as durable as our store: it is the most that sharing could bring to it.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

COMMITS = 640
ROUNDS = 5
UPSERT = (
    "INSERT INTO states VALUES (?, ?) ON CONFLICT (sender) DO UPDATE SET state = excluded.state"
)


def _connect(path: Path) -> sqlite3.Connection:
    made = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60)
    made.execute("PRAGMA journal_mode=WAL")
    made.execute("PRAGMA synchronous=FULL")
    return made


class _Asked:
    def __init__(self, sender: str, state: str) -> None:
        self.row = sender, state
        self.is_done = False


class Commits:
    """Makes each change durable before it returns.

    Args:
        path: The database.
        shared: Whether whoever commits does so for those who wait behind it as well.
    """

    def __init__(self, path: Path, *, shared: bool) -> None:
        self.made = 0
        self._shared = shared
        self._connection = _connect(path)
        self._connection.execute("CREATE TABLE states (sender TEXT PRIMARY KEY, state TEXT)")
        self._committing = threading.Lock()
        self._asking = threading.Lock()
        self._waiting: list[_Asked] = []

    def change(self, sender: str, state: str) -> None:
        """Writes one row."""
        asked = _Asked(sender, state)
        with self._asking:
            self._waiting.append(asked)
        with self._committing:
            if asked.is_done:
                return
            with self._asking:
                together = self._waiting if self._shared else [asked]
                self._waiting = []
            self._commit(together)

    def _commit(self, together: list[_Asked]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(UPSERT, [asked.row for asked in together])
        self._connection.execute("COMMIT")
        self.made += 1
        for asked in together:
            asked.is_done = True

    def close(self) -> None:
        """Closes the database."""
        self._connection.close()


def measure(directory: Path, threads: int, *, shared: bool) -> tuple[float, float]:
    """Returns how many changes a second became durable, and the commits that each took."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        commits = Commits(Path(place, "states.db"), shared=shared)

        def change(first: int) -> None:
            for number in range(first, COMMITS, threads):
                commits.change(f"{number % 200}@example.com", f"STATE_{number}")

        all_ = [threading.Thread(target=change, args=(first,)) for first in range(threads)]
        began = time.perf_counter()
        for each in all_:
            each.start()
        for each in all_:
            each.join()
        took = time.perf_counter() - began
        commits.close()
    return COMMITS / took, commits.made / COMMITS


def main() -> None:
    """Prints the rates and their ratio, by the number of threads."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for threads in (1, 4, 16):
        rounds = [
            (measure(directory, threads, shared=False), measure(directory, threads, shared=True))
            for _ in range(ROUNDS)
        ]
        alone, together = (statistics.median(each[n][0] for each in rounds) for n in (0, 1))
        ratio = statistics.median(b[0] / a[0] for a, b in rounds)
        share = statistics.median(b[1] for _, b in rounds)
        print(
            f"{threads} threads: {alone:,.0f} a second alone, {together:,.0f} together, "
            f"ratio {ratio:.2f}, {share:.2f} commits a change"
        )


if __name__ == "__main__":
    main()
