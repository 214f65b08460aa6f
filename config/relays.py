"""Where our mail goes: to a mail server, or to a Maildir if none is configured.

Both have the one method of `salmon.server.Relay` that handlers call, ``deliver``. They differ
from it in that a null sender is possible, that a server which does not answer is given up after
some time, and that the message is sent as it is: 8-bit text is no error.
"""

from __future__ import annotations

import contextlib
import mailbox
import re
import smtplib
import ssl
from email.message import Message
from pathlib import Path

__all__ = ["Outbox", "SMTPRelay", "wire_format"]


class SMTPRelay:
    """Sends mail through a mail server.

    Args:
        host: Where it is.
        port: Its port.
        user: The name to log in with; without one there is no login.
        password: The password that belongs to it.
        tls: ``none``, ``starttls`` or ``tls``; certificates are verified.
    """

    timeout = 30.0
    """Seconds to wait for each answer: a handler waits, and with it everybody else's mail."""

    def __init__(
        self, host: str, port: int, *, user: str = "", password: str = "", tls: str = "none"
    ) -> None:
        self._host = host
        self._port = port
        self._user = user
        self._password = password
        self._tls = tls

    def deliver(self, message: Message, To: str, From: str) -> None:  # noqa: N803 - as in Salmon
        """Sends a message to one recipient.

        Args:
            message: The message.
            To: The recipient in the envelope.
            From: The sender in the envelope; ``''`` is the null sender.

        Raises:
            OSError: It was not taken; the `smtplib` errors are of this kind too.
        """
        connection = self._connect()
        try:
            if self._tls == "starttls":
                connection.starttls(context=ssl.create_default_context())
            if self._user:
                connection.login(self._user, self._password)
            connection.ehlo_or_helo_if_needed()
            options = ["BODY=8BITMIME"] if connection.has_extn("8bitmime") else []
            connection.sendmail(From, [To], wire_format(message, "\r\n"), options)
            with contextlib.suppress(OSError):  # it has been taken, however the farewell goes
                connection.quit()
        finally:
            connection.close()

    def _connect(self) -> smtplib.SMTP:
        if self._tls == "tls":
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(self._host, self._port, timeout=self.timeout, context=context)
        return smtplib.SMTP(self._host, self._port, timeout=self.timeout)

    def __repr__(self) -> str:
        return f"<SMTPRelay {self._host}:{self._port}>"


class Outbox:
    """Keeps mail in a Maildir instead of sending it, for trying things out.

    The envelope is kept in the headers ``X-Envelope-From`` and ``X-Envelope-To``.

    Args:
        path: The Maildir.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._maildir = mailbox.Maildir(path)

    def deliver(self, message: Message, To: str, From: str) -> None:  # noqa: N803 - as in Salmon
        """Adds a message to the Maildir."""
        envelope = f"X-Envelope-From: <{_one_line(From)}>\nX-Envelope-To: <{_one_line(To)}>\n"
        self._maildir.add(envelope.encode("utf-8", "replace") + wire_format(message, "\n"))

    def __repr__(self) -> str:
        return f"<Outbox {self._path}>"


def wire_format(message: Message, line_separator: str) -> bytes:
    """Returns the message as it is sent, with the given line separator."""
    # Not recoded to 7 bits: Python fails at that with text whose charset is missing or unknown.
    return message.as_bytes(policy=message.policy.clone(linesep=line_separator))


def _one_line(address: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", address)
