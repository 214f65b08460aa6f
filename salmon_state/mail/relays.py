"""Where the outbox sends to: a mail server, or a Maildir for trying things out."""

from __future__ import annotations

import mailbox
import re
import smtplib
import ssl
import threading
from email.message import Message
from pathlib import Path
from typing import Any

from salmon.server import Relay

__all__ = ["FINAL_TIMEOUT", "TIMEOUT", "MaildirRelay", "SMTPRelay", "is_mail_server"]

TIMEOUT = 60.0
FINAL_TIMEOUT = 600.0
"""Seconds; RFC 5321 (section 4.5.3.2.6): who gives up earlier sends it twice."""


class SMTPRelay(Relay):
    """A mail server to send through.

    Unlike `salmon.server.Relay` it verifies certificates, and gives a server up that does not
    answer. Both can be given to an `Outbox`.

    Args:
        host: Where it is.
        port: Its port.
        user: The name to log in with; without one there is no login.
        password: The password that belongs to it.
        tls: ``none``, ``starttls`` or ``tls``.
        lmtp: Whether it speaks LMTP.
        timeout: Seconds to wait for each answer but the last.
        final_timeout: Seconds to wait for the last, after which it has taken the mail.
    """

    def __init__(
        self,
        host: str,
        port: int = 25,
        *,
        user: str = "",
        password: str = "",
        tls: str = "none",
        lmtp: bool = False,
        timeout: float = TIMEOUT,
        final_timeout: float = FINAL_TIMEOUT,
    ) -> None:
        if tls not in ("none", "starttls", "tls"):
            raise ValueError(f"tls must be 'none', 'starttls' or 'tls', not {tls!r}")
        super().__init__(
            host, port, user, password, ssl=tls == "tls", starttls=tls == "starttls", lmtp=lmtp
        )
        self.timeout = timeout
        self.final_timeout = final_timeout

    def configure_relay(self, hostname: str) -> smtplib.SMTP:
        """Connects and logs in."""
        context = ssl.create_default_context() if self.ssl or self.starttls else None
        connection: smtplib.SMTP
        if self.ssl:
            connection = smtplib.SMTP_SSL(
                hostname, self.port, timeout=self.timeout, context=context
            )
        else:
            protocol = smtplib.LMTP if self.lmtp else smtplib.SMTP
            connection = protocol(hostname, self.port, timeout=self.timeout)
        try:
            if self.starttls:
                connection.starttls(context=context)
            if self.username:
                connection.login(self.username, self.password)
        except BaseException:
            connection.close()
            raise
        return connection

    def __repr__(self) -> str:
        return f"<SMTPRelay {self.hostname}:{self.port}>"


class MaildirRelay:
    """Keeps mail in a Maildir instead of sending it, for trying things out.

    The envelope is kept in the headers ``X-Envelope-From`` and ``X-Envelope-To``.

    Args:
        path: The Maildir.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._maildir = mailbox.Maildir(path)
        self._adding = threading.Lock()  # two threads may give two mails the same name

    def deliver(self, message: Message, To: str, From: str) -> None:  # noqa: N803 - as in Salmon
        """Adds a message to the Maildir."""
        envelope = f"X-Envelope-From: <{_one_line(From)}>\nX-Envelope-To: <{_one_line(To)}>\n"
        data = message.as_bytes(policy=message.policy.clone(linesep="\n"))
        with self._adding:
            self._maildir.add(envelope.encode("utf-8", "replace") + data)

    def __repr__(self) -> str:
        return f"<MaildirRelay {self._path}>"


def is_mail_server(relay: Any) -> bool:
    """Returns whether a relay is a server that connections are kept open to.

    Not if its ``deliver`` is somebody's own, or if it looks for the server of each recipient.
    """
    is_salmons = isinstance(relay, Relay) and type(relay).deliver is Relay.deliver
    return bool(is_salmons and relay.hostname)


def _one_line(address: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", address)
