"""Conversations in Redis: a lease on the sender, kept alive, and a commit that proves it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from salmon_state.backend import Backend, Lock, UnitOfWork
from salmon_state.entries import EVERY, Entry, Want, Write
from salmon_state.keys import Sender
from salmon_state.leases import Lease, Leases
from salmon_state.stores.redis.commits import Commits, Held
from salmon_state.stores.redis.entries import Keys, decode_entries, encode_field, lease_of
from salmon_state.stores.redis.scripts import ENTER, EXTEND, LOAD, RELEASE
from salmon_state.stores.redis.servers import UNREACHABLE, Server

__all__ = ["RedisLeases", "RedisWork"]


class RedisLease(Lease):
    """A lease, and what is read in the same step in which it is won."""

    keys: Sequence[bytes]
    fields: Sequence[bytes]
    found: Any

    def __init__(self, leases: Leases, sender: Sender, key: bytes) -> None:
        super().__init__(leases, sender)
        self.key = key


class RedisLeases(Leases):
    """Leases that are keys of Redis, which end by its clock.

    Args:
        server: Where they are.
        keys: The keys of the store.
        seconds: How long each of them lasts unless it is extended.
    """

    def __init__(self, server: Server, keys: Keys, seconds: float) -> None:
        super().__init__(seconds)
        self._server = server
        self._keys = keys
        self._milliseconds = b"%d" % max(1, round(seconds * 1000))

    def win(
        self, sender: Sender, timeout: float, wants: Sequence[Want]
    ) -> tuple[RedisLease, list[Entry]]:
        """Waits for a sender's lease; returns it and what is wanted of the sender's entries.

        Raises:
            ConversationBusy: Somebody else had it all the time.
        """
        lease = RedisLease(self, sender, lease_of(self._keys.of(sender)))
        lease.keys, lease.fields = _named(self._keys, sender, wants)
        self.acquire(lease, timeout)
        try:
            return lease, _decoded(sender, wants, lease.keys, lease.found)
        except BaseException:
            lease.release()
            raise

    def load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        """Returns what is wanted of a sender's entries, without a lease."""
        keys, fields = _named(self._keys, sender, wants)
        if len(keys) == 1 and not fields[0]:
            replies = [self._server.read(keys[0], (b"HGETALL", keys[0]))]
        else:
            replies = self._server.run(LOAD, keys, fields, again=True)
        return _decoded(sender, wants, keys, replies)

    def _take(self, lease: Lease) -> bool:
        assert isinstance(lease, RedisLease)  # noqa: S101 - for the type checker
        keys = (lease.key, *lease.keys)
        argv = (lease.token, self._milliseconds, *lease.fields)
        lease.found = self._server.run(ENTER, keys, argv, again=True)
        return lease.found is not None

    def _extend(self, lease: Lease) -> bool:
        argv = (lease.token, self._milliseconds)
        return bool(self._server.run(EXTEND, (_key_of(lease),), argv))

    def _end(self, lease: Lease) -> None:
        self._server.run(RELEASE, (_key_of(lease),), (lease.token,))


def _key_of(lease: Lease) -> bytes:
    assert isinstance(lease, RedisLease)  # noqa: S101 - for the type checker
    return lease.key


def _named(keys: Keys, sender: Sender, wants: Sequence[Want]) -> tuple[list[bytes], list[bytes]]:
    """Returns the key and the field, or nothing for all fields, of each of what is wanted."""
    return (
        [keys.of(sender, kind) for kind, _ in wants],
        [b"" if name is EVERY else encode_field(name) for _, name in wants],
    )


def _decoded(
    sender: Sender, wants: Sequence[Want], keys: Sequence[bytes], replies: Sequence[Any]
) -> list[Entry]:
    entries = []
    for (kind, _), key, reply in zip(wants, keys, replies, strict=True):
        entries += decode_entries(kind, sender, key, reply)
    return entries


class RedisWork(UnitOfWork):
    """Leases on the senders, and one script that proves them and writes everything.

    It needs 1 round trip to begin and 1 to end, whether something is written or not.
    """

    def __init__(self, store: Backend, leases: RedisLeases, commits: Commits) -> None:
        super().__init__(store)
        self._leases = leases
        self._commits = commits
        self._held: list[RedisLease] = []

    def enter(self, sender: Sender, timeout: float, wants: Sequence[Want]) -> list[Entry]:
        if not sender:
            return self.load(sender, wants)
        deadline = time.monotonic() + timeout
        # Only one thread of a process asks the server, and the next one begins at once.
        release = self._store._threads.acquire(sender, timeout)
        try:
            left = max(0.0, deadline - time.monotonic())
            lease, entries = self._leases.win(sender, left, wants)
        except BaseException:
            release()
            raise
        self._locks += (Lock(release), Lock(lease.release))  # given back in the opposite order
        self._held.append(lease)
        return entries

    def commit(self, writes: Sequence[Write], *, failed: bool) -> None:
        if not writes:
            return
        held = [Held(lease.sender, lease.key, lease.token) for lease in self._held]
        try:
            self._commits.make(writes, held)
        except UNREACHABLE:  # asking again, to give them back, would take as long
            self._forget()
            raise
        self._forget()

    def _forget(self) -> None:
        for lease in self._held:
            self._leases.forget(lease)
