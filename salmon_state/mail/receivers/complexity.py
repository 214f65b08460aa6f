"""What a mail may cost, asked before it is parsed: Python's parser knows no bounds.

A server has one thread for all its clients, and 100 kB can keep the parser busy for seconds. What
is counted here costs one pass over the mail each, and what it lets through is parsed within
about a second.
"""

from __future__ import annotations

import re

__all__ = ["TOO_COMPLEX", "is_too_complex"]

TOO_COMPLEX = "554 5.6.0 This mail is too complex to be read"

_LONGEST_HEAD = 128 * 1024
"""Bytes of the mail's own headers: decoding one takes the square of its encoded words."""

_MOST_CONTAINERS = 300
"""Parts that hold other parts: the parser recurses into them."""

_MOST_COMPARISONS = 3_000_000
"""Each line is compared with the boundaries of all parts that are open, and costs two more."""

_MOST_BOUNDARIES = 10_000
"""Lines that may begin another part."""

_MOST_PARAMETER_BYTES = 10_000_000
"""Each semicolon in a MIME header makes the parser read that header once more."""

# They begin with letters, which Python's re finds quickly, and look behind them afterwards.
_CONTAINER = re.compile(rb"content-(?<=[\r\n]content-)type:\s*(?:multipart|message)")
_PARAMETERS = re.compile(
    rb"content-(?<=[\r\n]content-)[a-z-]*:[^\r\n]*(?:(?:\r\n|\r|\n)[ \t][^\r\n]*)*"
)
_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")


def is_too_complex(mail: bytes) -> bool:
    """Returns whether a mail would keep the parser busy, or make it recurse too deeply."""
    data = b"\n" + mail.lower()
    head = _BLANK_LINE.search(data)
    if (head.start() if head else len(data)) > _LONGEST_HEAD:
        return True
    lines = data.count(b"\n") + data.count(b"\r")
    containers = len(_CONTAINER.findall(data))
    if containers > _MOST_CONTAINERS or (containers + 2) * lines > _MOST_COMPARISONS:
        return True
    fields = _PARAMETERS.findall(data)
    if sum(len(field) * field.count(b";") for field in fields) > _MOST_PARAMETER_BYTES:
        return True
    if not containers:
        return False
    parts = data.count(b"\n--") + data.count(b"\r--")
    if b"delivery-status" in data:  # its blocks are parts as well, with blank lines between them
        parts += data.count(b"\n\n") + data.count(b"\r\r") + data.count(b"\n\r\n")
    return parts > _MOST_BOUNDARIES
