"""An index of the states: how it comes to be, and what it finds.

It is a sorted set, in a cluster one for each slot, in that slot. Whoever writes states keeps it if
it is there, which it is as long as it has the member ``""``. While it is made it has the member
``building``, and when all is in it, instead of that, ``whole``: before then nothing is looked up.
It may hold too much, because hashes end by their time to live; that is removed when it is met.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from redis import ResponseError

from salmon_state.entries import Where
from salmon_state.errors import StorageUnavailable
from salmon_state.stores.redis.connections import Connections
from salmon_state.stores.redis.entries import Keys, span_of
from salmon_state.stores.redis.scripts import INDEX, Script
from salmon_state.stores.redis.servers import Server

__all__ = ["Index"]

_MEMBERS = 500
"""How many states are looked up at once,"""
_PARTS = 50
"""and in how many parts of the index at most."""
_ASKED = 500
"""How many parts a server looks into in one step: for some four milliseconds."""

BEGIN = Script("""
redis.call('ZADD', KEYS[1], 0, '', 0, 'building')
redis.call('ZREM', KEYS[1], 'whole')
return 0
""")

END = Script("""
if redis.call('ZREM', KEYS[1], 'building') == 1 then redis.call('ZADD', KEYS[1], 0, 'whole') end
return 0
""")

EMPTY = Script("""
redis.call('UNLINK', KEYS[1])
redis.call('ZADD', KEYS[1], 0, '')
return 0
""")

# KEYS: an index; hashes that are to be in it. Without it, somebody has removed what was begun.
ADD = Script(
    INDEX
    + """
if not is_there(KEYS[1]) then return 0 end
for i = 2, #KEYS do
  local all = redis.call('HGETALL', KEYS[i])
  for j = 1, #all, 2 do
    local by_state, by_time, by_module = members(KEYS[i], all[j], all[j + 1])
    if by_state then redis.call('ZADD', KEYS[1], 0, by_state, 0, by_time, 0, by_module) end
  end
end
return 0
"""
)

# KEYS: a part of the index. ARGV: the ends of a range; it and others on its server; the deadline.
# Returns those that have something in the range, unless not all is in one of them. To ask each of a
# cluster's parts by itself takes several times as long.
WHICH = Script(
    """
