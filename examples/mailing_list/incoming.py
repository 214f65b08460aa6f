"""What a mail that came in really is: who wrote it, whether a machine did, whether it bounced.

The headers are read from the mail as it was received. Salmon's ``message["Subject"]`` decodes
them, and then an encoded line break is a real one.
"""

from __future__ import annotations

import re
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import Header, decode_header, make_header
from email.message import Message
from email.utils import getaddresses
from typing import Any

from examples.mailing_list import settings

__all__ = ["author_name", "has_failed", "is_automatic", "is_from_its_author", "parsed", "readable"]

_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~.-]+"
_QUOTED = r'"(?:[^"\\\x00-\x1f\x7f-\U0010ffff]|\\[\x20-\x7e])+"'
_ADDRESS = re.compile(rf"(?=.{{3,254}}\Z)(?:{_ATOM}|{_QUOTED})@[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?\Z")

_LONGEST_HEADER = 10_000
_MACHINE = re.compile(r"mailer-daemon|owner-.*|.*-(?:owner|request|bounces?)")

_MARKS = ("list-", "x-auto-re", "x-autore", "x-mail-autore", "x-failed-recipients")
"""How the headers begin that mailing lists and vacation programs add (X-Autoreply, X-Autorespond,
X-Auto-Response-Suppress, ...)."""

_ABSENT = re.compile(
    r"(?i)(?:auto(?:matic|mated|matische|matisch)?[ -]?(?:reply|response|antwort)|out of (?:the )?"
    r"office|vacation|away from my mail|abwesenheit|r.ponse automatique|absence du bureau|"
    r"undeliver|delivery status notification|mail delivery)"
)
"""How a subject begins that a vacation program wrote which says so nowhere else."""


def parsed(message: Any) -> Message:
    """Returns the mail as it was received, parsed by Python's own parser."""
    data = message.Data
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    return message_from_bytes(data)


def is_automatic(message: Any) -> bool:
    """Returns whether a mail must not be answered or passed on (RFC 3834, section 2).

    That is: it came from a null sender, from a machine, from a mailing list, this one or another,
    or from an address that is none.
    """
    headers = parsed(message)
    sender = str(message.From or "")
    if not _ADDRESS.match(sender) or _is_ours(sender):
        return True
    if "Return-Path" in headers and not str(headers["Return-Path"]).strip("<> "):
        return True
    if any(word != "no" for word in _words(headers, "Auto-Submitted")):
        return True
    if {"bulk", "list", "junk", "auto_reply"}.intersection(_words(headers, "Precedence")):
        return True
    if any(name.lower().startswith(_MARKS) for name in headers.keys()):  # noqa: SIM118 - no dict
        return True
    if _ABSENT.match(readable(headers["Subject"])) or _is_from_a_machine(sender, headers):
        return True
    return headers.get_content_type() == "multipart/report" or _has_been_here(headers)


def is_from_its_author(message: Any) -> bool:
    """Returns whether the ``From`` header names the sender of the envelope and nobody else."""
    headers = parsed(message).get_all("From", [])
    authors = getaddresses([str(header) for header in headers])
    return len(headers) == 1 and [a.lower() for _, a in authors] == [message.From]


def author_name(mail: Message) -> str:
    """Returns the display name in the ``From`` header, or the part of the address before the @."""
    [(name, address)] = getaddresses([_undecoded(mail["From"])])
    return (readable(name) or address.partition("@")[0])[:100]


def readable(header: Any) -> str:
    """Returns a header's text, decoded, on one line, without control characters.

    What was a line break in it, encoded or not, cannot start a header of its own.
    """
    raw = _undecoded(header)
    try:
        text = str(make_header(decode_header(raw)))
    except (HeaderParseError, UnicodeError, LookupError, ValueError):
        text = raw
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(printable.split())[:500]


def has_failed(message: Any) -> bool:
    """Returns whether a mail is a report that another mail could not be delivered for good.

    A delay is no failure, and neither is an "I am on holiday" that was sent to the bounce
    address (RFC 3464).
    """
    mail = parsed(message)
    if mail.get_content_type() != "multipart/report":
        return False
    for part in mail.walk():
        action = str(part.get("Action", "")).strip().lower()
        if action == "failed" and str(part.get("Status", "5")).strip().startswith("5"):
            return True
    return False


def _undecoded(header: Any) -> str:
    """Returns a header's text as it stands; 8-bit characters, which it must not have, as UTF-8.

    Only its beginning: decoding takes the square of its length.
    """
    if isinstance(header, Header):  # is how Python's parser marks them
        raw = b"".join(part for part, _ in decode_header(header) if isinstance(part, bytes))
        return raw.decode("utf-8", "replace")[:_LONGEST_HEADER]
    return str(header or "")[:_LONGEST_HEADER]


def _words(headers: Message, name: str) -> set[str]:
    """Returns the first word of each header of this name: what follows are parameters."""
    return {
        re.split(r"[;\s]", str(value).strip().lower())[0] for value in headers.get_all(name, [])
    }


def _is_from_a_machine(sender: str, headers: Message) -> bool:
    authors = getaddresses([_undecoded(header) for header in headers.get_all("From", [])])
    locals_ = [address.lower().rpartition("@")[0] for _, address in [*authors, ("", sender)]]
    return any(_MACHINE.fullmatch(local) for local in locals_)


def _is_ours(sender: str) -> bool:
    local, _, domain = sender.rpartition("@")
    ours = any(local == name or local.startswith(f"{name}-") for name in settings.list_names)
    return domain == settings.list_domain and ours


def _has_been_here(headers: Message) -> bool:
    marks = " ".join(
        str(value).lower() for name in ("X-Loop", "List-Id") for value in headers.get_all(name, [])
    )
    domain = settings.list_domain
    return any(f"{n}@{domain}" in marks or f"<{n}.{domain}>" in marks for n in settings.list_names)
