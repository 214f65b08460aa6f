"""What is in Redis, and how its keys, fields and values are written.

All states of a sender are in one hash, ``<prefix>:{<SHA-256 of the sender>}``. The braces make the
digest a cluster's hash tag, so that everything of a sender is in one slot. The field ``sender``
holds the sender in ASCII, as ``ascii()`` writes it; every other field is a module written the same
way, which begins with a quote, and its value is ``<microseconds since 1970> <state>``, or ``-
<state>`` without a known time.

All entries of a sender and another kind are in one hash as well, ``<prefix>:{…}:<number of the
kind>``. The field of a name, written like a module, holds the value as it is; the same field behind
an ``@`` the time, or ``-``: a time is compared and moved without the mail of 20 MB that has it.

What is due is found by a sorted set for each kind, whose members are the digest of the sender and
the field: ``<prefix>:{due}:due:<number>``, in a cluster one for each slot, in that slot. It may
hold too much, which is removed when it is met, and never too little.

An index of the states, if there is one, is a sorted set in the same places,
``<prefix>:{due}:index``, whose members are found in the order of their bytes; see `members_of`.

Nothing depends on an encoding, a collation or a Unicode table. A string in Redis may be 512 MB
long: no sender, however escaped, comes near it.
"""

from __future__ import annotations

import itertools
import re
from binascii import crc_hqx
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.entries import EVERY, STATE, Entry, Kind, Where
from salmon_state.errors import ConfigurationError, StorageError
from salmon_state.keys import Sender
from salmon_state.stores.encoding import decode_key, decode_state, encode_state, sender_digest

__all__ = [
    "SENDER",
    "Keys",
    "damaged",
    "decode_entries",
    "decode_found",
    "decode_name",
    "decode_sender",
    "decode_value",
    "encode_field",
    "encode_sender",
    "encode_time",
    "encode_value",
    "is_index",
    "is_lease",
    "lease_of",
    "members_of",
    "pairs",
    "span_of",
    "tail_of",
    "type_of",
]

SENDER = b"sender"
"""The field that holds the sender."""

_VALUE = re.compile(rb"(-|-?[0-9]{1,19}) ([!-~]+)")
_TIME = re.compile(rb"-|-?[0-9]{1,19}")
_UNSAFE_IN_PATTERN = re.compile(rb"([\\*?\[\]^-])")
_CALENDAR = 62_135_596_800_000_000, 253_402_300_800_000_000
"""How far the calendar reaches before and after 1970, in microseconds."""


class Keys:
    """The keys of one prefix.

    Args:
        prefix: What all of them begin with; without braces, which would be the hash tag.
        clustered: Whether there is a set of what is due for each slot.

    Attributes:
        head: What they begin with, up to the brace and with it.
        everything: The pattern of all of them.
        dues: The pattern of the sets of what is due.
    """

    def __init__(self, prefix: str, *, clustered: bool = False) -> None:
        if not isinstance(prefix, str) or not prefix or "{" in prefix or "}" in prefix:
            raise ConfigurationError(
                f"prefix must be a non-empty str without braces, got {ascii(prefix)[:100]}"
            )
        try:
            self.head = prefix.encode() + b":{"
        except UnicodeEncodeError:
            raise ConfigurationError(f"prefix {ascii(prefix)[:100]} is no UTF-8") from None
        self._clustered = clustered
        # Without braces in it, no other prefix has keys that match.
        self.everything = _UNSAFE_IN_PATTERN.sub(rb"\\\1", self.head) + b"*"
        self.dues = self.everything + b"}:due:*"
        self._tags = tags() if clustered else [b"due"]
        self._indexes = [b"%b%b}:index" % (self.head, tag) for tag in self._tags]

    def pattern(self, kind: Kind) -> bytes:
        """Returns the pattern of the hashes of a kind."""
        return self.everything + tail_of(kind)

    def of(self, sender: Sender, kind: Kind = STATE) -> bytes:
        """Returns the key of a sender's hash."""
        key = self.head + sender_digest(sender).hex().encode()
        return key + b"}" if kind is STATE else key + tail_of(kind)

    def due(self, key: bytes, kind: Kind) -> bytes:
        """Returns the key of the set of what is due in a hash."""
        return b"%b%b}:due:%d" % (self.head, self._tags[self._place(key)], kind)

    def all_dues(self, kind: Kind) -> list[bytes]:
        """Returns the keys of all sets of what is due."""
        return [b"%b%b}:due:%d" % (self.head, tag, kind) for tag in self._tags]

    def index(self, key: bytes) -> bytes:
        """Returns the key of the index that a hash of states is in, if there is one."""
        return self._indexes[self._place(key)]

    def all_indexes(self) -> list[bytes]:
        """Returns the keys of all parts of the index."""
        return self._indexes

    def by_slot(self, keys: list[bytes]) -> Iterable[list[bytes]]:
        """Returns keys in groups that one script may have."""
        groups: dict[int, list[bytes]] = {}
        for key in keys:
            groups.setdefault(self._place(key), []).append(key)
        return groups.values()

    def _place(self, key: bytes) -> int:
        if not self._clustered:
            return 0
        tag, brace, _ = key[len(self.head) :].partition(b"}")
        return crc_hqx(tag if tag and brace else key, 0) % SLOTS


