"""Uses one store and prints the most memory that took, in KiB.

``python -m benchmarks.growth.reader URL SIZE``; a process of its own, with nothing in it
that the store does not need.
"""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

from salmon_state import open_storage
from salmon_state.entries import Kind, Write

MODULE = "app.handlers"


def main(url: str, size: str) -> None:
    store = open_storage(url)
    if url == "memory://":
        store._commit(
            Write(Kind.STATE, f"subscriber{number}@example.com", MODULE, "CONFIRMING", number)
            for number in range(int(size))
        )
    for number in range(1000):
        store.get(MODULE, f"subscriber{number}@example.com")
    for _ in itertools.islice(store.records(), 100):
        pass
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    print(peak[1] if peak else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
