"""Going through all senders, some hundred at a time: nothing keeps the server busy for long."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from redis import ResponseError

from salmon_state.errors import StorageUnavailable
from salmon_state.storage import Record, Sender
from salmon_state.stores.redis.connections import Command, Connections
from salmon_state.stores.redis.entries import (
    SENDER,
    Entry,
    Keys,
    damaged,
    decode_records,
    decode_value,
    encode_field,
    encode_value,
    entries,
)
from salmon_state.stores.redis.scripts import (
    DROP,
    EXACTLY,
    OVERTAKEN,
    REMOVE,
    WRITE,
    Operation,
    Plan,
    Script,
)
from salmon_state.stores.redis.servers import Server, called, not_run

__all__ = ["Sweeps"]

_GROUP_BYTES = 1_000_000
"""How many bytes of senders are read at once: an attacker's may have millions each."""

Find = Callable[[bytes, Any], list[Operation]]
Calls = dict[bytes, tuple[list[bytes], list[bytes]]]
"""KEYS and ARGV of a script, by the key that it is about."""


class Sweeps:
    """What concerns the conversations of all senders.

    Args:
        server: Where they are.
        keys: Which keys are theirs.
    """

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server = server
        self._keys = keys

    # ---------------------------------------------------------------- reading

    def records(self) -> Iterator[Record]:
        """Yields all records, each once.

        Redis may give a key repeatedly while its table of keys shrinks. What was seen is known by
        16 bytes of a digest for each sender, which are some 100 bytes of memory in a set.
        """
        for pool, keys in self._fresh_pages():
            for group in self._groups(pool, keys):
                for key, reply in self._read(pool, group, lambda key: (b"HGETALL", key)):
                    if reply:
                        yield from decode_records(self._keys, key, reply)

    def records_of(self, sender: Sender) -> Iterator[Record]:
        """Yields the records of one sender, from one moment."""
        key = self._keys.of(sender)
        reply = checked(key, self._server.read(key, (b"HGETALL", key)))
        if reply:
            yield from decode_records(self._keys, key, reply)

    def count(self) -> int:
        """Returns the number of entries."""
        total = 0
        for pool, keys in self._fresh_pages():
            sizes = self._read(pool, keys, lambda key: (b"HLEN", key))
            senders = self._read(pool, keys, lambda key: (b"HSTRLEN", key, SENDER))
            for (key, fields), (_, length) in zip(sizes, senders, strict=True):
                if fields and length:
                    total += fields - 1
                elif fields and self._server.read(key, (b"EXISTS", key)):
                    raise damaged(key, SENDER)
        return total

    # ---------------------------------------------------------------- changing

    def rename(self, module: str, old: str, new: str | None) -> int:
        """Moves every entry of a module in one state; returns how many."""
        field = encode_field(module)

        def find(key: bytes, raw: bytes | None) -> list[Operation]:
            if raw is None:
                return []
            value = decode_value(raw)
            if value is None:
                raise damaged(key, field)
            if value[1] != old:
                return []
            renamed = REMOVE if new is None else encode_value(new, value[0])
            return [Operation(field, renamed, EXACTLY + raw)]

        return self._sweep(lambda key: (b"HGET", key, field), find)

    def purge(self, before: int, module: str | None, state: str | None) -> int:
        """Removes the entries set before a moment; returns how many."""
        field = None if module is None else encode_field(module)

        def idle(entry: Entry) -> bool:
            return (
                entry.updated_at is not None
                and entry.updated_at < before
                and field in (None, entry.field)
                and state in (None, entry.state)
            )

        def find(key: bytes, reply: Any) -> list[Operation]:
            return [
                Operation(entry.field, REMOVE, EXACTLY + entry.raw)
                for entry in entries(key, reply)
                if idle(entry)
            ]

        return self._sweep(lambda key: (b"HGETALL", key), find)

    def wipe(self) -> None:
        """Removes whatever is under the prefix, but for the leases of running conversations."""
        for pool, keys in self._pages():
            self._run(pool, DROP, {key: ([key], []) for key in keys})

    def _sweep(self, command: Callable[[bytes], Command], find: Find) -> int:
        """Changes what is found, in each hash as a whole, unless it changed meanwhile."""
        total = 0
        for pool, page in self._pages():
            keys = page
            while keys:
                found = {}
                for group in self._groups(pool, keys):
                    for key, reply in self._read(pool, group, command):
                        operations = find(key, reply)
                        if operations:
                            found[key] = operations
                count, keys = self._change(pool, found)  # those that changed: once more
                total += count
        return total

    def _change(
        self, pool: Connections, found: dict[bytes, list[Operation]]
    ) -> tuple[int, list[bytes]]:
        calls = {
            key: Plan(self._keys).add_found(key, operations).arguments([key])
            for key, operations in found.items()
        }
        count, again = 0, []
        for key, reply in zip(calls, self._run(pool, WRITE, calls), strict=True):
            if isinstance(reply, list):
                raise damaged(*reply)
            if reply == OVERTAKEN:
                again.append(key)
            else:
                count += reply
        return count, again

    def _run(self, pool: Connections, script: Script, calls: Calls) -> list[Any]:
        """Returns what a script returned for each of some keys."""
        if not calls:
            return []
        commands = [called(script, *arguments) for arguments in calls.values()]
        replies = self._server.batch(pool, list(calls), commands, write=True)
        for number, (key, arguments) in enumerate(calls.items()):
            if not_run(replies[number]):
                replies[number] = self._server.change(script, *arguments)
            checked(key, replies[number])
        return replies

    # ---------------------------------------------------------------- going through them

    def _pages(self) -> Iterator[tuple[Connections, list[bytes]]]:
        layout = self._server.layout()
        for pool in self._server.pools():
            for keys in self._server.scan(pool, self._keys.pattern):
                if keys:
                    yield pool, keys
        if self._server.layout() != layout:
            raise StorageUnavailable(
                "the servers of the cluster changed while its keys were gone through, so that some "
                "may have been left out: try again"
            )

    def _fresh_pages(self) -> Iterator[tuple[Connections, list[bytes]]]:
        seen: set[bytes] = set()
        for pool, keys in self._pages():
            fresh = []
            for key in keys:
                digest = self._keys.digest(key)
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


def checked(key: bytes, reply: Any) -> Any:
    """Returns a reply, or raises what it says about a key.

    Raises:
        StorageError: Something else is there than a hash.
        redis.ResponseError: The server's error.
    """
    if not isinstance(reply, Exception):
        return reply
    if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
        raise damaged(key) from reply
    raise reply
