"""The steps of a conversation with the mailing list, each waiting for its effect."""

from __future__ import annotations

import smtplib
import threading
from collections.abc import Sequence
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


def post_everywhere(servers: Sequence[MailServer], person: str, text: str, reader: str) -> None:
    """Posts one mail to all servers at the same moment, each as often as it says "later"."""
    mail = servers[0].mail(person, "news", text)
    errors: list[Exception] = []

    def hand_in(server: MailServer) -> None:
        def is_taken() -> bool:
            try:
                server.hand_in(person, mail)
            except smtplib.SMTPDataError as error:
                if error.smtp_code != 451:
                    errors.append(error)
                return error.smtp_code != 451
            return True

        wait_until(is_taken, "a post to be taken")

    clients = [threading.Thread(target=hand_in, args=(server,)) for server in servers]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert errors == []
    post(servers[0], person, f"The next: {text[::-1]}", reader)  # copies leave in their order
    found = [mail for mail in servers[0].mail_to(reader) if text in mail.as_string()]
    assert len(found) == 1, f"{reader} got {len(found)} copies"


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
