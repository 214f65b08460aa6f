"""What is sent: a message as it goes over the wire, and the addresses of its envelope."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from email.message import Message
from email.utils import formatdate, getaddresses, make_msgid, parseaddr
from typing import Any

__all__ = ["address", "as_bytes", "header", "recipients_in"]

_PLAIN = re.compile(r"[^\s<>()\[\]\\,:;@\"\x00-\x1f\x7f]+@[^\s<>()\\,;@\"\x00-\x1f\x7f]+")


def address(given: Any, what: str, *, null: bool = False) -> str:
    """Returns an address without the name that may be around it.

    Args:
        given: What somebody gave for it.
        what: What it is, for the error.
        null: Whether it may be the null sender, ``''`` or ``<>``.

    Raises:
        ValueError: It is none, or has characters that none may have.
    """
    if isinstance(given, str):
        if _PLAIN.fullmatch(given):  # as nearly all are, and parsing takes ten times as long
            return given
        address = parseaddr(given)[1]
        if (address or (null and given in ("", "<>"))) and address.isprintable():
            return address
    raise ValueError(f"the {what} must be an address such as 'anna@example.com', not {given!r:.80}")


def recipients_in(given: Any) -> list[Any]:
    """Returns the recipients that somebody gave for one: a header may name several.

    Args:
        given: A text with an address or more, or a list of such.
    """
    if isinstance(given, str) and "," in given:
        return [address for _, address in getaddresses([given])]
    if isinstance(given, str) or not isinstance(given, Iterable):
        return [given]
    return [each for text in given for each in recipients_in(text)]


def header(message: Any, name: str) -> str | None:
    """Returns a header of a message; ``None`` if it has none, as a text or bytes."""
    value = None if isinstance(message, (str, bytes)) else message[name]
    return None if value is None else str(value)  # Python makes an object of strange ones


def as_bytes(message: Any) -> bytes:
    """Returns a message as it is sent, with CRLF, a ``Message-ID`` and a ``Date``.

    Not recoded to 7 bits: Python fails at unknown charsets.

    Args:
        message: Salmon's, an `email.message.Message`, text or bytes.
    """
    if hasattr(message, "to_message"):  # Salmon's own
        message = message.to_message()
    if isinstance(message, Message):
        data = message.as_bytes(policy=message.policy.clone(linesep="\r\n"))
    elif isinstance(message, bytes):
        data = message
    else:
        data = str(message).encode("utf-8", "surrogateescape")
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    head = data.partition(b"\r\n\r\n")[0]
    # The same at each attempt: whoever gets it twice can tell.
    for name, make in (("Message-ID", _message_id), ("Date", formatdate)):
        if not re.search(rb"(?im)^%s[ \t]*:" % name.encode(), head):
            data = f"{name}: {make()}\r\n".encode() + data
    return data


def _message_id() -> str:
    return make_msgid(domain=socket.gethostname())  # its own default may ask a name server
