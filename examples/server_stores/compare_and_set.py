"""DocumentStorage: all entries of a sender in one document, which a server compares and sets.

That is all that it asks of a server: to give a document, to replace it if it is still the one that
was read, and to list names in order. Redis stands for whatever can do that. The lock of a sender is
the default one, a LEASE entry in the sender's document.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis

from salmon_state import StateStorage, StorageError, StorageUnavailable
from salmon_state.entries import EVERY, Entry, Kind, Page, Place, Want, Where, Write, change
from salmon_state.keys import Sender, ascii_key, parse_key
from salmon_state.stores.encoding import decode_state, encode_state, sender_digest

__all__ = ["DocumentStorage"]

_PAGE = 100
"""How many documents a page looks at; or how many entries it has, where it must look at all."""

# What it compares is the digest of what was read: a document may have 20 MB.
_COMPARE_AND_SET = """
local found = redis.call('HGET', KEYS[1], ARGV[1])
if (found and redis.sha1hex(found) or '') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
    redis.call('HDEL', KEYS[1], ARGV[1])
    redis.call('ZREM', KEYS[2], ARGV[1])
else
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
    redis.call('ZADD', KEYS[2], 0, ARGV[1])
end
return 1
"""


class DocumentStorage(StateStorage):
    """Keeps what each sender has in a document on a server, for any number of machines.

    A commit of several senders is one of each, after the expectations of all were seen to hold.

    Args:
        url: Of the server, as redis-py takes it.
        prefix: What the names of its two keys begin with.
        protect: As for `StateStorage`.
    """

    spans_senders = False
    is_remote = True

    def __init__(self, url: str, *, prefix: str = "salmon", protect: bool = False) -> None:
        super().__init__(protect=protect)
        # It connects on demand, and a forked child anew: this one needs no `Forkable`.
        self._server: Any = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
        self._keys = [f"{prefix}:documents", f"{prefix}:names"]
        self._compare_and_set = self._server.register_script(_COMPARE_AND_SET)

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        entries = _entries(self._read(sender_digest(sender))).values()
        return [e for e in entries if (e.kind, e.name) in wants or (e.kind, EVERY) in wants]

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        if where.sender is not EVERY:
            return Page(_matching([self._read(sender_digest(where.sender))], kind, where), None)
        if kind.due and where.before is not None:
            found = (e for documents in self._all() for e in _matching(documents, kind, where))
            later = (entry for entry in found if after is None or _due(entry) > after)
            first = heapq.nsmallest(_PAGE, later, key=_due)
            return Page(first, _due(first[-1]) if len(first) == _PAGE else None)
        names, documents = self._some(after)
        return Page(_matching(documents, kind, where), names[-1] if len(names) == _PAGE else None)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)  # they are made again if somebody else was quicker
        names = dict.fromkeys(sender_digest(write.sender) for write in writes)
        counts: dict[int, int] = {}
        for name in names:
            self._changed(name, writes, counts)  # raises if an expectation does not hold
        for name in names:
            while not self._replace(name, *self._changed(name, writes, counts)):
                pass  # somebody else did; of all who try one succeeds
        return [counts[number] for number in range(len(writes))]

    def _changed(
        self, name: bytes, writes: list[Write], counts: dict[int, int]
    ) -> tuple[bytes, bytes]:
        """Returns a document before and after the writes of its sender."""
        before = self._read(name)
        entries = _entries(before)
        for number, write in enumerate(writes):
            if sender_digest(write.sender) == name:
                counts[number] = change(entries, write)
        return before, b"\n".join(map(_encoded, entries.values()))

    def _replace(self, name: bytes, before: bytes, after: bytes) -> bool:
        digest = hashlib.sha1(before, usedforsecurity=False).hexdigest() if before else ""
        return bool(self._compare_and_set(self._keys, [name, digest, after]))

    def _wipe(self) -> None:
        self._server.delete(*self._keys)

    def _close(self) -> None:
        self._server.close()

    def _explain(self, error: Exception) -> StorageError:
        away = isinstance(error, (redis.ConnectionError, redis.TimeoutError))
        return StorageUnavailable(str(error)) if away else super()._explain(error)

    def _read(self, name: bytes) -> bytes:
        return self._server.hget(self._keys[0], name) or b""

    def _some(self, after: bytes | None) -> tuple[list[bytes], list[bytes]]:
        """Returns the next names and their documents."""
        first = b"-" if after is None else b"(" + after
        names = self._server.zrangebylex(self._keys[1], first, b"+", start=0, num=_PAGE)
        found = self._server.hmget(self._keys[0], names) if names else []
        return names, [document or b"" for document in found]

    def _all(self) -> Iterator[list[bytes]]:
        names, documents = self._some(None)
        while names:
            yield documents
            names, documents = self._some(names[-1])


def _due(entry: Entry) -> tuple[int, str]:
    return entry.at or 0, ascii_key(entry.name, entry.sender)


def _entries(document: bytes) -> dict[Place, Entry]:
    return {entry[:3]: entry for entry in map(_decoded, document.splitlines())}


def _matching(documents: Iterable[bytes], kind: Kind, where: Where) -> list[Entry]:
    entries = (entry for document in documents for entry in _entries(document).values())
    return [entry for entry in entries if entry.kind is kind and where.matches(entry)]


def _encoded(entry: Entry) -> bytes:
    kind, sender, name, value, at = entry
    text = encode_state(value) if isinstance(value, str) else base64.b64encode(value).decode()
    return json.dumps([kind, ascii_key(name, sender), text, at]).encode("ascii")


def _decoded(line: bytes) -> Entry:
    number, key, text, at = json.loads(line)
    name, sender = parse_key(key)
    kind = Kind(number)
    value = decode_state(text) if kind is Kind.STATE else base64.b64decode(text)
    return Entry(kind, sender, name, value, at)