SLOTS = 16384
"""How many slots a cluster has."""


@cache
def tags() -> list[bytes]:
    """Returns a hash tag for each slot of a cluster, which tells it by the CRC-16 of the tag."""
    found: dict[int, bytes] = {}
    for number in itertools.count():
        tag = b"%d" % number
        found.setdefault(crc_hqx(tag, 0) % SLOTS, tag)
        if len(found) == SLOTS:
            return [found[slot] for slot in range(SLOTS)]
    raise AssertionError("unreachable")


def tail_of(kind: Kind) -> bytes:
    """Returns what the key of a hash ends in: for states what it did before there were others."""
    return b"}" if kind is STATE else b"}:%d" % kind


def lease_of(key: bytes) -> bytes:
    """Returns the key of the lease on the sender of a hash of states."""
    return key + b":lease"


def is_lease(key: bytes) -> bool:
    """Returns whether a key is that of a lease."""
    return key.endswith(b"}:lease")


def is_index(key: bytes) -> bool:
    """Returns whether a key is that of an index of states."""
    return key.endswith(b"}:index")


def type_of(key: bytes) -> bytes:
    """Returns what is to be under a key, if anything is."""
    if is_lease(key):
        return b"string"
    return b"zset" if is_index(key) or b"}:due:" in key or key.endswith(b":due") else b"hash"


# ---------------------------------------------------------------- writing


def encode_sender(sender: Sender) -> bytes:
    """Returns the value of the field ``sender``."""
    return ascii(sender).encode()


def encode_field(name: str) -> bytes:
    """Returns the field of a module or of another name."""
    return ascii(name).encode()


def encode_time(at: int | None) -> bytes:
    """Returns a time as it is stored."""
    return b"-" if at is None else b"%d" % at


def encode_value(state: str, at: int | None) -> bytes:
    """Returns the value of a module's field."""
    return f"{'-' if at is None else at} {encode_state(state)}".encode()


# ---------------------------------------------------------------- the index of the states


def members_of(keys: Keys, entry: Entry) -> tuple[bytes, bytes, bytes]:
    """Returns what an index has of a state: what finds it by the state, its time and its name.

    They are state, name, time and digest of the sender with a space between each and the next;
    time, name and digest behind a space; name and digest behind two. Neither a state nor a time has
    a space in it, and no name is the beginning of another one's text, as both are in quotes.

    The last one does not change with the state: who sets states while he goes through those of a
    name meets each once, which he would not if he went from state to state.
    """
    _, sender, name, state, at = entry
    field, digest = encode_field(name), keys.of(sender)[len(keys.head) : -1]
    moment = _in_order(at)
    return (
        b"%b %b %b %b" % (encode_state(str(state)).encode(), field, moment, digest),
        b" %b %b %b" % (moment, field, digest),
        b"  %b %b" % (field, digest),
    )


