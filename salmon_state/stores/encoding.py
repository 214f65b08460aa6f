"""States as durable stores write them: in ASCII, whatever a driver or a database makes of text."""

from __future__ import annotations

import contextlib
import re
from hashlib import sha256

from salmon_state.errors import StorageError
from salmon_state.keys import Sender

__all__ = ["decode_state", "encode_state", "sender_digest"]


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

_WRITTEN = re.compile(r"(?:[!-\[\]-~]|\\(?:[tnr\\]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))+")
