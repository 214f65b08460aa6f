"""One client of a receiver: how long it may be silent, and how much it may say.

Salmon's channels wait for ever; the one for LMTP also keeps whatever it is sent.
"""

from __future__ import annotations

import re
from typing import Any

from salmon import server
from salmon._vendor import asynchat, lmtpd

from salmon_state.mail.receivers.bounds import TOO_LARGE

__all__ = ["Channel", "LMTPChannel", "SMTPChannel"]

_END_OF_COMMAND = b"\r\n"
_LONGEST_COMMAND = 4096
"""Bytes; RFC 5321 (section 4.5.3.1.4) wants 512, and more for some extensions."""


class Channel(asynchat.async_chat):
    """What SMTP and LMTP share.

    Attributes:
        heard_at: When the client last said something, by the receiver's clock.
    """

    def __init__(self, receiver: Any, *arguments: Any) -> None:
        self._receiver = receiver
        self._kept = 0
        self._is_too_large = False
        self.heard_at: float = receiver.clock
        # In the receiver's place: it would not know whether the mail is complete.
        super().__init__(self, *arguments)

    def handle_read(self) -> None:
        """Notes that the client is there."""
        self.heard_at = self._receiver.clock
        super().handle_read()

    def collect_incoming_data(self, data: bytes) -> None:
        """Keeps one byte more than is allowed, which shows that it was too much."""
        in_command = self.get_terminator() == _END_OF_COMMAND
        limit = _LONGEST_COMMAND if in_command else self._receiver.size_limit
        room = max(limit + 1 - self._kept, 0)
        if in_command and len(data) > room:
            self.leave(b"500 5.5.6 Line too long")
            return
        self._kept += len(data[:room])
        super().collect_incoming_data(data[:room])

    def found_terminator(self) -> None:
        """Handles what has been kept."""
        self._is_too_large = self._kept > self._receiver.size_limit
        self._kept = 0
        super().found_terminator()

    def process_message(self, *arguments: Any, **options: Any) -> Any:
        """Hands a mail to the receiver; returns the line to answer it with."""
        if self._is_too_large:
            return TOO_LARGE
        return self._receiver.process_message(*arguments, **options)

    def leave(self, reply: bytes) -> None:
        """Says why, and hangs up."""
        asynchat.async_chat.push(self, reply + b"\r\n")
        self.ac_in_buffer = b""
        self.close()


class SMTPChannel(Channel, server.SMTPChannel):
    """A client that speaks SMTP."""

    def __init__(self, receiver: Any, connection: Any, address: Any) -> None:
        super().__init__(receiver, connection, address, receiver.size_limit)

    def found_terminator(self) -> None:
        """Handles a command or a mail; Salmon's would go on reading a mail that was too large."""
        in_mail = self.smtp_state == self.DATA
        super().found_terminator()
        if in_mail:
            self._set_post_data_state()


class LMTPChannel(Channel, lmtpd.LMTPChannel):
    """A client that speaks LMTP, with the SIZE extension (RFC 1870)."""

    def push(self, message: bytes) -> None:
        """Sends a line; announces the limit before the last line of the greeting."""
        if message == b"250 PIPELINING":
            super().push(b"250-SIZE %d" % self._receiver.size_limit)
        super().push(message)

    def lmtp_MAIL(self, argument: bytes | None) -> None:  # noqa: N802 - as in Salmon
        """Begins a mail, unless its announced size is too large."""
        announced = re.search(rb"(?i)\s+SIZE=([0-9]{1,20})\Z", argument or b"")
        if announced and int(announced[1]) > self._receiver.size_limit:
            self.push(TOO_LARGE.encode())
            return
        super().lmtp_MAIL(argument[: announced.start()] if argument and announced else argument)
