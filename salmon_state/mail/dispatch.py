"""A dispatcher in a process of its own: ``python -m salmon_state.mail.dispatch URL``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

from salmon_state.checks import check_seconds
from salmon_state.errors import StorageError
from salmon_state.log import log
from salmon_state.mail.batches import Mail
from salmon_state.mail.dispatcher import Dispatcher
from salmon_state.mail.outbox import Outbox
from salmon_state.mail.relays import MaildirRelay, SMTPRelay
from salmon_state.registry import open_storage
from salmon_state.stores.memory import MemoryStorage

__all__ = ["DispatcherProcess", "main", "run"]

_RESTART_AFTER = 1.0


def run(dispatcher: Dispatcher, *, by_stdin: bool = False) -> None:
    """Sends until SIGTERM or SIGINT comes, or with `by_stdin` until standard input ends.

    Args:
        dispatcher: What to run.
        by_stdin: Whether a parent holds the other end of standard input: what it writes wakes the
            dispatcher, and when it dies this ends as well. Ctrl-C and a terminal that closes are
            then the parent's to obey.
    """
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN if by_stdin else lambda *_: ended.set())
    if by_stdin:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with dispatcher:
        if by_stdin:
            threading.Thread(target=_listen, args=(dispatcher, ended), daemon=True).start()
        while not ended.wait(1.0):  # in the main thread, which must be free for signals
            pass


def _listen(dispatcher: Dispatcher, ended: threading.Event) -> None:
    while os.read(0, 4096):
        dispatcher.wake()
    ended.set()


class DispatcherProcess:
    """Runs a dispatcher beside this process, so that its work keeps no handler waiting.

    It is told at once what this process records, started anew if it dies, and ends with this
    process, whatever kills that.

    Args:
        outbox: What this process records in.
        command: What to start; it calls `run` with ``by_stdin=True``.
    """

    def __init__(self, outbox: Outbox, command: Sequence[str]) -> None:
        self._outbox = outbox
        self._command = command
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: tuple[IO[bytes], IO[bytes]] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts it, and a thread that watches over it."""
        # One for all that are ever started: forked processes, which record as well, have it too.
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        self._pipe = os.fdopen(reading, "rb", buffering=0), os.fdopen(writing, "wb", buffering=0)
        self._start()
        self._outbox.listeners.append(self.wake)
        self._thread = threading.Thread(target=self._watch, name="dispatcher", daemon=True)
        self._thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        assert self._pipe is not None  # noqa: S101 - for the type checker
        self._process = subprocess.Popen(self._command, stdin=self._pipe[0])  # noqa: S603 - as given
        return self._process

    def _watch(self) -> None:
        """Starts it again as often as it ends, and as often as that fails."""
        ended = self._process
        while ended is not None:
            status = ended.wait()
            if not self._stopping.is_set():
                log().error("the dispatcher ended with status %d, started again", status)
            ended = None
            while ended is None and not self._stopping.wait(_RESTART_AFTER):
                try:
                    ended = self._start()
                except OSError as error:  # no memory, no descriptors
                    log().error("the dispatcher cannot be started now: %s", error)

    def wake(self) -> None:
        """Tells it that there is something to send."""
        if self._pipe is not None:
            with contextlib.suppress(ValueError):  # closed: it is being stopped
                self._pipe[1].write(b"\n")  # or not if it is full, so that it knows

    def stop(self, timeout: float = 10.0) -> None:
        """Lets it finish the transactions in hand, and ends it."""
        self._stopping.set()
        if self.wake in self._outbox.listeners:
            self._outbox.listeners.remove(self.wake)
        if self._process is None or self._pipe is None or self._thread is None:
            return
        reading, writing = self._pipe
        writing.close()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._process.kill()
            self._thread.join()
        reading.close()


_PROGRAM = "python -m salmon_state.mail.dispatch"


def main(arguments: Sequence[str] | None = None, *, url: str = "", program: str = _PROGRAM) -> int:
    """Sends what is in the outbox of a store until SIGTERM; returns the status to exit with.

    Args:
        arguments: Those of the command line.
        url: That of the store, if it is not among them.
        program: What the command line begins with.
    """
    options = _parser(program, url).parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        store = open_storage(options.url)
    except StorageError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    with store:
        if isinstance(store, MemoryStorage):
            sys.stderr.write("memory:// is this process's own, and nothing would be sent\n")
            return 1
        outbox = Outbox(store, _relay(options))
        outbox.given_up = options.given_up
        run(Dispatcher(outbox, connections=options.connections, poll=options.poll))
    return 0


def _parser(program: str, url: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program, description="Sends what is in the outbox of a store until SIGTERM."
    )
    parser.set_defaults(url=url)
    if not url:
        about = "the store; '${NAME}' in it is a variable of the environment"
        parser.add_argument("url", help=about)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--relay", metavar="HOST:PORT", type=_address, help="the mail server to send through"
    )
    where.add_argument("--maildir", metavar="DIR", help="keep mail there instead of sending it")
    parser.add_argument("--tls", choices=("none", "starttls", "tls"), default="none")
    parser.add_argument(
        "--user", default="", help="how to log in; the password is in SALMON_RELAY_PASSWORD"
    )
    parser.add_argument("--connections", type=_count, default=32, metavar="N")
    parser.add_argument("--poll", type=_seconds, default=1.0, metavar="SECONDS")
    parser.add_argument(
        "--given-up",
        metavar="MODULE:FUNCTION",
        type=_function,
        help="called with each mail that is given up",
    )
    return parser


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(
            f"expected host:port, such as 127.0.0.1:25 or [::1]:25, got {text!r}"
        )
    return host.strip("[]"), int(port)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number, 1 or more, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
        check_seconds("it", seconds, positive=True)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text!r}") from None
    return seconds


def _function(text: str) -> Callable[[Mail], object]:
    module, _, name = text.partition(":")
    try:
        function: Callable[[Mail], object] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"expected module:function, such as app.mail:given_up, got {text!r}: {error}"
        ) from None
    return function


def _relay(options: argparse.Namespace) -> Any:
    if options.maildir:
        return MaildirRelay(options.maildir)
    password = os.environ.get("SALMON_RELAY_PASSWORD", "") if options.user else ""
    return SMTPRelay(*options.relay, user=options.user, password=password, tls=options.tls)


if __name__ == "__main__":
    sys.exit(main())
