"""An SMTP server that keeps what it is given, for the relay of the server under test."""

from __future__ import annotations

import socketserver
import threading


class SMTPSink(socketserver.ThreadingTCPServer):
    """Takes mail on a free port while its context lasts.

    Attributes:
        mails: (sender, recipient, message) of each mail taken.
        arrived: Set when a connection arrives.
        may_answer: While it is clear, nobody is greeted.
        farewell: The answer to QUIT.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.mails: list[tuple[str, str, bytes]] = []
        self.arrived = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.farewell = "221 bye"
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *arguments: object) -> None:
        self.may_answer.set()
        self.shutdown()
        self.server_close()


class _Connection(socketserver.StreamRequestHandler):
    server: SMTPSink

    def handle(self) -> None:
        self.server.arrived.set()
        self.server.may_answer.wait(30)
        self._answer("220 sink")
        sender = recipient = ""
        while line := self.rfile.readline().decode("ascii").strip():
            command, _, argument = line.partition(":")
            if command.upper() == "MAIL FROM":
                sender = argument.split(" ")[0]
            elif command.upper() == "RCPT TO":
                recipient = argument
            elif command.upper() == "DATA":
                self._answer("354 go on")
                self.server.mails.append((sender, recipient, self._message()))
            self._answer(self.server.farewell if command.upper() == "QUIT" else "250 OK")

    def _message(self) -> bytes:
        message = b""
        while (line := self.rfile.readline()) != b".\r\n":
            message += line
        return message

    def _answer(self, text: str) -> None:
        self.wfile.write(text.encode("ascii") + b"\r\n")
