"""An SMTP server that keeps what it is given, for the relay of the server under test."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Callable

from tests.services import free_port


class SMTPSink(socketserver.ThreadingTCPServer):
    """Takes mail while its context lasts.

    Args:
        port: Where to listen; a free one that stays free unless given.

    Attributes:
        mails: (sender, recipient, message) of each recipient of each mail taken.
        transactions: How many mails were taken.
        arrived: Set when a connection arrives.
        may_answer: While it is clear, nobody is greeted.
        farewell: The answer to QUIT.
        answer_from: Gives the answer to each envelope sender.
        answer_to: Gives the answer to each recipient, ``<anna@example.com>``; may take its time.
        final_answer: Gives the answer to a mail, by its recipients.
        most: Mails that one connection may send; then it is closed.
        extensions: What EHLO is answered.
        may_be_nobody: Whether it asks for a message also when it accepted no recipient.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 100

    def __init__(self, port: int | None = None) -> None:
        super().__init__(("127.0.0.1", port or free_port()), _Connection)
        self.mails: list[tuple[str, str, bytes]] = []
        self.transactions = 0
        self.connections = 0
        self.arrived = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.farewell = "221 bye"
        self.answer_from: Callable[[str], str] = lambda sender: "250 OK"
        self.answer_to: Callable[[str], str] = lambda recipient: "250 OK"
        self.final_answer: Callable[[list[str]], str] = lambda recipients: "250 OK"
        self.most = 1_000_000
        self.extensions: tuple[str, ...] = ()
        self.may_be_nobody = False
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.port: int = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *arguments: object) -> None:
        self.may_answer.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *arguments: object) -> None:
        """Says nothing of connections that broke."""


class _Connection(socketserver.StreamRequestHandler):
    server: SMTPSink
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.server.connections += 1
        self.server.arrived.set()
        self.server.may_answer.wait(30)
        self._answer("220 sink")
        self.sender, self.taken, self.is_open = "", 0, True
        self.recipients: list[str] = []
        while line := self.rfile.readline().decode("utf-8").strip():
            command, _, argument = line.partition(":")
            self._answer(self._obey(command.upper()[:4], argument))
            if self.taken == self.server.most:
                return

    def _obey(self, command: str, argument: str) -> str:
        """Does what a command says; returns what to answer."""
        if command == "EHLO":
            names = ("sink", *self.server.extensions)
            return "".join(f"250-{each}\r\n" for each in names) + "250 OK"
        if command == "MAIL":
            answer = self.server.answer_from(argument)
            self.sender, self.recipients = argument.split(" ")[0], []
            self.is_open = answer.startswith("2")
            return answer
        if command == "RCPT":
            answer = self.server.answer_to(argument) if self.is_open else "503 no sender"
            if answer.startswith("2"):
                self.recipients.append(argument)
            return answer
        if command == "DATA":
            is_wanted = self.recipients or self.server.may_be_nobody
            return self._take() if is_wanted else "503 no recipients"
        if command == "QUIT":
            return self.server.farewell
        return "250 OK"

    def _take(self) -> str:
        self._answer("354 go on")
        message = self._message()
        answer = self.server.final_answer(self.recipients)
        if answer.startswith("2"):
            self.server.mails += [(self.sender, each, message) for each in self.recipients]
            self.server.transactions += 1
            self.taken += 1
        return answer

    def _message(self) -> bytes:
        message = b""
        while (line := self.rfile.readline()) != b".\r\n":
            if not line:
                raise ConnectionResetError
            message += line
        return message

    def _answer(self, text: str) -> None:
        self.wfile.write(text.encode("ascii") + b"\r\n")


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Asks again and again until the answer is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.005)
