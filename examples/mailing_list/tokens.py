"""Signed tokens: the parts of our addresses that nobody else can make up.

A token says "the list wrote to this address, for this purpose, at this time". It is the time in
microseconds, so that no two are the same, followed by an HMAC over all of that; in letters and
digits that survive the lower-casing of addresses.
"""

from __future__ import annotations

import base64
import hmac
import re
from datetime import datetime, timedelta, timezone
from urllib.parse import quote, unquote

from examples.mailing_list import settings

__all__ = ["escape", "is_valid", "issued_at", "make", "now", "unescape"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def make(purpose: str, list_name: str, address: str, about: str = "") -> str:
    """Returns a token for one purpose, list and address: 33 letters and digits.

    Args:
        purpose: What it is good for.
        list_name: The list it is good for.
        address: The address it is good for.
        about: What else it is tied to, such as one subscription of that address.
    """
    issued = f"{(now() - _EPOCH) // _MICROSECOND:013x}"
    return issued + _signature(purpose, list_name, address, about, issued)


def is_valid(
    token: str,
    purpose: str,
    list_name: str,
    address: str,
    about: str = "",
    *,
    lifetime: timedelta,
) -> bool:
    """Returns whether a token was made for exactly this, and not longer ago than its lifetime."""
    if not re.fullmatch("[0-9a-f]{13}[a-z2-7]{20}", token):
        return False
    expected = _signature(purpose, list_name, address, about, token[:13])
    return hmac.compare_digest(token[13:], expected) and now() - issued_at(token) <= lifetime


def issued_at(token: str) -> datetime:
    """Returns when a token that is valid was made."""
    return _EPOCH + int(token[:13], 16) * _MICROSECOND


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


def _signature(purpose: str, list_name: str, address: str, about: str, issued: str) -> str:
    if not settings.list_secret:
        raise RuntimeError("list_secret is not set: see examples/mailing_list/settings.py")
    # A tuple's ascii() keeps its items apart, whatever characters they hold.
    signed = ascii((purpose, f"{list_name}@{settings.list_domain}", address, about, issued))
    digest = hmac.digest(settings.list_secret, signed.encode(), "sha256")
    return base64.b32encode(digest).decode().lower()[:20]
