"""SMTP over a connection that stays open.

smtplib and not another library: it is what Salmon has, it needs nothing to be installed, and none
of the others sends commands in a group (PIPELINING), which is what makes many recipients quick.
"""

from __future__ import annotations

import contextlib
import re
import smtplib
import time
from collections.abc import Sequence

from salmon.server import Relay

from salmon_state.mail.answers import Answer, ConnectionLost, RelayDown, as_answer, text_of
from salmon_state.mail.relays import FINAL_TIMEOUT, TIMEOUT

__all__ = ["Addresses", "SMTPSession"]

_LONGEST_LINE = 8192
_NO_UTF8 = Answer(553, "553 5.6.7 The address is not ASCII, and the relay offers no SMTPUTF8")

Addresses = tuple[str, Sequence[str]]
"""The sender in an envelope, and the recipients."""


class SMTPSession:
    """A connection that stays open.

    Attributes:
        pipelining: Whether the relay offers it.

    With PIPELINING the envelope of the next transaction is said as soon as one has its answer: the
    relay thinks about the next recipient while the last one is marked as done. Not together with
    the final dot, which RFC 2920 (3.1) allows: a relay may keep its answer back while a recipient
    hangs, and nobody would know meanwhile whether it has taken the mail.
    """

    def __init__(self, relay: Relay, connection: smtplib.SMTP) -> None:
        self._smtp = connection
        self._timeout: float = getattr(relay, "timeout", TIMEOUT)
        self._final_timeout: float = getattr(relay, "final_timeout", FINAL_TIMEOUT)
        self._message = self._wire = b""
        self._heard = b""  # what came together with an answer: the next ones
        self._said: Addresses | None = None  # the envelope of the next mail, ahead of its time
        self._refused: dict[str, Answer] = {}
        self._awaited: list[Sequence[str]] = []  # who share an answer to the final dot
        self._deadline = 0.0  # of that answer
        self._wait(self._timeout)
        connection.ehlo_or_helo_if_needed()
        self.pipelining = connection.has_extn("pipelining")
        self._utf8 = connection.has_extn("smtputf8")
        self._options = ["BODY=8BITMIME"] if connection.has_extn("8bitmime") else []

    def _wait(self, seconds: float) -> None:
        if self._smtp.sock is not None:
            self._smtp.sock.settimeout(seconds)

    @property
    def is_in_transaction(self) -> bool:
        """Whether the envelope of the next one was said already, or an answer is awaited."""
        return self._said is not None or bool(self._awaited)

    def begin(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Sends a message in one transaction, up to its final dot.

        Args:
            sender: The envelope sender; ``''`` is the null sender.
            recipients: To whom.
            message: With CRLF at the end of each line.

        Raises:
            RelayDown: Nobody was sent anything, and nobody can be now.
            ConnectionLost: It broke; unless it says uncertain, nobody was sent anything.
        """
        self._refused, self._awaited = {}, []
        if self._said is None:
            recipients, others = self._willing(sender, recipients)
            self._refused = dict.fromkeys(others, _NO_UTF8)
        try:
            if self._said not in (None, (sender, recipients)):
                raise OSError("the relay was told another envelope")
            if recipients:
                self._transact(sender, recipients, message)
        except RelayDown:
            raise
        except OSError as error:
            raise self._broken(error) from error

    def finish(self, patience: float | None = None) -> dict[str, Answer] | None:
        """Hears what becomes of the message that was begun; returns who was refused, and how.

        Args:
            patience: Seconds after which it returns ``None`` if there is no answer yet.

        Raises:
            ConnectionLost: As for `begin`.
        """
        if not self._awaited:
            return self._refused
        try:
            left = max(self._deadline - time.monotonic(), 0.001)
            self._wait(left if patience is None else min(left, patience))
            while self._awaited:
                end = self._answer("", final=True)
                done = self._awaited.pop(0)
                if not _is_yes(end):
                    self._refused.update((each, as_answer(end)) for each in done)
            self._wait(self._timeout)
        except OSError as error:
            if _is_timeout(error) and time.monotonic() < self._deadline:
                return None
            raise self._broken(error) from error
        return self._refused

    def _broken(self, error: OSError) -> ConnectionLost:
        self._smtp.close()
        words = f"the connection broke: {error}"
        return ConnectionLost(words, hung=_is_timeout(error), uncertain=bool(self._awaited))

    def _willing(self, sender: str, recipients: Sequence[str]) -> tuple[list[str], list[str]]:
        """Returns those whose addresses can be said to this relay, and the others."""
        found: tuple[list[str], list[str]] = [], []
        for each in recipients:
            found[not self._can_say(sender + each)].append(each)
        return found

    def _can_say(self, addresses: str) -> bool:
        if addresses.isascii():
            return True
        try:
            addresses.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            return False
        return self._utf8

    def _transact(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        refused = self._refused
        mail, *rcpts = self._envelope(sender, recipients)
        if self.pipelining and self._said is None:
            self._smtp.send(_in_a_group(mail, *rcpts))
        self._said = None
        from_whom = self._answer(mail)
        taking: list[str] = []
        if _is_yes(from_whom) or self.pipelining:
            for each, line in zip(recipients, rcpts, strict=True):
                to_whom = self._answer(line)
                said = to_whom if _is_yes(from_whom) else from_whom
                if _is_yes(said):
                    taking.append(each)
                else:
                    refused[each] = as_answer(said)
        else:
            refused.update((each, as_answer(from_whom)) for each in recipients)
        if taking or self.pipelining:
            go_on = self._answer("DATA")
            if go_on[0] == 354:
                self._give(taking, message)
                return
            refused.update((each, as_answer(go_on)) for each in taking)
        self._smtp.send(_line("RSET"))
        self._hear()

    def _envelope(self, sender: str, recipients: Sequence[str]) -> list[str]:
        """Returns the commands that say from whom and to whom."""
        options = list(self._options)
        if not (sender + "".join(recipients)).isascii():
            options.append("SMTPUTF8")
        mail = f"MAIL FROM:<{sender}> {' '.join(options)}".rstrip()
        return [mail, *(f"RCPT TO:<{each}>" for each in recipients)]

    def _give(self, recipients: Sequence[str], message: bytes) -> None:
        """Sends the message itself; nothing, if nobody takes it (RFC 2920, 3.1)."""
        if not recipients:
            self._smtp.send(b".\r\n")
            self._answer("", final=True)
            return
        is_lmtp = isinstance(self._smtp, smtplib.LMTP)
        self._awaited = [[each] for each in recipients] if is_lmtp else [recipients]
        self._deadline = time.monotonic() + self._final_timeout
        self._wait(self._final_timeout)
        if message is not self._message:  # it often goes to others right after
            ending = b".\r\n" if message.endswith(b"\r\n") else b"\r\n.\r\n"
            self._message, self._wire = message, re.sub(rb"(?m)^\.", b"..", message) + ending
        self._smtp.send(self._wire)

    def announce(self, sender: str, recipients: Sequence[str]) -> None:
        """Says an envelope ahead of its transaction, which finds out if the connection broke.

        Then come either that transaction or `close`.
        """
        if self.pipelining and self._said is None and not self._willing(sender, recipients)[1]:
            with contextlib.suppress(OSError):
                self._smtp.send(_in_a_group(*self._envelope(sender, recipients)))
                self._said = sender, recipients

    def _answer(self, command: str, *, final: bool = False) -> tuple[int, bytes]:
        """Returns the answer to a command, which with PIPELINING was said before."""
        if command and not self.pipelining:
            self._smtp.send(_line(command))
        code, words = self._hear()
        if code == 421 and not final:
            self._smtp.close()
            raise RelayDown(f"421 {text_of(words)}")
        return code, words

    def _hear(self) -> tuple[int, bytes]:
        """Returns the next answer, as smtplib does; that reads each line in five calls."""
        words = []
        while True:
            line, found, rest = self._heard.partition(b"\n")
            if not found:
                self._heard += self._receive()
                continue
            self._heard = rest
            words.append(line[4:].strip())
            code = line[:3]
            if line[3:4] != b"-" or not code.isdigit():
                return int(code) if code.isdigit() else -1, b"\n".join(words)

    def _receive(self) -> bytes:
        if self._smtp.sock is None or len(self._heard) > _LONGEST_LINE:
            raise smtplib.SMTPServerDisconnected("closed, or the line of an answer is too long")
        data: bytes = self._smtp.sock.recv(_LONGEST_LINE)
        if not data:
            raise smtplib.SMTPServerDisconnected("the relay closed the connection")
        return data

    def close(self) -> None:
        """Says goodbye, and does not wait long for an answer."""
        if not self.is_in_transaction:  # in which it would be part of the message
            with contextlib.suppress(OSError):
                self._wait(2.0)
                self._smtp.quit()
        self._smtp.close()


def _is_yes(answer: tuple[int, bytes]) -> bool:
    """Returns what the first digit of an answer says, and no other does (RFC 5321, 4.2)."""
    return 200 <= answer[0] < 300


def _line(command: str) -> bytes:
    return command.encode("utf-8") + b"\r\n"


def _in_a_group(*envelope: str) -> bytes:
    """Returns the commands of an envelope with DATA behind them, which must be the last."""
    return _line("\r\n".join((*envelope, "DATA")))


def _is_timeout(error: OSError) -> bool:
    """Returns whether it is one of waiting for too long, which smtplib may have made another of."""
    cause = error.__context__ if isinstance(error.__context__, OSError) else error
    return isinstance(cause, TimeoutError) or "timed out" in str(error)
