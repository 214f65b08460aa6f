"""What a dispatcher sends through: a connection that stays open, or somebody's own ``deliver``.

smtplib and not another library: it is what Salmon has, it needs nothing to be installed, and none
of the others sends commands in a group (PIPELINING), which is what makes many recipients quick.
"""

from __future__ import annotations

import contextlib
import re
import smtplib
from collections.abc import Sequence
from email import message_from_bytes
from typing import Any, NamedTuple

from salmon.server import Relay

from salmon_state.mail.relays import FINAL_TIMEOUT, TIMEOUT, is_mail_server

__all__ = ["Answer", "ConnectionLost", "Line", "RelayDown", "Session", "open_session"]

_LONGEST_ANSWER = 500
_TAKEN = (250, 251)


class Answer(NamedTuple):
    """Why a relay does not take a mail for a recipient."""

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


class Line:
    """One connection to a relay, opened when it is needed.

    Args:
        relay: Where to.

    Attributes:
        one_by_one: Whether it takes one recipient at a time.
    """

    def __init__(self, relay: Any) -> None:
        self._relay = relay
        self._session: Session | None = None
        self.one_by_one = not is_mail_server(relay)

    def send(self, sender: str, recipients: Sequence[str], message: bytes) -> dict[str, Answer]:
        """Sends a message in one transaction; returns who was refused, and how.

        Args:
            sender: The envelope sender; ``''`` is the null sender.
            recipients: To whom; one, if it is `one_by_one`.
            message: With CRLF at the end of each line.

        Raises:
            RelayDown: Nobody was sent anything, and nobody can be now.
            ConnectionLost: It broke; unless it says uncertain, nobody was sent anything.
        """
        used = self._session is not None
        try:
            return self._send(sender, recipients, message)
        except RelayDown:
            if not used:
                raise
        except ConnectionLost as error:
            if not used or error.hung or error.uncertain:
                raise
        # The relay had closed a connection that it knew.
        return self._send(sender, recipients, message)

    def _send(self, sender: str, recipients: Sequence[str], message: bytes) -> dict[str, Answer]:
        if self._session is None:
            self._session = open_session(self._relay)
        try:
            return self._session.send(sender, recipients, message)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Says goodbye, if there is anybody."""
        if self._session is not None:
            session, self._session = self._session, None
            session.close()


def open_session(relay: Any) -> Session:
    """Connects to a relay.

    Raises:
        RelayDown: It cannot be reached, or refuses us.
    """
    if not is_mail_server(relay):
        return DeliverSession(relay)
    try:
        connection = relay.configure_relay(relay.hostname)
        try:
            return SMTPSession(relay, connection)
        except BaseException:
            connection.close()
            raise
    except OSError as error:
        raise RelayDown(f"{relay!r}: {type(error).__name__}: {error}") from error


class SMTPSession:
    """A connection that stays open."""

    def __init__(self, relay: Relay, connection: smtplib.SMTP) -> None:
        self._smtp = connection
        self._timeout: float = getattr(relay, "timeout", TIMEOUT)
        self._final_timeout: float = getattr(relay, "final_timeout", FINAL_TIMEOUT)
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
        """Does what `Line.send` does, on this connection only."""
        refused = {each: _NO_UTF8 for each in recipients if not self._can_say(sender + each)}
        willing = [each for each in recipients if each not in refused]
        if not willing:
            return refused
        self._dotted = False
        try:
            self._transact(sender, willing, message, refused)
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

    def _transact(
        self, sender: str, recipients: Sequence[str], message: bytes, refused: dict[str, Answer]
    ) -> None:
        mail, *rcpts = self._envelope(sender, recipients)
        if self._pipelining:
            self._smtp.send("".join(f"{line}\r\n" for line in (mail, *rcpts, "DATA")))
        from_whom = self._answer(mail)
        taking: list[str] = []
        if from_whom[0] == 250 or self._pipelining:
            for each, line in zip(recipients, rcpts, strict=True):
                to_whom = self._answer(line)
                if from_whom[0] == 250 and to_whom[0] in _TAKEN:
                    taking.append(each)
                else:
                    refused[each] = _as_answer(to_whom if from_whom[0] == 250 else from_whom)
        else:
            refused.update((each, _as_answer(from_whom)) for each in recipients)
        if taking or self._pipelining:
            go_on = self._answer("DATA")
            if go_on[0] == 354:
                self._give(taking, message, refused)
                return
            refused.update((each, _as_answer(go_on)) for each in taking)
        self._smtp.rset()

    def _envelope(self, sender: str, recipients: Sequence[str]) -> list[str]:
        """Returns the commands that say from whom and to whom."""
        options = list(self._options)
        self._smtp.command_encoding = "ascii"
        if not (sender + "".join(recipients)).isascii():
            options.append("SMTPUTF8")
            self._smtp.command_encoding = "utf-8"
        mail = f"MAIL FROM:<{sender}> {' '.join(options)}".rstrip()
        return [mail, *(f"RCPT TO:<{each}>" for each in recipients)]

    def _give(self, recipients: Sequence[str], message: bytes, refused: dict[str, Answer]) -> None:
        """Sends the message itself; nothing, if nobody takes it (RFC 2920, 3.1)."""
        if not recipients:
            self._smtp.send(b".\r\n")
            self._answer("", final=True)
            return
        self._dotted = True
        self._wait(self._final_timeout)
        if message is not self._message:  # it often goes to others right after
            ending = b".\r\n" if message.endswith(b"\r\n") else b"\r\n.\r\n"
            self._message, self._wire = message, re.sub(rb"(?m)^\.", b"..", message) + ending
        self._smtp.send(self._wire)
        for each in recipients if isinstance(self._smtp, smtplib.LMTP) else [""]:
            end = self._answer("", final=True)
            if end[0] != 250:
                refused.update((one, _as_answer(end)) for one in ([each] if each else recipients))
        self._wait(self._timeout)

    def _answer(self, command: str, *, final: bool = False) -> tuple[int, bytes]:
        """Returns the answer to a command, which with PIPELINING was said before."""
        if command and not self._pipelining:
            self._smtp.putcmd(command)
        code, words = self._smtp.getreply()
        if code == 421 and not final:
            self._smtp.close()
            raise RelayDown(f"421 {_text(words)}")
        return code, words

    def close(self) -> None:
        """Says goodbye, and does not wait long for an answer."""
        with contextlib.suppress(OSError):
            self._wait(5.0)
            self._smtp.quit()
        self._smtp.close()


class DeliverSession:
    """Somebody's own ``deliver``, which takes one recipient and connects as it likes."""

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def send(self, sender: str, recipients: Sequence[str], message: bytes) -> dict[str, Answer]:
        """Does what `Line.send` does."""
        [recipient] = recipients
        try:
            self._relay.deliver(message_from_bytes(message), To=recipient, From=sender)
        except smtplib.SMTPRecipientsRefused as error:
            said = next(iter(error.recipients.values()), (0, b""))
            return {recipient: _as_answer(said)}
        except (
            smtplib.SMTPConnectError,
            smtplib.SMTPHeloError,
            smtplib.SMTPAuthenticationError,
            smtplib.SMTPNotSupportedError,
            ConnectionRefusedError,
        ) as error:
            raise RelayDown(f"{self._relay!r}: {type(error).__name__}: {error}") from error
        except smtplib.SMTPResponseException as error:
            return {recipient: _as_answer((error.smtp_code, error.smtp_error))}
        except OSError as error:
            hung = isinstance(error, TimeoutError)
            raise ConnectionLost(str(error), hung=hung, uncertain=True) from error
        return {}

    def close(self) -> None:
        """Does nothing: it closes what it opens."""


Session = SMTPSession | DeliverSession

_NO_UTF8 = Answer(553, "553 5.6.7 The address is not ASCII, and the relay offers no SMTPUTF8")


def _as_answer(said: tuple[int, Any]) -> Answer:
    code, words = said
    return Answer(code, f"{code} {_text(words)}")


def _text(words: Any) -> str:
    if isinstance(words, bytes):
        words = words.decode("utf-8", "replace")
    return " ".join(str(words).split())[:_LONGEST_ANSWER]
