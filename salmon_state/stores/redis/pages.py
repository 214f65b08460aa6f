"""Going through entries, some hundred at a time: nothing keeps the server busy for long."""

from __future__ import annotations

import heapq
import os
from binascii import unhexlify
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from salmon_state.entries import EVERY, STATE, Entry, Kind, Page, Where
from salmon_state.errors import StorageUnavailable
from salmon_state.keys import Sender
from salmon_state.stores.encoding import encode_state
from salmon_state.stores.redis.connections import Connections
from salmon_state.stores.redis.entries import (
    SENDER,
    Keys,
    damaged,
    decode_entries,
    decode_found,
    decode_name,
    decode_sender,
    encode_field,
    encode_time,
    is_index,
    is_lease,
    members_of,
    tail_of,
)
from salmon_state.stores.redis.indexes import Index
from salmon_state.stores.redis.listing import CLAIM, COUNT, LOOK, PAGE, PEEK, SOME
from salmon_state.stores.redis.scripts import DROP
from salmon_state.stores.redis.servers import Server

__all__ = ["Pages"]

_BYTES = 1_000_000
"""How many bytes are read at once: an attacker's senders may have millions each, as a mail has."""
_ENTRIES = 500
_LATEST = 2**63 - 1

_Due = tuple[int, bytes, Entry]
"""When, the member, and what it stands for."""


