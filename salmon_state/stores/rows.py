"""How entries are written as rows: digests by which they are found, and text for people."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from functools import lru_cache
from typing import Any

from salmon_state.entries import Entry, Kind, Value
from salmon_state.errors import StorageError
from salmon_state.keys import Sender, ascii_key, parse_key
from salmon_state.stores.encoding import decode_state, encode_state, sender_digest

__all__ = [
    "LONGEST_READABLE_KEY",
    "decode_key",
    "decode_row",
    "decode_value",
    "encode_key",
    "encode_value",
    "name_digest",
    "sender_digest",
]

LONGEST_READABLE_KEY = 10_000
"""In characters; longer ones are compressed, and read one at a time."""
_COMPRESSED = "zlib+json:"
_COMPRESSED_ASCII = "zlib:"
"""What earlier versions wrote: `ascii_key`, compressed."""


@lru_cache(maxsize=256)
def _short_name_digest(name: str) -> bytes:
    return hashlib.sha256(ascii(name).encode()).digest()


def name_digest(name: str) -> bytes:
    """Returns what tells the entries of a sender and kind apart in the primary key."""
    if len(name) > 200:  # made by a key generator from what an attacker wrote: not to be kept
        return _short_name_digest.__wrapped__(name)
    return _short_name_digest(name)


def encode_key(module: str, sender: Sender) -> str:
    """Returns the text of the ``key`` column.

    5,000,000 characters of NUL are 20 MB in ASCII, and MariaDB accepts no more than 16 MiB in one
    statement. Compressed, no 5 MB that a mail can bring take more than 10 MiB, random bytes
    included; at the lowest level, because a higher one makes little of those and takes seconds.
    """
    key = ascii_key(module, sender)
    if len(key) <= LONGEST_READABLE_KEY:
        return key
    packed = zlib.compress(_as_json(module, sender).encode("utf-8", "surrogatepass"), 1)
    return _COMPRESSED + base64.b64encode(packed).decode()


def decode_key(text: str) -> tuple[str, Sender]:
    """Returns the module and the sender; the inverse of `encode_key`.

    Raises:
        StorageError: `encode_key` writes no such text.
    """
    if text.startswith(_COMPRESSED):
        return _parse_json(_decompress(text, _COMPRESSED))
    if text.startswith(_COMPRESSED_ASCII):
        return parse_key(_decompress(text, _COMPRESSED_ASCII))
    return parse_key(text)


def _as_json(module: str, sender: Sender) -> str:
    return json.dumps([module, sender], ensure_ascii=False)


def _parse_json(text: str) -> tuple[str, Sender]:
    try:
        module, sender = json.loads(text)
        if _as_json(module, sender) == text and type(module) is str and _is_sender(sender):
            return module, sender
    except (ValueError, TypeError, RecursionError):
        pass
    raise StorageError(f"damaged key {text[:200]!r}: expected the JSON of [module, sender]")


def _is_sender(value: object) -> bool:
    return value is None or type(value) is str


def _decompress(text: str, prefix: str) -> str:
    try:
        packed = base64.b64decode(text[len(prefix) :])
        return zlib.decompress(packed).decode("utf-8", "surrogatepass")
    except (ValueError, zlib.error):
        raise StorageError(f"damaged key {text[:200]!r}: cannot be decompressed") from None


def encode_value(kind: Kind, value: Any) -> Any:
    """Returns what is in the column for a value: text of ASCII for a STATE, otherwise bytes."""
    return encode_state(value) if kind is Kind.STATE else value


def decode_value(kind: Kind, stored: Any) -> Value:
    """Returns the value; the inverse of `encode_value`.

    Raises:
        StorageError: `encode_value` writes nothing like this.
    """
    if kind is Kind.STATE:
        return decode_state(stored)
    if not isinstance(stored, (bytes, memoryview)):  # psycopg2 gives a memoryview
        raise StorageError(f"damaged value: expected bytes, got {type(stored).__name__}")
    return bytes(stored)


def decode_row(kind: Kind, sender: Any, name: Any, key: str, stored: Any, at: int | None) -> Entry:
    """Returns the entry in a row, whose digests must be those of its key.

    Raises:
        StorageError: It is damaged.
    """
    entry_name, entry_sender = decode_key(key)
    if sender != sender_digest(entry_sender) or name != name_digest(entry_name):
        raise StorageError(
            f"damaged entry, key {key[:200]!r}: its digests are those of another key, "
            "so that who looks for it does not find it"
        )
    return Entry(kind, entry_sender, entry_name, decode_value(kind, stored), at)
