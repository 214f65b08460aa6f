"""Where our mail goes, to a mail server or to a Maildir, and who sends it."""

from __future__ import annotations

import sys
from typing import Any

from config import settings
from config.run_directory import private_maildir
from salmon_state import MemoryStorage
from salmon_state.mail.dispatch import DispatcherProcess
from salmon_state.mail.dispatcher import Dispatcher
from salmon_state.mail.outbox import Outbox
from salmon_state.mail.relays import MaildirRelay, SMTPRelay

__all__ = ["Sending", "make_relay"]


def make_relay() -> SMTPRelay | MaildirRelay:
    """Returns what the outbox is sent through."""
    if settings.relay_address is None:
        return MaildirRelay(private_maildir(settings.outbox_directory))
    return SMTPRelay(
        *settings.relay_address,
        user=settings.relay_user,
        password=settings.relay_password,
        tls=settings.relay_tls,
    )


class Sending:
    """A receiver with a dispatcher, which begins and ends with it.

    Args:
        receiver: Receives mail.
        outbox: What the handlers record in.
    """

    def __init__(self, receiver: Any, outbox: Outbox) -> None:
        self._receiver = receiver
        self._dispatcher: Dispatcher | DispatcherProcess
        # Nobody else sees what is in memory; otherwise sending keeps no handler waiting.
        if settings.dispatcher_kind == "thread" or isinstance(outbox.storage, MemoryStorage):
            self._dispatcher = Dispatcher(outbox, connections=settings.relay_connections)
        else:
            command = [sys.executable, "-m", "config.dispatch"]
            self._dispatcher = DispatcherProcess(outbox, command)
        # When the mail that it has in hand is sent.
        receiver.at_end.append(self._dispatcher.stop)

    def start(self, *arguments: Any) -> None:
        """Starts both: here and not earlier, ``salmon start --uid`` has given up its rights."""
        self._dispatcher.start()
        self._receiver.start(*arguments)

    def stop(self) -> None:
        """Asks the receiver to end; safe in a signal handler."""
        self._receiver.stop()

    def wait(self, seconds: float) -> bool:
        """Waits for the receiver to end; returns whether it has."""
        ended: bool = self._receiver.wait(seconds)
        return ended