class Pages:
    """What concerns the entries of all senders.

    Where a page ended is an iterator that goes on from there, for once: what Redis says about a
    place in a scan means nothing to another server, and nothing at all after a restart.

    Args:
        server: Where they are.
        keys: Which keys are theirs.
    """

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server = server
        self._keys = keys
        self._index = Index(server, keys)

    def page(self, kind: Kind, where: Where, after: Any) -> Page:
        """Returns what `Backend._page` does."""
        rest: Iterator[list[Entry]] = self._all(kind, where) if after is None else after
        entries = next(rest, None)
        if entries is None:
            return Page([], None)
        return Page([entry for entry in entries if where.matches(entry)], rest)

    def _all(self, kind: Kind, where: Where) -> Iterator[list[Entry]]:
        if kind.due and (where.before is not None or where.sender is EVERY):
            return self._by_time(kind, _LATEST if where.before is None else where.before)
        if where.sender is not EVERY:
            return self._of_sender(kind, where.sender)
        if kind is STATE and where != Where():
            found = self._index.find(where)
            if found is not None:
                return self._by_index(found)
        return self._by_key(kind, where)

    # ---------------------------------------------------------------- one sender's

    def _of_sender(self, kind: Kind, sender: Sender) -> Iterator[list[Entry]]:
        key = self._keys.of(sender, kind)
        if kind is STATE:
            reply = self._server.read(key, (b"HGETALL", key))
            yield list(decode_found(self._keys, kind, key, reply)) if reply else []
            return
        fields = self._server.read(key, (b"HKEYS", key))
        names = [field for field in fields if field != SENDER and field[:1] != b"@"]
        while names:
            done, *found = self._server.run(SOME, (key,), names[:_ENTRIES], again=True)
            yield decode_entries(kind, sender, key, found)
            del names[:done]

    # ---------------------------------------------------------------- what is due

    def _by_time(self, kind: Kind, before: int) -> Iterator[list[Entry]]:
        page: list[Entry] = []
        size = 0
        for *_, entry in self._merged(kind, before):
            page.append(entry)
            size += len(entry.value) + len(entry.sender or "")
            if len(page) == _ENTRIES or size > _BYTES:
                yield page
                page, size = [], 0
        if page:
            yield page

    def _merged(self, kind: Kind, before: int) -> Iterator[_Due]:
        """Yields what is due before a moment, in the order of time, out of all sets."""
        process = os.getpid()
        waiting = self._heads(kind)  # each is opened when its first is the next one
        opened: list[tuple[int, bytes, Entry, Iterator[_Due]]] = []
        while waiting or opened:
            if waiting and (not opened or waiting[0][0] <= opened[0][0]):
                head, due = heapq.heappop(waiting)
                if head >= before:
                    waiting = []
                    continue
                rest = self._due_in(due, kind, before)
            else:
                at, member, entry, rest = heapq.heappop(opened)
                if os.getpid() != process:
                    raise StorageUnavailable("an iteration cannot go on in a forked child")
                yield at, member, entry
            following = next(rest, None)
            if following is not None:
                heapq.heappush(opened, (*following, rest))

    def _due_in(self, due: bytes, kind: Kind, before: int, values: bytes = b"1") -> Iterator[_Due]:
        """Yields what is due before a moment in one set."""
        if self._server.paused:
            yield from self._all_in(due, due, kind, set())
            return
        entries = self._keys.head, tail_of(kind)
        ends = encode_time(before), b"%d" % _ENTRIES, values
        more, at, last = b"1", b"", b""
        while more:
            argv = (*entries, at, last, *ends)
            more, at, last, *found = self._server.run(PAGE, (due,), argv, again=True)
            yield from self._decode(kind, found)

    def _all_in(self, due: bytes, part: bytes, kind: Kind, seen: set[bytes]) -> Iterator[_Due]:
        """Yields all in one set, or in a part that it points to, and puts nothing in order.

        Args:
            due: The set, to whose slot all belongs.
            part: Itself, or the part.
            kind: Of which kind.
            seen: What was found in parts, which may be in several.
        """
        start = 0
        while True:
            argv = (self._keys.head, tail_of(kind), b"%d" % start, b"%d" % _ENTRIES)
            looked, pointer, *found = self._server.run(PEEK, (part, due), argv, again=True)
            for each in self._decode(kind, found):
                if part == due or each[1] not in seen:
                    yield each
                if part != due:
                    seen.add(each[1])
            if pointer:
                yield from self._all_in(due, pointer, kind, seen)
            if not looked:
                return
            start += looked

    def _decode(self, kind: Kind, found: Sequence[bytes]) -> Iterator[_Due]:
        for member, at, text, value in zip(*[iter(found)] * 4, strict=True):
            key = self._keys.head + member[:64] + tail_of(kind)
            sender = decode_sender(self._keys, kind, key, text)
            name = decode_name(key, member[64:])
            yield int(at), member, Entry(kind, sender, name, value, int(at))

    def _heads(self, kind: Kind) -> list[tuple[int, bytes]]:
        """Returns a heap of when the first is due in each set, at the earliest, and the set."""
        heads = self._server.heads(kind, self._keys.all_dues)
        heapq.heapify(heads)
        return heads

    def claim(self, kind: Kind, now: int, until: int, limit: int) -> list[Entry]:
        """Takes what is due, as `Backend._claim` does; a script for each set that has some."""
        claimed: list[Entry] = []
        heads = self._heads(kind)
        while heads and heads[0][0] <= now and len(claimed) < limit:
            _, due = heapq.heappop(heads)
            upto = min(now, heads[0][0]) if heads else now
            left = limit - len(claimed)
            times = (encode_time(upto), encode_time(until), encode_time(left))
            argv = (self._keys.head, tail_of(kind), *times)
            head, *found = self._server.change(CLAIM, (due,), argv)
            claimed += [entry for *_, entry in self._decode(kind, found)]
            if head:
                heapq.heappush(heads, (int(float(head)), due))
        return claimed

    # ---------------------------------------------------------------- all keys

    def _by_key(self, kind: Kind, where: Where) -> Iterator[list[Entry]]:
        """Yields the entries of a kind that may match, each once, and nothing of large parts."""
        state = latest = b""
        if kind is STATE and where.value is not None:  # the others' are compared here
            state = encode_state(str(where.value)).encode()
        if kind is STATE and where.before is not None:
            latest = encode_time(where.before)
        argv = b"" if where.name is EVERY else encode_field(where.name), state, latest
        for pool, keys in self._hashes(kind):
            yield from self._look(kind, pool, keys, argv)

    def _look(
        self, kind: Kind, pool: Connections, keys: list[bytes], argv: tuple[bytes, bytes, bytes]
    ) -> Iterator[list[Entry]]:
        """Yields what is in hashes, if a part of it has the field, the state and the time."""
        waiting = [list(self._keys.by_slot(keys))]
        while waiting:
            page: list[Entry] = []
            groups = waiting.pop()
            limit = b"%d" % (_BYTES // (len(groups) or 1))
            replies = self._server.run_each(pool, LOOK, groups, (*argv, limit))
            for group, found in zip(groups, replies, strict=True):
                for key, reply in zip(group, found, strict=False):
                    if reply:
                        page += decode_found(self._keys, kind, key, reply)
                if len(found) < len(group):
                    waiting.append([group[len(found) :]])
            yield page

    # ---------------------------------------------------------------- the index of the states

    def _by_index(self, found: Iterator[tuple[Connections, list[bytes]]]) -> Iterator[list[Entry]]:
        """Yields the states that are in their place in the index, and takes out what is not."""
        for pool, members in found:
            missing = dict.fromkeys(members)
            keys = list(dict.fromkeys(map(self._index.hash_of, members)))
            for entries in self._look(STATE, pool, keys, (b"", b"", b"")):
                page = []
                for entry in entries:
                    for member in members_of(self._keys, entry):
                        if member in missing:
                            del missing[member]
                            page.append(entry)
                yield page
            if missing and not self._server.paused:
                self._index.prune(list(missing))

    def build_index(self) -> None:
        """Makes an index of the states, unless there is one and all of them are in it."""
        if not self._index.is_whole():
            self._index.build(self._hashes(STATE))

    def count(self, kind: Kind) -> int:
        """Returns the number of entries of a kind."""
        if kind.due:
            dues = [self._due_in(due, kind, _LATEST, b"") for _, due in self._heads(kind)]
            return sum(1 for _ in chain.from_iterable(dues))
        total = 0
        fields = b"1" if kind is STATE else b"2"
        for pool, keys in self._hashes(kind):
            groups = list(self._keys.by_slot(keys))
            for count in self._server.run_each(pool, COUNT, groups, (fields,)):
                if isinstance(count, bytes):
                    raise damaged(count, SENDER)
                total += count
        return total

    def wipe(self) -> None:
        """Removes whatever is under the prefix, but for the leases of running conversations.

        What is due is forgotten first: what somebody writes meanwhile is then there in both places,
        or in that one alone, from which it goes by itself. So is the index, if there is one.
        """
        indexed = self._index.is_there()
        if indexed:
            self._index.empty()
        for pattern in (self._keys.dues, self._keys.everything):
            for _, keys in self._keys_like(pattern):
                if pattern == self._keys.everything:
                    keys = [key for key in keys if not (is_lease(key) or b"}:due:" in key)]
                    keys = [key for key in keys if not (indexed and is_index(key))]
                for group in self._keys.by_slot(keys):
                    self._server.change(DROP, group, ())
        if indexed:
            self._index.build(self._hashes(STATE))

    def _keys_like(self, pattern: bytes) -> Iterator[tuple[Connections, list[bytes]]]:
        """Yields keys that match, as they come: some hundred at a time, or none."""
        layout = self._server.layout()
        for pool in self._server.pools():
            for keys in self._server.scan(pool, pattern):
                yield pool, keys
        if self._server.layout() != layout:
            raise StorageUnavailable(
                "the servers of the cluster changed while its keys were gone through, so that some "
                "may have been left out: try again"
            )

    def _hashes(self, kind: Kind) -> Iterator[tuple[Connections, list[bytes]]]:
        """Yields the keys of a kind, each once.

        Redis may give a key repeatedly while its table of keys shrinks.
        """
        seen = _Seen()
        start = len(self._keys.head)
        for pool, keys in self._keys_like(self._keys.pattern(kind)):
            yield pool, [key for key in keys if seen.add(key[start:][:32])]


_HALF = 16
"""Bytes of half a digest."""


class _Seen:
    """Which digests were seen, half of each, in some thirty bytes; a set takes four times that."""

    def __init__(self) -> None:
        self._parts: defaultdict[bytes, bytearray] = defaultdict(bytearray)

    def add(self, half: bytes) -> bool:
        """Adds half of a digest in hexadecimal; returns whether it was not there.

        What is none always was not: it is damaged, and whoever reads it says so.
        """
        try:
            half = unhexlify(half)
        except ValueError:
            return True
        if len(half) < _HALF:
            return True
        part, rest = self._parts[half[:2]], half[2:]
        if rest in part:
            return False
        part += rest
        return True
