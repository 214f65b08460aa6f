"""Mails to the mailing list, as a mail server would hand them in, and its answers."""

from __future__ import annotations

import re
from email.message import EmailMessage

from salmon.mail import MailRequest
from salmon.routing import Router

from config.testing import Sent
from examples.mailing_list import settings

DOMAIN = "lists.example.com"
NEWS = f"news@{DOMAIN}"
ANNA = "anna@example.com"
BEN = "ben@example.com"


def write(
    sender: str,
    to: str,
    *,
    body: str = "hello",
    return_path: str | None = None,
    **headers: str,
) -> None:
    """Delivers a mail; a header called ``From_`` stands for ``From``."""
    mail = EmailMessage()
    given = {name.strip("_").replace("_", "-"): value for name, value in headers.items()}
    for name, value in {"From": sender, "To": to, "Subject": "hi", **given}.items():
        mail[name] = value
    mail.set_content(body)
    path = sender if return_path is None else return_path
    write_raw(sender, to, f"Return-Path: <{path}>\n".encode() + mail.as_bytes())


def write_raw(sender: str, to: str, data: bytes) -> None:
    """Delivers a mail as it stands."""
    Router.deliver(MailRequest("localhost", sender, to if "@" in to else f"{to}@{DOMAIN}", data))


def confirm_address(mail: Sent) -> str:
    """Returns the address that a confirmation mail wants an answer to."""
    found = re.search(rf"[a-z-]+-confirm-[0-9a-z]+@{re.escape(DOMAIN)}", str(mail.message["From"]))
    assert found, mail.message["From"]
    return found[0]


def subscribe(*people: str, list_name: str = "news") -> None:
    """Subscribes people, and forgets what they were sent meanwhile."""
    for person in people:
        write(person, f"{list_name}-subscribe@{DOMAIN}")
        write(person, confirm_address(settings.relay[-1]))
        assert state_of(person, list_name) == "POSTING"
    settings.relay.clear()


def post(sender: str, **headers: str) -> list[Sent]:
    """Posts a mail; returns the copies, by recipient."""
    before = len(settings.relay)
    write(sender, NEWS, **headers)
    return sorted(settings.relay[before:], key=lambda mail: mail.recipient)


def state_of(person: str, list_name: str = "news") -> str:
    """Returns the state of a person on a list."""
    state = Router.STATE_STORE.get(f"examples.mailing_list.handlers:{list_name}", person)
    assert isinstance(state, str)
    return state


def failure_report(action: str = "failed", status: str = "5.1.1") -> bytes:
    """Returns a delivery status notification (RFC 3464)."""
    return f"""\
Return-Path: <>
From: MAILER-DAEMON@example.com
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary=x

--x

It did not work.

--x
Content-Type: message/delivery-status

Reporting-MTA: dns; mail.example.com

Final-Recipient: rfc822; somebody@example.com
Action: {action}
Status: {status}

--x
Content-Type: message/rfc822

Subject: hi

hello

--x--
""".encode()
