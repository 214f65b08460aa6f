"""Strings as a shelf holds them: pickled, and read without obeying what a pickle asks for."""

from __future__ import annotations

import pickle
import re

__all__ = ["pickle_string", "unpickle_string"]

_PROTOCOL = 4  # fixed, so that an older Python reads what a newer one wrote

# A pickled str as protocols 1 to 5 write it: [PROTO] [FRAME] BINUNICODE with its length, the
# text, [MEMOIZE or BINPUT 0], STOP.
_PICKLED = re.compile(
    rb"(?:\x80[\x02-\x05])?(?:\x95.{8})?(?:\x8c(.)|X(.{4})|\x8d(.{8}))", flags=re.DOTALL
)
_ENDINGS = (b"\x94.", b"q\x00.", b".")


def pickle_string(text: str) -> bytes:
    """Returns a text as a shelf holds it."""
    return pickle.dumps(text, _PROTOCOL)


def unpickle_string(pickled: object) -> str:
    """Returns the text of a pickled ``str``; nothing else is accepted, and nothing is executed.

    No Unpickler runs, not even one whose ``find_class`` refuses: it would still obey a few bytes
    that ask for gigabytes of memory.

    Raises:
        ValueError: The bytes are anything but one whole pickled ``str``.
    """
    header = _PICKLED.match(pickled) if isinstance(pickled, bytes) else None
    if not isinstance(pickled, bytes) or header is None or header.lastindex is None:
        raise ValueError("its value is not a pickled str")
    start = header.end()
    end = start + int.from_bytes(header[header.lastindex], "little")
    if pickled[end:] not in _ENDINGS:
        raise ValueError("its value is cut off or has something behind the pickled str")
    return pickled[start:end].decode("utf-8", "surrogatepass")
