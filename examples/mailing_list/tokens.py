"""Signed tokens: the parts of our addresses that nobody else can make up.

A token says "the list wrote to this address, for this purpose, at this time". It is the time in
microseconds, so that no two are the same, followed by an HMAC over all of that; in letters and
digits that survive the lower-casing of addresses. Nothing is stored for it.
"""

from __future__ import annotations

import base64
import hmac
import re
from datetime import datetime, timedelta, timezone
from urllib.parse import quote, unquote

from config import settings

__all__ = ["CLOCK_TOLERANCE", "escape", "issued_at", "make", "now", "unescape"]

CLOCK_TOLERANCE = timedelta(minutes=2)
"""How far two servers' clocks may differ, and how long a handler may take to send a mail."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def make(purpose: str, list_name: str, address: str) -> str:
    """Returns a token for one purpose, list and address: 33 letters and digits."""
    issued = f"{(now() - _EPOCH) // _MICROSECOND:013x}"
    return issued + _signature(purpose, list_name, address, issued)


def issued_at(
    token: str, purpose: str, list_name: str, address: str, *, lifetime: timedelta
) -> datetime | None:
    """Returns when a token was made, or ``None`` if it was not made for exactly this.

    Args:
        token: The token as it came back.
        purpose: What it must have been made for.
        list_name: The list it must have been made for.
        address: The address it must have been made for.
        lifetime: How old it may be.
    """
    if not re.fullmatch("[0-9a-f]{13}[a-z2-7]{20}", token):
        return None
    expected = _signature(purpose, list_name, address, token[:13])
    if not hmac.compare_digest(token[13:], expected):
        return None
    issued = _EPOCH + int(token[:13], 16) * _MICROSECOND
    return issued if -CLOCK_TOLERANCE <= now() - issued <= lifetime else None


def escape(address: str) -> str:
    """Returns an address as a part of another's local part, whatever characters it has.

    ``%`` would be natural, but some mail servers give it a meaning of their own.

    >>> escape("o'neil@example.com")
    'o=27neil=40example.com'
    """
    return quote(address, safe="").replace("%", "=").replace("..", "=2e=2e").lower()


def unescape(escaped: str) -> str:
    """Returns the address that `escape` was given."""
    return unquote(escaped.replace("=", "%"))


def now() -> datetime:
    """Returns the time; here so that a test can set it."""
    return datetime.now(timezone.utc)


def _signature(purpose: str, list_name: str, address: str, issued: str) -> str:
    if not settings.list_secret:
        raise RuntimeError("settings.list_secret is not set: config.boot or config.testing does it")
    # A tuple's ascii() keeps its items apart, whatever characters they hold.
    signed = ascii((purpose, f"{list_name}@{settings.list_domain}", address, issued))
    digest = hmac.digest(settings.list_secret, signed.encode(), "sha256")
    return base64.b32encode(digest).decode().lower()[:20]
