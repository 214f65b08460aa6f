"""Salmon's receivers in a thread, and a client that sees every line of their answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from salmon._vendor import asyncore
from salmon.server import LMTPReceiver, SMTPReceiver

RECEIVERS = {"smtp": SMTPReceiver, "lmtp": LMTPReceiver}


class Receiver:
    """A receiver of Salmon's, run as its own ``start`` does, but so that it can be ended."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._server = RECEIVERS[kind]("127.0.0.1", 0)
        self.port: int = self._server.socket.getsockname()[1]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            asyncore.loop(timeout=0.02, use_poll=True, count=1)

    def end(self) -> None:
        self._ended.set()
        self._thread.join(60)
        asyncore.dispatcher.close(self._server)
        asyncore.close_all(ignore_all=True)


class Client:
    """Speaks SMTP or LMTP, line by line."""

    def __init__(self, kind: str, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._file = self._socket.makefile("rb")
        self._file.readline()
        self._say("LHLO me" if kind == "lmtp" else "HELO me")
        while self._file.readline()[3:4] == b"-":
            pass

    def _say(self, line: str) -> None:
        self._socket.sendall(line.encode() + b"\r\n")

    def _ask(self, line: str) -> bytes:
        self._say(line)
        return self._file.readline()

    def send(self, sender: str, to: str = "ring@x", body: str = "hello") -> list[bytes]:
        """Sends a mail; returns every line with which it was answered.

        What comes before the answer to an unknown command was the answer to the mail.
        """
        for command in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{to}>"):
            answer = self._ask(command)
            assert answer.startswith(b"250"), answer
        assert self._ask("DATA").startswith(b"354")
        self._say(f"Subject: hi\r\n\r\n{body}\r\n.")
        answers = [self._file.readline()]
        self._say("XYZZY")
        while not (line := self._file.readline()).startswith((b"500", b"502")):
            assert line, "the connection was closed"
            answers.append(line)
        return answers

    def close(self) -> None:
        self._file.close()
        self._socket.close()


Receive = Callable[[str], Client]


@pytest.fixture
def receive() -> Iterator[Receive]:
    """Gives a function that starts a receiver and returns a client that is connected to it."""
    receivers: list[Receiver] = []
    clients: list[Client] = []

    def start(kind: str) -> Client:
        receivers.append(Receiver(kind))
        clients.append(Client(kind, receivers[-1].port))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for receiver in receivers:
        receiver.end()