def span_of(where: Where) -> tuple[bytes, bytes]:
    """Returns the ends of the range of an index in which all is that matches, and perhaps more."""
    start, timed = b" ", where.before is not None
    if where.value is not None:
        start = encode_state(str(where.value)).encode() + b" "
        timed = timed and where.name is not EVERY
        if where.name is not EVERY:
            start += encode_field(where.name) + b" "
    elif where.name is not EVERY and not timed:
        start = b"  " + encode_field(where.name) + b" "
    if not timed:
        return b"[" + start, b"(" + start[:-1] + b"!"
    # What is before 1970 comes first, in no order; what has no time is before the start.
    return b"[" + start + b"-0", b"(" + start + max(_in_order(where.before), b".")


def _in_order(at: int | None) -> bytes:
    return b"%019d" % at if at is not None and at >= 0 else encode_time(at)


# ---------------------------------------------------------------- reading


def decode_value(raw: Any) -> tuple[int | None, str] | None:
    """Returns the time and the state of a value, or ``None`` if it is none of ours."""
    match = _VALUE.fullmatch(raw)
    if match is None:
        return None
    try:
        state = decode_state(match[2].decode())
    except StorageError:
        return None
    if state == ROUTE_FIRST_STATE:
        return None
    return None if match[1] == b"-" else int(match[1]), state


def damaged(key: bytes, field: bytes | None = None) -> StorageError:
    """Returns the error for what this package did not write."""
    where = f"the key {_shown(key)!a}"
    if field is not None:
        where += f", field {_shown(field)!a},"
    return StorageError(f"damaged entry: {where} holds what no RedisStorage wrote")


def _shown(text: bytes) -> str:
    return text[:200].decode("ascii", "backslashreplace")


def pairs(reply: Any) -> list[tuple[bytes, bytes]]:
    """Returns the fields and values of ``HGETALL`` in whatever form the protocol gives them."""
    if isinstance(reply, dict):
        return list(reply.items())
    return list(zip(reply[::2], reply[1::2], strict=True))


def decode_entries(kind: Kind, sender: Sender, key: bytes, reply: Any) -> list[Entry]:
    """Returns the entries in the ``HGETALL`` of a hash, or in a part of it.

    Raises:
        StorageError: Something else wrote there.
    """
    found = dict(pairs(reply))
    found.pop(SENDER, None)
    entries = []
    for field, value in found.items():
        if kind is STATE:
            decoded = decode_value(value)
            if decoded is None:
                raise damaged(key, field)
            entries.append(Entry(STATE, sender, decode_name(key, field), decoded[1], decoded[0]))
        elif field[:1] != b"@":
            at = found.get(b"@" + field, b"")
            if not _TIME.fullmatch(at):
                raise damaged(key, b"@" + field)
            moment = None if at == b"-" else int(at)
            entries.append(Entry(kind, sender, decode_name(key, field), value, moment))
    return entries


def decode_found(keys: Keys, kind: Kind, key: bytes, reply: Any) -> Iterator[Entry]:
    """Yields the entries in the ``HGETALL`` of a hash that was found and not looked up.

    Raises:
        StorageError: Something else wrote there.
    """
    sender = decode_sender(keys, kind, key, dict(pairs(reply)).get(SENDER))
    for entry in decode_entries(kind, sender, key, reply):
        if entry.at is not None and not -_CALENDAR[0] <= entry.at < _CALENDAR[1]:
            raise damaged(key, encode_field(entry.name))
        yield entry


def decode_name(key: bytes, field: bytes) -> str:
    """Returns the name that a field stands for."""
    if field[:1] not in (b"'", b'"'):
        raise damaged(key, field)
    try:
        return decode_key(f"[{field.decode('ascii')}, '']")[0]
    except (StorageError, UnicodeDecodeError):
        raise damaged(key, field) from None


def decode_sender(keys: Keys, kind: Kind, key: bytes, text: bytes | None) -> Sender:
    """Returns the sender that the field ``sender`` of a hash names, whose key tells as well."""
    with suppress(StorageError, UnicodeDecodeError):
        sender = decode_key(f"['', {(text or b'').decode('ascii')}]")[1]
        if keys.of(sender, kind) == key:
            return sender
    raise damaged(key, SENDER)
