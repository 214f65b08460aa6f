"""The steps of a conversation with the mailing list, each waiting for its effect."""

from __future__ import annotations

from email.utils import parseaddr

from tests.end_to_end.mail_server import MailServer, wait_until


def ask(server: MailServer, person: str) -> str:
    """Subscribes; returns the address to which the confirmation must be sent."""
    server.send(person, "news-subscribe")
    return parseaddr(str(server.wait_for_mail(person, "Please confirm")["From"]))[1]


def confirm(server: MailServer, person: str, address: str) -> None:
    """Confirms a subscription."""
    server.send(person, address)
    server.wait_for_mail(person, "Welcome")


def post(server: MailServer, person: str, text: str, *readers: str) -> None:
    """Posts; every reader gets it."""
    server.send(person, "news", text)
    for reader in readers:
        wait_until(
            lambda reader=reader: any(text in m.as_string() for m in server.mail_to(reader)),  # type: ignore[misc]
            f"the post to {reader}",
        )


def leave(server: MailServer, person: str) -> None:
    """Unsubscribes."""
    server.send(person, "news-unsubscribe")
    server.wait_for_mail(person, "You have left")


def bounce(server: MailServer, person: str) -> None:
    """Reports that the last post did not reach somebody."""
    returns_to = str(server.wait_for_mail(person, "hi")["X-Envelope-From"]).strip("<>")
    report = (
        "From: mailer-daemon@example.com\r\n"
        "Content-Type: multipart/report; report-type=delivery-status; boundary=x\r\n\r\n"
        "--x\r\nContent-Type: message/delivery-status\r\n\r\n"
        "Reporting-MTA: dns; x\r\n\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n--x--\r\n"
    )
    with server.connection() as connection:
        connection.sendmail("", [returns_to], report)
