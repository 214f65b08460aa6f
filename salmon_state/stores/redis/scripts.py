"""What Redis does in one step: the scripts, and the arguments they are called with.

A script is known to a server by its SHA-1 and sent as a whole only to one that does not know it.
Each touches the keys of one slot, all of which it is given, as a cluster asks for. The last ARGV of
each is the moment after which it does nothing, in microseconds by the server's clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from salmon_state.storage import Change, Move, Sender, Transition
from salmon_state.stores.encoding import encode_state
from salmon_state.stores.redis.entries import (
    Keys,
    encode_field,
    encode_sender,
    encode_value,
    lease_of,
)

__all__ = [
    "CHANGE",
    "CHECK",
    "DROP",
    "ENTER",
    "EXACTLY",
    "EXTEND",
    "FORGET",
    "LEASE_LOST",
    "OVERTAKEN",
    "RELEASE",
    "REMOVE",
    "SET",
    "WRITE",
    "Lease",
    "Operation",
    "Plan",
    "Script",
]

LEASE_LOST = -1
OVERTAKEN = -2
CHECK, CHANGE = b"check", b"change"

MOVE = b""
"""Stands for the fields of all modules."""
REMOVE = b""
"""Stands for the value of an entry that goes."""

ANYTHING, NOTHING, STATE, EXACTLY = b"*", b"-", b"=", b"~"
"""How a condition begins: no condition, no entry, this state, this very value."""


_IN_TIME = """
local now = redis.call('TIME')
if now[1] * 1000000 + now[2] > tonumber(ARGV[#ARGV]) then
  return redis.error_reply('LATE it arrived when it had been given up: nothing was changed')
end
"""


class Script:
    """A script in Lua."""

    def __init__(self, text: str) -> None:
        self.text = f"{_IN_TIME}{text}".encode()
        # Redis's name for it, and no protection against anything.
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


WRITE = Script("""
-- KEYS: the leases to be held, then the senders' hashes.
-- ARGV: the number of leases; their tokens; 'check' or 'change'; the time to live in milliseconds
-- or ''; the sender of each hash, or '' if it is there; then for each operation: the hash, the
-- field, the condition, the value; the deadline.
local leases = tonumber(ARGV[1])
for i = 1, leases do
  if redis.call('GET', KEYS[i]) ~= ARGV[1 + i] then return -1 end
end

local function state_of(value)
  return string.match(value, '^%-?%d+ ([!-~]+)$') or string.match(value, '^%- ([!-~]+)$')
end

local hashes = #KEYS - leases
local senders = leases + 3
local first = senders + hashes + 1
for i = first, #ARGV - 1, 4 do
  local key, field, condition = KEYS[leases + tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2]
  if field == '' then
    local all = redis.call('HGETALL', key)
    for j = 1, #all, 2 do
      if all[j] ~= 'sender' and not state_of(all[j + 1]) then return {key, all[j]} end
    end
  elseif condition ~= '*' then
    local kind, expected = string.sub(condition, 1, 1), string.sub(condition, 2)
    local value = redis.call('HGET', key, field)
    if kind == '~' then
      if value ~= expected then return -2 end
    elseif not value then
      if kind == '=' then return -2 end
    else
      local state = state_of(value)
      if not state then return {key, field} end
      if kind == '-' or state ~= expected then return -2 end
    end
  end
end
if ARGV[leases + 2] == 'check' then return 0 end

local written, count = {}, 0
for i = first, #ARGV - 1, 4 do
  local hash, field, value = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 3]
  local key, fields = KEYS[leases + hash], {field}
  if field == '' then fields = redis.call('HKEYS', key) end
  for _, each in ipairs(fields) do
    if field ~= '' or each ~= 'sender' then
      count = count + 1
      if value == '' then
        redis.call('HDEL', key, each)
      else
        redis.call('HSET', key, each, value)
        written[hash] = true
      end
    end
  end
end

local ttl = ARGV[senders]
for i = 1, hashes do
  local key, sender = KEYS[leases + i], ARGV[senders + i]
  if written[i] and sender ~= '' then redis.call('HSET', key, 'sender', sender) end
  if redis.call('HLEN', key) == 1 and redis.call('HEXISTS', key, 'sender') == 1 then
    redis.call('DEL', key)
  elseif ttl ~= '' and written[i] then
    redis.call('PEXPIRE', key, ttl)
  end
end
for i = 1, leases do redis.call('DEL', KEYS[i]) end
return count
""")

# The same for one entry that is set, or goes, at two thirds of the time.
SET = Script("""
return redis.call('HSET', KEYS[1], 'sender', ARGV[1], ARGV[2], ARGV[3])
""")

FORGET = Script("""
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 and redis.call('HLEN', KEYS[1]) == 1
    and redis.call('HEXISTS', KEYS[1], 'sender') == 1 then
  redis.call('DEL', KEYS[1])
end
return 0
""")

DROP = Script("""
return redis.call('UNLINK', KEYS[1])
""")

# Whoever asks again with the same token, because the reply was lost, has won already. The states
# are read first: if they cannot be, no lease is left behind.
ENTER = Script("""
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return false end
local states = redis.call('HGETALL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return states
""")

EXTEND = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

RELEASE = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")


class Lease(NamedTuple):
    """The right to handle a sender's mail, for a time."""

    key: bytes
    """The key of the sender's hash."""
    token: bytes
    """What nobody else knows."""

    @property
    def name(self) -> bytes:
        """The key of the lease."""
        return lease_of(self.key)


class Operation(NamedTuple):
    """One thing to change in a hash."""

    field: bytes
    value: bytes
    condition: bytes = ANYTHING


class Plan:
    """What to change, by sender.

    Attributes:
        senders: The text of the field ``sender`` by the key of the hash.
        operations: What to do with each hash, in order.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.senders: dict[bytes, bytes] = {}
        self.operations: dict[bytes, list[Operation]] = {}

    def add(self, sender: Sender, operation: Operation) -> None:
        """Adds one thing to change in the hash of a sender."""
        text = encode_sender(sender)
        key = self._keys.of_text(text)
        self.senders[key] = text
        self.operations.setdefault(key, []).append(operation)

    def add_found(self, key: bytes, operations: list[Operation]) -> Plan:
        """Adds what to do with entries that are there: their sender need not be written again."""
        self.senders[key] = b""
        self.operations[key] = operations
        return self

    def add_changes(self, changes: Iterable[Change]) -> Plan:
        """Adds what `StateStorage._write` is given."""
        for module, sender, state, updated_at in changes:
            self.add(sender, Operation(encode_field(module), _value(state, updated_at)))
        return self

    def add_moves(self, moves: Iterable[Move]) -> Plan:
        """Adds the first half of what `StateStorage._commit` is given."""
        for sender, state, updated_at in moves:
            self.add(sender, Operation(MOVE, _value(state, updated_at)))
        return self

    def add_transitions(self, transitions: Iterable[Transition]) -> Plan:
        """Adds the second half of it."""
        for module, sender, state, updated_at, conditional, seen in transitions:
            condition = state_is(seen) if conditional else ANYTHING
            value = _value(state, updated_at)
            self.add(sender, Operation(encode_field(module), value, condition))
        return self

    def arguments(
        self,
        keys: Sequence[bytes],
        leases: Sequence[Lease] = (),
        *,
        mode: bytes = CHANGE,
        ttl: bytes = b"",
    ) -> tuple[list[bytes], list[bytes]]:
        """Returns KEYS and ARGV of `WRITE` for some of the hashes."""
        argv = [b"%d" % len(leases), *(lease.token for lease in leases), mode, ttl]
        argv += [self.senders[key] for key in keys]
        for number, key in enumerate(keys, 1):
            for field, value, condition in self.operations[key]:
                argv += [b"%d" % number, field, condition, value]
        return [*(lease.name for lease in leases), *keys], argv


def state_is(state: str | None) -> bytes:
    """Returns the condition that an entry is in a state; ``None`` stands for no entry."""
    return NOTHING if state is None else STATE + encode_state(state).encode()


def _value(state: str | None, updated_at: int | None) -> bytes:
    return REMOVE if state is None else encode_value(state, updated_at)
