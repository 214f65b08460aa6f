"""Making one store hold what another one does, while that one is in use.

Two stores list their entries in different orders, so they are compared by the digests of some ten
thousand buckets, into which the key of an entry sends it: what differs is found in one pass over
each, in bounded memory, and only that is written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Set
from functools import partial
from typing import Any, NamedTuple

from salmon_state.entries import Entry, Kind, Seen, Where, Write, in_order
from salmon_state.errors import Overtaken
from salmon_state.storage import StateStorage

__all__ = ["ALL", "Digest", "Step", "digest", "remove", "size", "write"]

_KINDS = tuple(kind for kind in Kind if kind is not Kind.LEASE)
"""What moves: a lock that somebody holds in one store says nothing in another."""

_BUCKETS = 1 << 14
ALL = frozenset(range(_BUCKETS))
"""All buckets."""
_MODULUS = 1 << 256

Step = Callable[[], object]
"""Called for each entry that was read; what it raises ends the work, and can go on later."""


class Digest(NamedTuple):
    """What two stores have in common if they hold the same, in whatever order they list it."""

    entries: int
    buckets: list[int]
    """Of each the sum of the SHA-256 of its entries."""

    @property
    def total(self) -> int:
        """The sum of the SHA-256 of each entry."""
        return sum(self.buckets) % _MODULUS

    def differing(self, other: Digest) -> set[int]:
        """Returns the buckets in which two stores hold something else."""
        pairs = zip(self.buckets, other.buckets, strict=True)
        return {number for number, (ours, theirs) in enumerate(pairs) if ours != theirs}

    def __str__(self) -> str:
        return f"{self.entries:,} entries ({self.total:064x})"


class _Marked(NamedTuple):
    bucket: int
    number: int


def digest(store: StateStorage, step: Step) -> Digest:
    """Reads a whole store and returns the digest of its entries."""
    count, buckets = 0, [0] * _BUCKETS
    for kind in _KINDS:
        for bucket, number in store._go_through(kind, Where(), partial(map, _mark)):
            count += 1
            buckets[bucket] = (buckets[bucket] + number) % _MODULUS
            step()
    return Digest(count, buckets)


def _mark(entry: Entry) -> _Marked:
    key = _key(entry)
    value: Any = entry.value if isinstance(entry.value, bytes) else ascii(entry.value).encode()
    whole = hashlib.sha256(b"%d %a %d %b " % (len(key), entry.at, len(value), key))
    whole.update(value)
    return _Marked(_bucket(key), int.from_bytes(whole.digest(), "big"))


def _key(entry: Entry) -> bytes:
    return ascii([int(entry.kind), entry.sender, entry.name]).encode()


def _bucket(key: bytes) -> int:
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") % _BUCKETS


def _in(buckets: Set[int], entries: list[Entry]) -> list[Entry]:
    if len(buckets) == _BUCKETS:
        return entries
    return [entry for entry in entries if _bucket(_key(entry)) in buckets]


def size(store: StateStorage) -> int:
    """Returns how many entries there are."""
    return sum(store._call(store._count, kind) for kind in _KINDS)


def write(source: StateStorage, target: StateStorage, buckets: Set[int], step: Step) -> int:
    """Writes what the source has in some buckets, over what is there; returns how many entries."""
    written = 0
    for entries in _pages(source, step):
        for part in target._atomic(_in(buckets, entries)):
            target._call(target._commit, in_order(Write(*entry) for entry in part))
            written += len(part)
    return written


def remove(source: StateStorage, target: StateStorage, buckets: Set[int], step: Step) -> int:
    """Removes what the target has in some buckets and the source has not; returns how many."""
    removed = 0
    for entries in _pages(target, step):
        for entry in _in(buckets, entries):
            if not source._call(source._load, entry.sender, ((entry.kind, entry.name),)):
                write = Write(*entry[:3], None, None, Seen(at=entry.at))
                try:
                    removed += target._call(target._commit, (write,))[0]
                except Overtaken:  # somebody uses the target
                    continue
    return removed


def _pages(store: StateStorage, step: Step) -> Iterator[list[Entry]]:
    def whole(entries: list[Entry]) -> Iterable[list[Entry]]:
        for _ in entries:
            step()
        return (entries,) if entries else ()

    for kind in _KINDS:
        yield from store._go_through(kind, Where(), whole)
