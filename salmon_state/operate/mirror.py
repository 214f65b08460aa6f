"""What two stores hold, in a form that can be compared.

They list their entries in different orders. So each entry has a fingerprint, and what one store
holds and the other one does not is told by eight bytes for each entry of it; while three of these
are there, and grow, a process takes some fifty.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator

from salmon_state.entries import Entry, Kind, Where
from salmon_state.storage import StateStorage

__all__ = ["Digest", "entries_of", "fingerprint", "size"]

_KINDS = tuple(kind for kind in Kind if kind is not Kind.LEASE)
"""What moves: a lock that somebody holds in one store says nothing in another."""

_MODULUS = 1 << 256


class Digest:
    """What a store held when it was gone through, in eight bytes for each entry.

    Attributes:
        entries: How many there were.
        total: The sum of their fingerprints, which is the same for the same entries.
    """

    def __init__(self) -> None:
        self.entries = self.total = 0
        self._parts = [array("Q") for _ in range(256)]  # each is short enough to be sorted at once

    def add(self, number: int) -> None:
        """Adds the fingerprint of one more entry."""
        self.entries += 1
        self.total = (self.total + number) % _MODULUS
        self._parts[number & 255].append(number >> 192)

    def seal(self) -> None:
        """Makes it ready to be asked: nothing is added any more."""
        self._parts = [array("Q", sorted(part)) for part in self._parts]

    def __contains__(self, number: int) -> bool:
        """Whether there was such an entry; of 2⁶⁴ others one is taken for it."""
        part, short = self._parts[number & 255], number >> 192
        place = bisect_left(part, short)
        return place < len(part) and part[place] == short

    def __eq__(self, other: object) -> bool:
        """Whether both are of the same entries, in whatever order they were listed."""
        return isinstance(other, Digest) and self.total == other.total


def fingerprint(entry: Entry) -> int:
    """Returns the SHA-256 of all that an entry says, as a number."""
    kind, sender, name, value, at = entry
    if isinstance(value, bytes):
        whole = hashlib.sha256(ascii([int(kind), sender, name, at]).encode())
        whole.update(value)
    else:
        whole = hashlib.sha256(ascii([int(kind), sender, name, at, value]).encode())
    return int.from_bytes(whole.digest(), "big")


def entries_of(store: StateStorage) -> Iterator[Entry]:
    """Iterates over all that moves, a page at a time."""

    def whole(entries: list[Entry]) -> list[Entry]:
        return entries

    for kind in _KINDS:
        yield from store._go_through(kind, Where(), whole)


def size(store: StateStorage) -> int:
    """Returns how many entries there are."""
    return sum(store._call(store._count, kind) for kind in _KINDS)
