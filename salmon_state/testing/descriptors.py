"""What files and sockets are open; needs no pytest, as forked children ask it, too."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["open_files"]


def open_files() -> set[tuple[int, int, int]]:
    """Returns what files and sockets this process has open, each other than any before it."""
    found = set()
    for number in range(1000):  # a new one gets the lowest number that is free
        with suppress(OSError):
            status = os.fstat(number)
            found.add((number, status.st_dev, status.st_ino))
    return found
