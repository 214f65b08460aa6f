"""Conversations in Redis: a lease on the sender, kept alive, and a commit that proves it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from redis import ResponseError

from salmon_state.backend import Backend, Lock, UnitOfWork
from salmon_state.entries import EVERY, Entry, Want, Write
from salmon_state.keys import Sender
from salmon_state.leases import Lease, Leases
from salmon_state.stores.redis.commits import Commits
from salmon_state.stores.redis.entries import Keys, decode_entries, encode_field, lease_of
from salmon_state.stores.redis.scripts import Script
from salmon_state.stores.redis.servers import UNREACHABLE, Server

__all__ = ["RedisLeases", "RedisWork"]

# KEYS: the lease to win; the hashes. ARGV: its token, or '' to read without one; how long it lasts,
# in milliseconds; for each hash a field, or '' for all; the deadline. Whoever asks again with the
# same token, because the reply was lost, has won already. The entries are read first: if they
# cannot be, no lease is left behind.
ENTER = Script("""
local token, found = ARGV[1], {}
if token ~= '' then
  local holder = redis.call('GET', KEYS[1])
  if holder and holder ~= token then return false end
end
for i = 2, #KEYS do
  local field = ARGV[i + 1]
  if field == '' then
    found[i - 1] = redis.call('HGETALL', KEYS[i])
  else
    local both = redis.call('HMGET', KEYS[i], field, '@' .. field)
    found[i - 1] = {}
    if both[1] then found[i - 1] = {field, both[1]} end
    if both[1] and both[2] then found[i - 1] = {field, both[1], '@' .. field, both[2]} end
  end
end
if token ~= '' then redis.call('SET', KEYS[1], token, 'PX', ARGV[2]) end
return found
""")

EXTEND = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

RELEASE = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")


class RedisLease(Lease):
    """A lease, and what is read in the same step in which it is won."""

    wants: Sequence[Want]
    found: list[Any] | None


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
    ) -> tuple[Lease, list[Entry]]:
        """Waits for a sender's lease; returns it and what is wanted of the sender's entries.

        Raises:
            ConversationBusy: Somebody else had it all the time.
        """
        lease = RedisLease(self, sender)
        lease.wants = wants
        self.acquire(lease, timeout)
        try:
            return lease, self._decode(sender, wants, lease.found)
        except BaseException:
            lease.release()
            raise

    def load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        """Returns what is wanted of a sender's entries, without a lease."""
        return self._decode(sender, wants, self._read(sender, wants, b""))

    def _read(self, sender: Sender, wants: Sequence[Want], token: bytes) -> Any:
        keys, argv = [lease_of(self._keys.of(sender))], [token, self._milliseconds]
        for kind, name in wants:
            keys.append(self._keys.of(sender, kind))
            argv.append(b"" if name is EVERY else encode_field(name))
        return self._server.run(ENTER, keys, argv, again=True)

    def _decode(self, sender: Sender, wants: Sequence[Want], found: Any) -> list[Entry]:
        entries = []
        for (kind, _), reply in zip(wants, found, strict=True):
            entries += decode_entries(kind, sender, self._keys.of(sender, kind), reply)
        return entries

    def _take(self, lease: Lease) -> bool:
        assert isinstance(lease, RedisLease)  # noqa: S101 - for the type checker
        lease.found = self._read(lease.sender, lease.wants, lease.token)
        return lease.found is not None

    def _extend(self, lease: Lease) -> bool:
        argv = (lease.token, self._milliseconds)
        return bool(self._server.run(EXTEND, (self._key(lease),), argv))

    def _end(self, lease: Lease) -> None:
        self._server.run(RELEASE, (self._key(lease),), (lease.token,))

    def _key(self, lease: Lease) -> bytes:
        return lease_of(self._keys.of(lease.sender))


class RedisWork(UnitOfWork):
    """Leases on the senders, and one script that proves them and writes everything.

    It needs 1 round trip to begin and 1 to end, whether something is written or not.
    """

    def __init__(self, store: Backend, leases: RedisLeases, commits: Commits) -> None:
        super().__init__(store)
        self._leases = leases
        self._commits = commits
        self._held: list[Lease] = []

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
        try:
            self._commits.make(writes, self._held)
        except ResponseError:  # it is there, and takes them back
            raise
        except UNREACHABLE:  # asking again, to give them back, would take as long
            self._forget()
            raise
        self._forget()

    def _forget(self) -> None:
        for lease in self._held:
            self._leases.forget(lease)
