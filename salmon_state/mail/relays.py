"""Where the outbox sends to: a mail server, a Maildir, or whatever delivers as Salmon's relay does.

smtplib and not another library: it is what Salmon has, it needs nothing to be installed, and none
of the others sends commands in a group (PIPELINING), which is what makes many recipients quick.
"""

from __future__ import annotations

import contextlib
import mailbox
import re
import smtplib
import ssl
import threading
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

from salmon.server import Relay

__all__ = [
    "Answer",
    "ConnectionLost",
    "MaildirRelay",
    "RelayDown",
    "SMTPRelay",
    "Session",
    "is_mail_server",
    "open_session",
]

_TIMEOUT = 60.0
_FINAL_TIMEOUT = 600.0
"""Seconds; RFC 5321 (section 4.5.3.2.6): who gives up earlier sends it twice."""

_LONGEST_ANSWER = 500


class Answer(NamedTuple):
    """What a relay says about a recipient; as `refused`, why it does not take the mail."""

    code: int
    """SMTP's; 0 if there was none."""
    words: str


class RelayDown(OSError):
    """The relay takes nothing from us now: no connection, no login, or it says so (421)."""


class ConnectionLost(OSError):
    """The connection broke while a mail was being sent.

    Attributes:
        hung: Whether the relay said nothing for too long.
        uncertain: Whether it may have taken the mail: it was lost after the final dot.
    """

    def __init__(self, words: str, *, hung: bool, uncertain: bool) -> None:
        super().__init__(words)
        self.hung = hung
        self.uncertain = uncertain


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
        timeout: float = _TIMEOUT,
        final_timeout: float = _FINAL_TIMEOUT,
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


# ---------------------------------------------------------------- what a dispatcher sends through


class Session:
    """What one connection of a dispatcher does, whatever the relay is."""

    def send(self, sender: str, recipients: Sequence[str], message: bytes) -> dict[str, Answer]:
        """Sends a message in one transaction; returns who was refused, and how.

        Raises:
            RelayDown: Nobody was sent anything, and nobody can be now.
            ConnectionLost: It broke; unless it says uncertain, nobody was sent anything.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Says goodbye."""


def open_session(relay: Any) -> Session:
    """Connects to a relay.

    Raises:
        RelayDown: It cannot be reached, or refuses us.
    """
    if not is_mail_server(relay):
        return _DeliverSession(relay)
    try:
        connection = relay.configure_relay(relay.hostname)
        try:
            return _SMTPSession(relay, connection)
        except BaseException:
            connection.close()
            raise
    except OSError as error:
        raise RelayDown(f"{relay!r}: {type(error).__name__}: {error}") from error


def is_mail_server(relay: Any) -> bool:
    """Returns whether a relay is a server that connections are kept open to.

    Not if its ``deliver`` is somebody's own, or if it looks for the server of each recipient.
    """
    is_salmons = isinstance(relay, Relay) and type(relay).deliver is Relay.deliver
    return bool(is_salmons and relay.hostname)


