"""A Salmon server in a process of its own, attached to a store."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path

from salmon.routing import Router
from salmon.server import LMTPReceiver, SMTPReceiver

from salmon_state import attach, open_storage
from salmon_state.testing.processes import forking_context
from tests.services import free_port

CONTEXT = forking_context(__name__)
HANG = 60.0


class SalmonServer:
    """Starts the process and waits until it listens; end it with `end`.

    Args:
        directory: Where its log is, and what its handlers write.
        kind: ``smtp`` or ``lmtp``.
        url: Where it keeps its states.
        handlers: The module of its handlers.
        timeout: The store's, in seconds.
        lock_timeout: That of `attach`.
        once_within: That of `attach`.
    """

    def __init__(
        self,
        directory: Path,
        kind: str,
        url: str,
        handlers: str,
        *,
        timeout: float = 5.0,
        lock_timeout: float = 2.0,
        once_within: timedelta | None = None,
    ) -> None:
        self.kind = kind
        self.port = free_port()
        self._log = directory / f"{kind}.{self.port}.log"
        self._log.touch()
        self.process = CONTEXT.Process(
            target=_serve,
            args=(self._log, kind, self.port, url, handlers, timeout, lock_timeout, once_within),
            daemon=True,
        )
        self.process.start()
        deadline = time.monotonic() + HANG
        while not self._listens():
            assert self.process.is_alive(), self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as probe:
                return probe.recv(3) == b"220"
        except OSError:
            return False

    def log(self) -> str:
        """Returns everything that it logged."""
        return self._log.read_text(errors="replace")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends it a signal and waits for its end."""
        os.kill(self.process.pid, number)
        self.process.join(HANG)
        assert not self.process.is_alive(), self.log()

    def end(self) -> None:
        """Kills it if it still runs."""
        self.process.kill()
        self.process.join()


def _serve(
    log: Path,
    kind: str,
    port: int,
    url: str,
    handlers: str,
    timeout: float,
    lock_timeout: float,
    once_within: timedelta | None,
) -> None:
    """Serves until it is killed, which is how ``salmon stop`` ends a server."""
    os.chdir(log.parent)
    with log.open("wb") as file:
        for output in (1, 2):
            os.dup2(file.fileno(), output)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(name)s: %(message)s"
    )
    Router.LOG_EXCEPTIONS = False  # a module that cannot be imported ends the server
    Router.load([handlers])
    Router.LOG_EXCEPTIONS = True
    store = open_storage(url, timeout=timeout)
    attach(Router, store, lock_timeout=lock_timeout, once_within=once_within)
    receiver = {"smtp": SMTPReceiver, "lmtp": LMTPReceiver}[kind]("127.0.0.1", port)
    receiver.start()
    receiver.poller.join()
