"""Receivers that run in the test's process, and clients that say exactly what they are told."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from salmon.routing import Router

from salmon_state.mail.receivers import LMTPReceiver, SMTPReceiver

KINDS = {"smtp": SMTPReceiver, "lmtp": LMTPReceiver}
HANG = 30.0
"""Seconds after which a server is taken to be stuck."""


@contextlib.contextmanager
def serving(kind: str, **options: Any) -> Iterator[SMTPReceiver]:
    """Runs a receiver, and stops it at the end."""
    receiver = KINDS[kind](**{"port": 0, "hostname": "here", **options})
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()
        assert receiver.wait(HANG)


class Client:
    """A connection to a receiver, which has greeted it.

    Args:
        receiver: Whom to connect to.
        kind: ``smtp`` or ``lmtp``.
    """

    def __init__(self, receiver: SMTPReceiver, kind: str = "smtp") -> None:
        family = socket.AF_UNIX if isinstance(receiver.address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(HANG)
        self.socket.connect(receiver.address)
        self._file = self.socket.makefile("rb")
        self.hello_line = b"LHLO x\r\n" if kind == "lmtp" else b"EHLO x\r\n"
        self.greeting = self.answer()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def answer(self) -> bytes:
        """Returns the next answer, its lines joined; ``b''`` if the receiver has hung up."""
        lines = []
        while line := self._file.readline():
            lines.append(line.rstrip())
            if line[3:4] != b"-":
                break
        return b"\n".join(lines)

    def say(self, *commands: bytes) -> bytes:
        """Sends commands, all at once; returns the answer to the last."""
        self.socket.sendall(b"".join(command + b"\r\n" for command in commands))
        return [self.answer() for _ in commands][-1]

    def hello(self) -> bytes:
        return self.say(self.hello_line.rstrip())

    def envelope(self, sender: str, *recipients: str) -> list[bytes]:
        """Says who it is from and for; returns the answers."""
        lines = [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{each}>" for each in recipients)]
        return [self.say(line.encode()) for line in lines]

    def send(self, data: bytes, answers: int = 1) -> list[bytes]:
        """Sends a mail, whose end is in it; returns the answers."""
        assert self.say(b"DATA").startswith(b"354")
        self.socket.sendall(data)
        return [self.answer() for _ in range(answers)]


@contextlib.contextmanager
def routes(handle: Callable[[Any], object], pattern: str = ".+@x") -> Iterator[None]:
    """Lets Salmon's router deliver what is for some addresses to a function, and nothing else."""
    before = Router.REGISTERED, Router.ORDER, Router.__dict__.get("deliver")
    Router.REGISTERED, Router.ORDER = {}, []
    Router.register_route(f"^(?:{pattern})$", handle)
    Router.deliver = handle
    try:
        yield
    finally:
        Router.REGISTERED, Router.ORDER = before[:2]
        del Router.deliver
        if before[2] is not None:
            Router.deliver = before[2]


def codes(answers: Sequence[bytes]) -> list[int]:
    return [int(answer[:3]) for answer in answers]