local found = {}
for i = 3, #ARGV - 1 do
  if not redis.call('ZSCORE', ARGV[i], 'whole') then return false end
  if redis.call('ZRANGEBYLEX', ARGV[i], ARGV[1], ARGV[2], 'LIMIT', 0, 1)[1] then
    found[#found + 1] = ARGV[i]
  end
end
return found
""",
    reads=True,
)

# ARGV: the ends of a range; how many; the deadline. Returns the first in it, unless not all is.
FIND = Script(
    """
if not redis.call('ZSCORE', KEYS[1], 'whole') then return false end
return redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
""",
    reads=True,
)

# KEYS: an index; hashes. ARGV: for each of these the field and the member that it has not, unless
# that has come since; the deadline.
PRUNE = Script(
    INDEX
    + """
for i = 2, #KEYS do
  local field, member = ARGV[2 * i - 3], ARGV[2 * i - 2]
  local value = redis.call('HGET', KEYS[i], field)
  local kept = value and {members(KEYS[i], field, value)} or {}
  if member ~= kept[1] and member ~= kept[2] and member ~= kept[3] then
    redis.call('ZREM', KEYS[1], member)
  end
end
return 0
"""
)


class Index:
    """The index of a store, which has one or not.

    Args:
        server: Where it is.
        keys: The keys of the store.
    """

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server = server
        self._keys = keys

    def is_there(self) -> bool:
        """Returns whether there is one, be it whole or not."""
        first = self._keys.all_indexes()[0]
        there: bool = self._server.read(first, (b"TYPE", first)) == b"zset"
        return there

    def is_whole(self) -> bool:
        """Returns whether all states are in it."""
        return self._which(b"(\xff", b"(\xff") is not None

    def build(self, hashes: Iterable[tuple[Connections, list[bytes]]]) -> None:
        """Makes one, of all there is; whoever dies meanwhile leaves it to the next one.

        Args:
            hashes: Yields the keys of all hashes of states; it is asked when writers know already
                that there is an index to be kept.
        """
        self._each(BEGIN)
        for pool, keys in hashes:
            groups = [[self._keys.index(group[0]), *group] for group in self._keys.by_slot(keys)]
            self._server.run_each(pool, ADD, groups, ())
        self._each(END)

    def empty(self) -> None:
        """Removes what is in it; it is not whole then, and is kept."""
        self._each(EMPTY)

    def find(self, where: Where) -> Iterator[tuple[Connections, list[bytes]]] | None:
        """Returns an iterator over what the index has of states that may match, some at a time.

        Returns:
            It, or ``None`` if they must be searched, as not all is in the index or there is none.
        """
        start, end = span_of(where)
        parts = self._which(start, end)
        return None if parts is None else self._in(parts, start, end)

    def _which(self, start: bytes, end: bytes) -> list[tuple[Connections, list[bytes]]] | None:
        """Returns the parts that have something in a range, or ``None`` if not all is in them."""
        found = []
        self._server.layout()  # asks for it anew: a part that was moved must be asked for elsewhere
        for pool, parts in self._server.by_pool(self._keys.all_indexes()):
            for first in range(0, len(parts), _ASKED):
                asked = parts[first : first + _ASKED]
                try:
                    (some,) = self._server.run_each(pool, WHICH, [asked[:1]], (start, end, *asked))
                except ResponseError:  # this user may not, or one of them is being moved
                    return None
                if some is None:
                    return None
                found.append((pool, some))
        return found

    def _in(
        self, parts: list[tuple[Connections, list[bytes]]], start: bytes, end: bytes
    ) -> Iterator[tuple[Connections, list[bytes]]]:
        for pool, keys in parts:
            for first in range(0, len(keys), _PARTS):
                some = keys[first : first + _PARTS]
                asked = _MEMBERS // len(some)
                argv = (start, end, b"%d" % asked)
                replies = self._server.run_each(pool, FIND, [[key] for key in some], argv)
                yield pool, [member for found in replies for member in _checked(found)]
                for key, found in zip(some, replies, strict=True):
                    limit = asked
                    while len(found) == limit:
                        limit = _MEMBERS  # alone, a part may be asked for as many as all at once
                        argv = (b"(" + found[-1], end, b"%d" % limit)
                        found = _checked(self._server.run(FIND, (key,), argv, again=True))
                        yield pool, found

    def prune(self, members: Iterable[bytes]) -> None:
        """Removes what the index has of states that have gone."""
        parts: dict[bytes, list[bytes]] = {}
        for member in members:
            parts.setdefault(self._keys.index(self.hash_of(member)), []).append(member)
        for part, gone in parts.items():
            argv = [each for member in gone for each in (_field_of(member), member)]
            self._server.run(PRUNE, (part, *map(self.hash_of, gone)), argv, again=True)

    def hash_of(self, member: bytes) -> bytes:
        """Returns the key of the hash that something in the index is about."""
        return self._keys.head + member[-64:] + b"}"

    def _each(self, script: Script) -> None:
        """Runs a script for each part."""
        for pool, parts in self._server.by_pool(self._keys.all_indexes()):
            self._server.run_each(pool, script, [[part] for part in parts], ())


def _checked(found: list[bytes] | None) -> list[bytes]:
    if found is None:
        raise StorageUnavailable("the index was removed while it was read: try again")
    return found


def _field_of(member: bytes) -> bytes:
    state, _, rest = member[:-65].partition(b" ")
    return rest.rpartition(b" ")[0] if state else rest.partition(b" ")[2]
