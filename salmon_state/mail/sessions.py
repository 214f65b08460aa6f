"""What a dispatcher sends through: a connection that stays open, or somebody's own ``deliver``."""

from __future__ import annotations

import smtplib
import time
from collections.abc import Iterator, Sequence
from email import message_from_bytes
from typing import Any

from salmon_state.mail.answers import Answer, ConnectionLost, NoRoom, RelayDown, as_answer
from salmon_state.mail.relays import is_mail_server
from salmon_state.mail.smtp import Addresses, SMTPSession

__all__ = ["Line", "Session", "open_session"]

_PATIENCE = 0.1
"""Seconds after which mails that were taken do not wait for the others beside them."""
_NARROW = 60.0
"""Seconds for which one is enough after the relay did not want another."""

Outcome = dict[str, Answer] | Exception
"""What became of a mail: who was refused and how, or why nobody knows."""


class Line:
    """A few connections to a relay, opened when they are needed, over which mails go side by side.

    Args:
        relay: Where to.
        most: How many connections; with PIPELINING, without which one is enough to wait for.

    Attributes:
        one_by_one: Whether it takes one recipient at a time.
    """

    def __init__(self, relay: Any, most: int = 1) -> None:
        self._relay = relay
        self._sessions: list[Session | None] = [None] * most
        self._pipelining = False
        self._narrow_until = 0.0
        self.one_by_one = not is_mail_server(relay)

    @property
    def width(self) -> int:
        """How many mails can be sent side by side."""
        is_wide = self._pipelining and time.monotonic() > self._narrow_until
        return len(self._sessions) if is_wide else 1

    def send(
        self,
        mails: Sequence[Addresses],
        message: bytes,
        following: Sequence[Addresses] = (),
    ) -> Iterator[dict[int, Outcome]]:
        """Sends a message in a transaction for each of some envelopes.

        Args:
            mails: The envelopes, `width` at most; to one recipient each, if it is `one_by_one`.
            message: With CRLF at the end of each line.
            following: The envelopes of the next call, which may be said ahead of it. Then come
                either that call or `abandon`.

        Yields:
            What became of some of them, by their numbers: who was refused and how, or an error; of
            those together that are as quick as each other. `RelayDown` if nobody was
            sent anything, and nobody can be now; `NoRoom` if not beside the others; and
            `ConnectionLost` if it broke: unless that says uncertain, nobody was sent anything.
        """
        for session, mail in zip(self._sessions, mails, strict=False):  # there may be fewer mails
            if session is not None:
                session.announce(*mail)
        outcomes = self._begin_all(mails, message)
        begun = [number for number in range(len(mails)) if number not in outcomes]
        while begun or outcomes:
            patience = _PATIENCE if outcomes or len(begun) > 1 else None
            for number in list(begun):
                outcome = self._finish(number, following, patience)
                if outcome is not None:
                    begun.remove(number)
                    outcomes[number] = outcome
            if outcomes:
                yield outcomes
                outcomes = {}

    def _begin_all(self, mails: Sequence[Addresses], message: bytes) -> dict[int, Outcome]:
        """Sends some up to their final dots; returns why others could not be."""
        failed: dict[int, Outcome] = {}
        for number, mail in enumerate(mails):
            try:
                self._begin(number, mail, message)
            except RelayDown as error:  # nor can those be sent that come after it
                down: Exception = error
                if number:
                    self._narrow_until = time.monotonic() + _NARROW
                    down = NoRoom(str(error))
                for each in range(number, len(mails)):
                    self._close(each)
                    failed[each] = down
                break
            except Exception as error:  # noqa: BLE001 - the relay is the application's
                self._close(number)
                failed[number] = error
        return failed

    def _begin(self, number: int, mail: Addresses, message: bytes) -> None:
        used = self._sessions[number] is not None
        try:
            self._session(number).begin(*mail, message)
        except (RelayDown, ConnectionLost) as error:
            self._close(number)
            uncertain = isinstance(error, ConnectionLost) and (error.hung or error.uncertain)
            if not used or uncertain:
                raise
            # The relay had closed a connection that it knew.
            self._session(number).begin(*mail, message)

    def _session(self, number: int) -> Session:
        session = self._sessions[number]
        if session is None:
            session = self._sessions[number] = open_session(self._relay)
            self._pipelining = session.pipelining
        return session

    def _finish(
        self, number: int, following: Sequence[Addresses], patience: float | None
    ) -> Outcome | None:
        """Returns what became of a mail that was begun; ``None`` if that takes long."""
        session = self._session(number)
        try:
            outcome = session.finish(patience)
        except Exception as error:  # noqa: BLE001 - it is told
            self._close(number)
            return error
        if outcome is not None and number < len(following):
            session.announce(*following[number])
        return outcome

    def abandon(self) -> None:
        """Ends transactions of which no more than the envelope was said, or no answer awaited."""
        for number, session in enumerate(self._sessions):
            if session is not None and session.is_in_transaction:
                self._close(number)

    def close(self) -> None:
        """Says goodbye, if there is anybody."""
        for number in range(len(self._sessions)):
            self._close(number)

    def _close(self, number: int) -> None:
        session, self._sessions[number] = self._sessions[number], None
        if session is not None:
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
    except (OSError, UnicodeError) as error:  # no host is called so, or no login can be
        raise RelayDown(f"{relay!r}: {type(error).__name__}: {error}") from error


class DeliverSession:
    """Somebody's own ``deliver``, which takes one recipient and connects as it likes."""

    is_in_transaction = pipelining = False
    _refused: dict[str, Answer]

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def begin(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Sends a message; errors as for `SMTPSession.begin`."""
        self._refused = self._deliver(sender, recipients, message)

    def finish(self, patience: float | None = None) -> dict[str, Answer]:
        """Returns who was refused, and how."""
        return self._refused

    def announce(self, sender: str, recipients: Sequence[str]) -> None:
        """Does nothing: it says all of it at once."""

    def _deliver(self, sender: str, recipients: Sequence[str], message: bytes) -> dict[str, Answer]:
        [recipient] = recipients
        try:
            self._relay.deliver(message_from_bytes(message), To=recipient, From=sender)
        except smtplib.SMTPRecipientsRefused as error:
            said = next(iter(error.recipients.values()), (0, b""))
            return {recipient: as_answer(said)}
        except (
            smtplib.SMTPConnectError,
            smtplib.SMTPHeloError,
            smtplib.SMTPAuthenticationError,
            smtplib.SMTPNotSupportedError,
            ConnectionRefusedError,
        ) as error:
            raise RelayDown(f"{self._relay!r}: {type(error).__name__}: {error}") from error
        except smtplib.SMTPResponseException as error:
            return {recipient: as_answer((error.smtp_code, error.smtp_error))}
        except OSError as error:
            hung = isinstance(error, TimeoutError)
            raise ConnectionLost(str(error), hung=hung, uncertain=True) from error
        return {}

    def close(self) -> None:
        """Does nothing: it closes what it opens."""


Session = SMTPSession | DeliverSession
