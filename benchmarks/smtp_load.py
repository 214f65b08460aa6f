"""A client of many connections in one thread, so light that the server is what is measured."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator, Sequence

__all__ = ["PATIENCE", "send_all"]

PATIENCE = 60.0
"""Seconds after which a server is given up."""

_HEADERS = b"""\
Received: from mail.example.org (mail.example.org [192.0.2.1]) by mx.example.com with ESMTPS;\r
 Sat, 21 Nov 2026 01:00:00 +0000\r
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=one; h=from:to:subject;\r
 bh=frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY=; b=%b\r
From: %b\r
To: eight@example.com\r
Subject: Re: the news\r
Date: Sat, 21 Nov 2026 01:00:00 +0000\r
Message-ID: <%d@example.org>\r
MIME-Version: 1.0\r
Content-Type: text/plain; charset=utf-8\r
Content-Transfer-Encoding: 8bit\r
\r
"""
_BODY = b"A line of a mail as people write them, about seventy characters long.\r\n" * 25


# Not EHLO: Salmon's answer to it has several lines, each in a packet of its own, of which TCP holds
# back the second until the first is acknowledged, 40 ms later. That would hide everything else.
_HELO = b"HELO localhost\r\n"


class _Talk:
    """One client, which sends one mail after the other.

    Args:
        port: The server's.
        mails: The senders that are left, shared with the other clients.
        kept: Whether all its mails go through one connection.
    """

    def __init__(self, port: int, mails: Iterator[tuple[int, bytes]], *, kept: bool) -> None:
        self._port = port
        self._mails = mails
        self._kept = kept
        self._script: list[tuple[bytes, bytes]] = []
        self.socket: socket.socket | None = None
        self.replies: list[bytes] = []

    def _connect(self) -> socket.socket:
        self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.socket

    def greet(self) -> None:
        """Connects, if the connection is kept: that is no part of any mail."""
        if self._kept:
            connected = self._connect()
            for expected, command in ((b"220", _HELO), (b"250", b"")):
                if not (heard := connected.recv(4096)).startswith(expected):
                    raise RuntimeError(f"expected {expected!r}, got {heard!r}")
                connected.sendall(command)

    def begin(self) -> bool:
        """Begins the next mail; returns whether there is one."""
        number, sender = next(self._mails, (0, b""))
        if not sender:
            self.close()
            return False
        data = _HEADERS % (b"x" * 170, sender, number) + _BODY + b".\r\n"
        envelope = [
            (b"250", b"MAIL FROM:<%b>\r\n" % sender),
            (b"250", b"RCPT TO:<eight@example.com>\r\n"),
            (b"250", b"DATA\r\n"),
            (b"354", data),
        ]
        if self.socket is None:
            self._connect()
            self._script = [(b"220", _HELO), *envelope]
        else:
            self.socket.sendall(envelope[0][1])
            self._script = envelope[1:]
        self._heard = b""
        return True

    def hear(self) -> bool:
        """Takes what the server says and goes on; returns whether the mail is not done yet."""
        assert self.socket is not None
        data = self.socket.recv(4096)
        if not data:
            raise RuntimeError("the server closed a connection")
        self._heard += data
        last = self._heard.rpartition(b"\n")[0].rpartition(b"\n")[2]
        if not self._heard.endswith(b"\n") or last[3:4] == b"-":
            return True
        heard, self._heard = self._heard, b""
        if heard.startswith(b"221"):
            self.close()
            return False
        if not self._script:
            self.replies.append(heard[:3])
            if self._kept:
                return False
            self.socket.sendall(b"QUIT\r\n")
            return True
        expected, command = self._script.pop(0)
        if not heard.startswith(expected):
            raise RuntimeError(f"expected {expected!r}, got {heard!r}")
        self.socket.sendall(command)
        return True

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


def send_all(
    ports: Sequence[int], clients: int, senders: Sequence[str], *, kept: bool
) -> tuple[float, int]:
    """Sends one mail from each sender; returns the seconds it took and how many were refused.

    Args:
        ports: The servers, among which the clients are divided.
        clients: How many connections there are at once.
        senders: Who writes, one mail after the other.
        kept: Whether a client sends all its mails through one connection. Mail servers seldom do.
    """
    mails = iter([(number, sender.encode()) for number, sender in enumerate(senders)])
    talks = [_Talk(ports[number % len(ports)], mails, kept=kept) for number in range(clients)]
    deadline = time.monotonic() + PATIENCE
    for talk in talks:
        talk.greet()
    with selectors.DefaultSelector() as selector:
        began = time.perf_counter()
        for talk in talks:
            if talk.begin():
                selector.register(talk.socket, selectors.EVENT_READ, talk)  # type: ignore[arg-type]
        while selector.get_map():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server did not answer for {PATIENCE} s")
            for key, _ in selector.select(1.0):
                if not key.data.hear():
                    selector.unregister(key.fileobj)
                    if key.data.begin():
                        selector.register(key.data.socket, selectors.EVENT_READ, key.data)
        seconds = time.perf_counter() - began
    replies = [reply for talk in talks for reply in talk.replies]
    accepted, refused = replies.count(b"250"), replies.count(b"451")
    if accepted + refused != len(senders):
        raise RuntimeError(f"{accepted} + {refused} answers to {len(senders)} mails")
    return seconds, refused
