"""A Salmon server in a process of its own, attached to a store.

The process is ``python -m tests.salmon_server smtp 2525 URL HANDLERS 5 2``.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.services import free_port

HANG = 60.0
CHECKOUT = Path(__file__).parents[1]


class SalmonServer:
    """Starts the process and waits until it listens; end it with `end`.

    Args:
        directory: Where its log is, and what its handlers write.
        kind: ``smtp`` or ``lmtp``.
        url: Where it keeps its states.
        handlers: The module of its handlers.
        timeout: The store's, in seconds.
        lock_timeout: That of `attach`.
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
    ) -> None:
        self.kind = kind
        self.port = free_port()
        self._log = directory / f"{kind}.{self.port}.log"
        times = (str(timeout), str(lock_timeout))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, kind, str(self.port), url, handlers, *times],
                cwd=directory,
                env={"PYTHONPATH": str(CHECKOUT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + HANG
        while not self._listens():
            assert self.process.poll() is None, self.log()
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
        self.process.send_signal(number)
        self.process.wait(HANG)

    def end(self) -> None:
        """Kills it if it still runs."""
        self.process.kill()
        self.process.wait()


def main(kind: str, port: str, url: str, handlers: str, *times: str) -> None:
    """Serves until it is killed, which is how ``salmon stop`` ends a server."""
    from salmon.routing import Router
    from salmon.server import LMTPReceiver, SMTPReceiver

    from salmon_state import attach, open_storage

    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(name)s: %(message)s"
    )
    Router.LOG_EXCEPTIONS = False  # a module that cannot be imported ends the server
    Router.load([handlers])
    Router.LOG_EXCEPTIONS = True
    timeout, lock_timeout = map(float, times)
    attach(Router, open_storage(url, timeout=timeout), lock_timeout=lock_timeout)
    receiver = {"smtp": SMTPReceiver, "lmtp": LMTPReceiver}[kind]("127.0.0.1", int(port))
    receiver.start()
    receiver.poller.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
