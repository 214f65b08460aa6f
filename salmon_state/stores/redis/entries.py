"""What is in Redis: one hash for each sender, and how its key, fields and values are written.

The key is ``<prefix>:{<SHA-256 of the sender>}``. The braces make the digest a cluster's hash tag,
so that everything of a sender is in one slot. The field ``sender`` holds the sender in ASCII, as
``ascii()`` writes it; every other field is a module written the same way, which begins with a
quote, and its value is ``<microseconds since 1970> <state>``, or ``- <state>`` without a known
time. Nothing depends on an encoding, a collation or a Unicode table. A string in Redis may be 512
MB long: no sender, however escaped, comes near it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.errors import ConfigurationError, StorageError
from salmon_state.storage import Record, Sender, from_microseconds, parse_key
from salmon_state.stores.encoding import decode_state, encode_state

__all__ = [
    "SENDER",
    "Entry",
    "Keys",
    "damaged",
    "decode_records",
    "decode_states",
    "decode_value",
    "encode_field",
    "encode_sender",
    "encode_value",
    "entries",
    "is_lease",
    "lease_of",
    "pairs",
]

SENDER = b"sender"
"""The field that holds the sender."""

_VALUE = re.compile(rb"(-|-?[0-9]{1,19}) ([!-~]+)")
_DIGEST = re.compile(rb"[0-9a-f]{64}")
_UNSAFE_IN_PATTERN = re.compile(rb"([\\*?\[\]^-])")


class Keys:
    """The keys of one prefix.

    Args:
        prefix: What all of them begin with; without braces, which would be the hash tag.
    """

    def __init__(self, prefix: str) -> None:
        if not isinstance(prefix, str) or not prefix or "{" in prefix or "}" in prefix:
            raise ConfigurationError(
                f"prefix must be a non-empty str without braces, got {ascii(prefix)[:100]}"
            )
        try:
            self._head = prefix.encode() + b":{"
        except UnicodeEncodeError:
            raise ConfigurationError(f"prefix {ascii(prefix)[:100]} is no UTF-8") from None
        # Without braces in it, no other prefix has keys that match.
        self.pattern = _UNSAFE_IN_PATTERN.sub(rb"\\\1", self._head) + b"*}"

    def of(self, sender: Sender) -> bytes:
        """Returns the key of a sender's hash."""
        return self.of_text(encode_sender(sender))

    def of_text(self, text: bytes) -> bytes:
        """Returns the key of the hash whose field ``sender`` has this text."""
        return b"%b%b}" % (self._head, hashlib.sha256(text).hexdigest().encode())

    def digest(self, key: bytes) -> bytes:
        """Returns what tells a key from all others: 16 bytes, too many to find a second one."""
        text = key[len(self._head) : -1]
        return bytes.fromhex(text.decode())[:16] if _DIGEST.fullmatch(text) else key


def lease_of(key: bytes) -> bytes:
    """Returns the key of the lease on a sender; it is in the same slot and matches no pattern."""
    return key + b":lease"


def is_lease(key: bytes) -> bool:
    """Returns whether a key is that of a lease and not that of a hash."""
    return key.endswith(b"}:lease")


def encode_sender(sender: Sender) -> bytes:
    """Returns the value of the field ``sender``."""
    return ascii(sender).encode()


def encode_field(module: str) -> bytes:
    """Returns the field of a module."""
    return ascii(module).encode()


def encode_value(state: str, updated_at: int | None) -> bytes:
    """Returns the value of a module's field."""
    return f"{'-' if updated_at is None else updated_at} {encode_state(state)}".encode()


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


class Entry(NamedTuple):
    """One module's state in a sender's hash, as it is stored."""

    field: bytes
    raw: bytes
    updated_at: int | None
    state: str


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


def entries(key: bytes, reply: Any) -> Iterator[Entry]:
    """Yields the entries in the ``HGETALL`` of a hash; no value in it is unchecked.

    Raises:
        StorageError: Something else wrote there.
    """
    for field, raw in pairs(reply):
        if field == SENDER:
            continue
        value = decode_value(raw)
        if value is None or field[:1] not in (b"'", b'"'):
            raise damaged(key, field)
        yield Entry(field, raw, *value)


def decode_states(key: bytes, reply: Any) -> dict[str, str]:
    """Returns the states of one sender by module."""
    states = {}
    for entry in entries(key, reply):
        states[_names(key, entry.field, b"None")[0]] = entry.state
    return states


def decode_records(keys: Keys, key: bytes, reply: Any) -> Iterator[Record]:
    """Yields the records in the ``HGETALL`` of a hash that was found and not looked up."""
    text = dict(pairs(reply)).get(SENDER)
    if text is None or keys.of_text(text) != key:
        raise damaged(key, SENDER)
    for entry in entries(key, reply):
        module, sender = _names(key, entry.field, text)
        try:
            moment = from_microseconds(entry.updated_at)
        except OverflowError:
            raise damaged(key, entry.field) from None
        yield Record(module, sender, entry.state, moment)


def _names(key: bytes, field: bytes, sender: bytes) -> tuple[str, Sender]:
    try:
        return parse_key(f"[{field.decode('ascii')}, {sender.decode('ascii')}]")
    except (StorageError, UnicodeDecodeError):
        raise damaged(key, field) from None
