"""Going through entries, some hundred at a time: nothing keeps the server busy for long."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from redis import ResponseError

from salmon_state.entries import EVERY, Entry, Kind, Page, Where
from salmon_state.errors import StorageUnavailable
from salmon_state.keys import Sender
from salmon_state.stores.redis.connections import Command, Connections
from salmon_state.stores.redis.due import CLAIM, PAGE
from salmon_state.stores.redis.entries import (
    SENDER,
    Keys,
    damaged,
    decode_entries,
    decode_found,
    decode_name,
    decode_sender,
    encode_time,
    is_lease,
    tail_of,
)
from salmon_state.stores.redis.scripts import DROP, Script
from salmon_state.stores.redis.servers import Server

__all__ = ["Pages"]

# KEYS: a hash. ARGV: fields; the deadline. Returns of how many the rest is, and what they hold.
SOME = Script("""
local found, bytes = {0}, 0
for i = 1, #ARGV - 1 do
  local field, at = ARGV[i], '@' .. ARGV[i]
  local both = redis.call('HMGET', KEYS[1], field, at)
  if both[1] then
    for _, each in ipairs({field, both[1], at, both[2] or ''}) do found[#found + 1] = each end
    bytes = bytes + #both[1]
  end
  found[1] = i
  if bytes > 1000000 then break end
end
return found
""")

_GROUP_BYTES = 1_000_000
"""How many bytes of senders are read at once: an attacker's may have millions each."""
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
        return self._by_key(kind)

    # ---------------------------------------------------------------- one sender's

    def _of_sender(self, kind: Kind, sender: Sender) -> Iterator[list[Entry]]:
        key = self._keys.of(sender, kind)
        if kind is Kind.STATE:
            reply = checked(key, self._server.read(key, (b"HGETALL", key)))
            if reply:
                yield list(decode_found(self._keys, kind, key, reply))
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
        for *_, entry in self._merged(kind, before):
            page.append(entry)
            if len(page) == _ENTRIES:
                yield page
                page = []
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
        ends = encode_time(before), b"%d" % _ENTRIES, values
        more, place = b"1", [b"", b""]
        while more:
            argv = (self._keys.head, tail_of(kind), *place, *ends)
            more, *place, found = _split(self._server.run(PAGE, (due,), argv, again=True), 3)
            yield from self._decode(kind, found)

    def _decode(self, kind: Kind, found: Sequence[bytes]) -> Iterator[_Due]:
        for member, at, text, value in zip(*[iter(found)] * 4, strict=True):
            key = self._keys.head + member[:64] + tail_of(kind)
            sender = decode_sender(self._keys, kind, key, text)
            name = decode_name(key, member[64:])
            yield int(at), member, Entry(kind, sender, name, value, int(at))

    def _heads(self, kind: Kind) -> list[tuple[int, bytes]]:
        """Returns a heap of when the first is due in each set, at the earliest, and the set."""
        heads = []
        all_dues = self._keys.all_dues(kind)
        if len(all_dues) == 1:
            return [(-_LATEST, all_dues[0])]
        for pool, dues in self._server.by_pool(all_dues):
            commands = [(b"ZRANGE", due, 0, 0, b"WITHSCORES") for due in dues]
            for due, reply in zip(dues, self._server.batch(pool, dues, commands), strict=True):
                found = checked(due, reply)
                if found:
                    score = found[0][1] if isinstance(found[0], (list, tuple)) else found[1]
                    heads.append((int(float(score)), due))
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
            reply = self._server.change(CLAIM, (due,), (self._keys.head, tail_of(kind), *times))
            head, found = _split(reply, 1)
            claimed += [entry for *_, entry in self._decode(kind, found)]
            if head:
                heapq.heappush(heads, (int(float(head)), due))
        return claimed

    # ---------------------------------------------------------------- all keys

    def _by_key(self, kind: Kind) -> Iterator[list[Entry]]:
        """Yields the entries of a kind, each once.

        Redis may give a key repeatedly while its table of keys shrinks. What was seen is known by
        16 bytes of a digest for each sender, which are some 100 bytes of memory in a set.
        """
        for pool, keys in self._fresh_keys(self._keys.pattern(kind)):
            for group in self._groups(pool, keys):
                page: list[Entry] = []
                for key, reply in self._read(pool, group, lambda key: (b"HGETALL", key)):
                    if reply:
                        page += decode_found(self._keys, kind, key, reply)
                yield page

    def count(self, kind: Kind) -> int:
        """Returns the number of entries of a kind."""
        if kind.due:
            dues = [self._due_in(due, kind, _LATEST, b"") for _, due in self._heads(kind)]
            return sum(1 for _ in chain.from_iterable(dues))
        each = 1 if kind is Kind.STATE else 2
        total = 0
        for pool, keys in self._fresh_keys(self._keys.pattern(kind)):
            sizes = self._read(pool, keys, lambda key: (b"HLEN", key))
            senders = self._read(pool, keys, lambda key: (b"HSTRLEN", key, SENDER))
            for (key, fields), (_, length) in zip(sizes, senders, strict=True):
                if fields and length:
                    total += (fields - 1) // each
                elif fields and self._server.read(key, (b"EXISTS", key)):
                    raise damaged(key, SENDER)
        return total

    def wipe(self) -> None:
        """Removes whatever is under the prefix, but for the leases of running conversations.

        What is due is forgotten first: what somebody writes meanwhile is then there in both places,
        or in that one alone, from which it goes by itself.
        """
        for pattern in (self._keys.dues, self._keys.everything):
            for _, keys in self._keys_like(pattern):
                if pattern == self._keys.everything:
                    keys = [key for key in keys if not (is_lease(key) or b"}:due:" in key)]
                for group in self._keys.by_slot(keys):
                    self._server.change(DROP, group, ())

    def _keys_like(self, pattern: bytes) -> Iterator[tuple[Connections, list[bytes]]]:
        layout = self._server.layout()
        for pool in self._server.pools():
            for keys in self._server.scan(pool, pattern):
                if keys:
                    yield pool, keys
        if self._server.layout() != layout:
            raise StorageUnavailable(
                "the servers of the cluster changed while its keys were gone through, so that some "
                "may have been left out: try again"
            )

    def _fresh_keys(self, pattern: bytes) -> Iterator[tuple[Connections, list[bytes]]]:
        seen: set[bytes] = set()
        for pool, keys in self._keys_like(pattern):
            fresh = []
            for key in keys:
                digest = key[len(self._keys.head) :][:32]  # too long for two to begin alike
                if digest not in seen:
                    seen.add(digest)
                    fresh.append(key)
            if fresh:
                yield pool, fresh

    def _groups(self, pool: Connections, keys: Sequence[bytes]) -> Iterator[list[bytes]]:
        group: list[bytes] = []
        size = 0
        for key, length in self._read(pool, keys, lambda key: (b"HSTRLEN", key, SENDER)):
            if group and size + length > _GROUP_BYTES:
                yield group
                group, size = [], 0
            group.append(key)
            size += length
        if group:
            yield group

    def _read(
        self, pool: Connections, keys: Sequence[bytes], command: Callable[[bytes], Command]
    ) -> Iterator[tuple[bytes, Any]]:
        replies = self._server.batch(pool, keys, [command(key) for key in keys])
        for key, reply in zip(keys, replies, strict=True):
            yield key, checked(key, reply)


def _split(reply: Sequence[bytes], count: int) -> list[Any]:
    return [*reply[:count], reply[count:]]


def checked(key: bytes, reply: Any) -> Any:
    """Returns a reply, or raises what it says about a key.

    Raises:
        StorageError: Something else is there than what belongs there.
        redis.ResponseError: The server's error.
    """
    if not isinstance(reply, Exception):
        return reply
    if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
        raise damaged(key) from reply
    raise reply