class _SMTPSession(Session):
    """A connection that stays open."""

    def __init__(self, relay: Relay, connection: smtplib.SMTP) -> None:
        self._smtp = connection
        self._timeout: float = getattr(relay, "timeout", _TIMEOUT)
        self._final_timeout: float = getattr(relay, "final_timeout", _FINAL_TIMEOUT)
        self._message = self._wire = b""
        self._wait(self._timeout)
        connection.ehlo_or_helo_if_needed()
        self._pipelining = connection.has_extn("pipelining")
        self._utf8 = connection.has_extn("smtputf8")
        self._options = ["BODY=8BITMIME"] if connection.has_extn("8bitmime") else []

    def _wait(self, seconds: float) -> None:
        if self._smtp.sock is not None:
            self._smtp.sock.settimeout(seconds)

    def send(self, sender: str, recipients: Sequence[str], message: bytes) -> dict[str, Answer]:
        refused = {each: _NO_UTF8 for each in recipients if not self._can_say(sender + each)}
        willing = [each for each in recipients if each not in refused]
        if not willing:
            return refused
        self._dotted = False
        try:
            taking = self._announce(sender, willing, refused)
            if taking and self._data(taking, message, refused):
                return refused
            self._smtp.rset()
        except RelayDown:
            raise
        except OSError as error:
            self._smtp.close()
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            hung = isinstance(cause, TimeoutError) or "timed out" in str(error)
            words = f"the connection broke: {error}"
            raise ConnectionLost(words, hung=hung, uncertain=self._dotted) from error
        return refused

    def _can_say(self, addresses: str) -> bool:
        try:
            addresses.encode("utf-8" if self._utf8 else "ascii")
        except UnicodeEncodeError:
            return False
        return True

    def _announce(
        self, sender: str, recipients: Sequence[str], refused: dict[str, Answer]
    ) -> list[str]:
        """Says from whom and to whom; returns those who are accepted."""
        options = list(self._options)
        self._smtp.command_encoding = "ascii"
        if not (sender + "".join(recipients)).isascii():
            options.append("SMTPUTF8")
            self._smtp.command_encoding = "utf-8"
        mail = f"MAIL FROM:<{sender}> {' '.join(options)}".rstrip()
        rcpts = [f"RCPT TO:<{each}>" for each in recipients]
        if self._pipelining:
            self._smtp.send("".join(f"{line}\r\n" for line in (mail, *rcpts)))
        answer = self._answer("" if self._pipelining else mail)
        taking: list[str] = []
        if answer.code != 250 and not self._pipelining:
            refused.update((each, answer) for each in recipients)
            return taking
        for each, line in zip(recipients, rcpts, strict=True):
            about = self._answer("" if self._pipelining else line)
            if answer.code != 250:
                refused[each] = answer
            elif about.code in (250, 251):
                taking.append(each)
            else:
                refused[each] = about
        return taking

    def _data(self, recipients: Sequence[str], message: bytes, refused: dict[str, Answer]) -> bool:
        """Sends the message itself; returns whether the transaction is over."""
        answer = self._answer("DATA")
        if answer.code != 354:
            refused.update((each, answer) for each in recipients)
            return False
        self._dotted = True
        self._wait(self._final_timeout)
        if message is not self._message:  # it often goes to others right after
            ending = b".\r\n" if message.endswith(b"\r\n") else b"\r\n.\r\n"
            self._message, self._wire = message, re.sub(rb"(?m)^\.", b"..", message) + ending
        self._smtp.send(self._wire)
        for each in recipients if isinstance(self._smtp, smtplib.LMTP) else [""]:
            answer = self._answer("", final=True)
            if answer.code != 250:
                refused.update((one, answer) for one in ([each] if each else recipients))
        self._wait(self._timeout)
        return True

    def _answer(self, command: str, *, final: bool = False) -> Answer:
        """Returns the next answer, to a command that is said now or was said before."""
        if command:
            self._smtp.putcmd(command)
        code, words = self._smtp.getreply()
        if code == 421 and not final:
            self._smtp.close()
            raise RelayDown(f"421 {_text(words)}")
        return Answer(code, f"{code} {_text(words)}")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._wait(5.0)
            self._smtp.quit()
        self._smtp.close()


class _DeliverSession(Session):
    """Somebody's own ``deliver``, which takes one recipient and connects as it likes."""

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def send(self, sender: str, recipients: Sequence[str], message: bytes) -> dict[str, Answer]:
        [recipient] = recipients
        try:
            self._relay.deliver(message_from_bytes(message), To=recipient, From=sender)
        except smtplib.SMTPRecipientsRefused as error:
            code, words = next(iter(error.recipients.values()), (0, b""))
            return {recipient: Answer(code, f"{code} {_text(words)}")}
        except (
            smtplib.SMTPConnectError,
            smtplib.SMTPHeloError,
            smtplib.SMTPAuthenticationError,
            smtplib.SMTPNotSupportedError,
            ConnectionRefusedError,
        ) as error:
            raise RelayDown(f"{self._relay!r}: {type(error).__name__}: {error}") from error
        except smtplib.SMTPResponseException as error:
            code = error.smtp_code
            return {recipient: Answer(code, f"{code} {_text(error.smtp_error)}")}
        except OSError as error:
            hung = isinstance(error, TimeoutError)
            raise ConnectionLost(str(error), hung=hung, uncertain=True) from error
        return {}


_NO_UTF8 = Answer(553, "553 5.6.7 The address is not ASCII, and the relay offers no SMTPUTF8")


def _text(words: Any) -> str:
    if isinstance(words, bytes):
        words = words.decode("utf-8", "replace")
    return " ".join(str(words).split())[:_LONGEST_ANSWER]


def _one_line(address: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", address)
