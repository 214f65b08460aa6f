"""How durable stores write entries: in ASCII, whatever a driver or a database makes of text.

Digests find them, and text beside the digests says to people what they are.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import zlib
from functools import lru_cache
from hashlib import sha256
from typing import Any

from salmon_state.entries import STATE, Entry, Kind, Value
from salmon_state.errors import StorageError
from salmon_state.keys import Sender, ascii_key, parse_key

__all__ = [
    "LONGEST_READABLE_KEY",
    "decode_key",
    "decode_row",
    "decode_state",
    "decode_value",
    "encode_key",
    "encode_state",
    "encode_value",
    "name_digest",
    "sender_digest",
]

LONGEST_READABLE_KEY = 10_000
"""In characters; longer ones are compressed, and read one at a time."""
_COMPRESSED = "zlib+json:"
_COMPRESSED_ASCII = "zlib:"
"""What earlier versions wrote: `ascii_key`, compressed."""
_WRITTEN = re.compile(r"(?:[!-\[\]-~]|\\(?:[tnr\\]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))+")


def encode_state(state: str) -> str:
    r"""Returns what a store writes for a state: an identifier as it is, the rest escaped.

    Databases disagree about NUL, lone surrogates and trailing spaces; none of them is left.

    >>> encode_state("POSTING"), encode_state("É ")
    ('POSTING', '\\xc9\\x20')
    """
    if state.isascii() and state.isidentifier():
        return state
    return state.encode("unicode_escape").decode("ascii").replace(" ", "\\x20")


def decode_state(text: str) -> str:
    """Returns the state; the inverse of `encode_state`.

    Raises:
        StorageError: `encode_state` writes no such text, so somebody else did. A text that means a
            state and is not the one it is written as could be read, and never found by comparing.
    """
    if text.isascii() and text.isidentifier():
        return text
    state = ""
    if _WRITTEN.fullmatch(text):  # the codec only warns of an escape that it does not know
        with contextlib.suppress(UnicodeError):
            state = text.encode("ascii").decode("unicode_escape")
    if not state or encode_state(state) != text:
        raise StorageError(f"damaged state {text[:200]!r}: expected the name of a function")
    return state


def sender_digest(sender: Sender) -> bytes:
    """Returns what stands for a sender where its length or its characters could matter."""
    global _last
    known, digest = _last
    if known != sender:
        digest = sha256(ascii(sender).encode()).digest()
        _last = sender, digest  # a mail asks for that of its sender to lock, to read and to write
    return digest


_last: tuple[Sender, bytes] = None, sha256(b"None").digest()


@lru_cache(maxsize=256)
def _short_name_digest(name: str) -> bytes:
    return sha256(ascii(name).encode()).digest()


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
    if "\\" not in text and text.count("'") == 4 and text[:2] == "['" and text[-2:] == "']":
        name, comma, sender = text[2:-2].partition("', '")
        if comma:  # the common case
            return name, sender
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
        is_key = type(module) is str and type(sender) in (str, type(None))
        if is_key and _as_json(module, sender) == text:
            return module, sender
    except (ValueError, TypeError, RecursionError):
        pass
    raise StorageError(f"damaged key {text[:200]!r}: expected the JSON of [module, sender]")


def _decompress(text: str, prefix: str) -> str:
    try:
        packed = base64.b64decode(text[len(prefix) :])
        return zlib.decompress(packed).decode("utf-8", "surrogatepass")
    except (ValueError, zlib.error):
        raise StorageError(f"damaged key {text[:200]!r}: cannot be decompressed") from None


def encode_value(kind: Kind, value: Any) -> Any:
    """Returns what is in the column for a value: text of ASCII for a STATE, otherwise bytes."""
    return encode_state(value) if kind is STATE else value


def decode_value(kind: Kind, stored: Any) -> Value:
    """Returns the value; the inverse of `encode_value`.

    Raises:
        StorageError: `encode_value` writes nothing like this.
    """
    if kind is STATE:
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
