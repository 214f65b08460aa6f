"""What a dispatcher sends through: a connection that stays open, or somebody's own ``deliver``."""

from __future__ import annotations

import smtplib
from collections.abc import Sequence
from email import message_from_bytes
from typing import Any

from salmon_state.mail.answers import Answer, ConnectionLost, RelayDown, as_answer
from salmon_state.mail.relays import is_mail_server
from salmon_state.mail.smtp import Addresses, SMTPSession

__all__ = ["Line", "Session", "open_session"]


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

    def send(
        self,
        sender: str,
        recipients: Sequence[str],
        message: bytes,
        following: Addresses | None = None,
    ) -> dict[str, Answer]:
        """Sends a message in one transaction; returns who was refused, and how.

        Args:
            sender: The envelope sender; ``''`` is the null sender.
            recipients: To whom; one, if it is `one_by_one`.
            message: With CRLF at the end of each line.
            following: The envelope of the next transaction, which may be said ahead of it. Then
                come either that transaction or `abandon`.

        Raises:
            RelayDown: Nobody was sent anything, and nobody can be now.
            ConnectionLost: It broke; unless it says uncertain, nobody was sent anything.
        """
        used = self._session is not None
        try:
            return self._send(sender, recipients, message, following)
        except RelayDown:
            if not used:
                raise
        except ConnectionLost as error:
            if not used or error.hung or error.uncertain:
                raise
        # The relay had closed a connection that it knew.
        return self._send(sender, recipients, message, following)

    def _send(
        self,
        sender: str,
        recipients: Sequence[str],
        message: bytes,
        following: Addresses | None,
    ) -> dict[str, Answer]:
        if self._session is None:
            self._session = open_session(self._relay)
        try:
            return self._session.send(sender, recipients, message, following)
        except BaseException:
            self.close()
            raise

    def abandon(self) -> None:
        """Ends a transaction of which no more than the envelope was said, if there is one."""
        if self._session is not None and self._session.is_in_transaction:
            self.close()

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


class DeliverSession:
    """Somebody's own ``deliver``, which takes one recipient and connects as it likes."""

    is_in_transaction = False

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def send(
        self,
        sender: str,
        recipients: Sequence[str],
        message: bytes,
        following: Addresses | None = None,
    ) -> dict[str, Answer]:
        """Does what `Line.send` does."""
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
