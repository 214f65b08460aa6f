"""SMTPReceiver and LMTPReceiver: Salmon's, but they end cleanly and bear hostile clients.

Salmon's own can only be killed, in the middle of whatever handler is running. They wait for ever
for clients and keep whatever these send. And they hide from a handler whether a mail has a null
sender (``MAIL FROM:<>``): it then sees the ``From:`` header. A list server must know, or two
servers will send each other automatic replies for ever. These receivers add the ``Return-Path``
header that RFC 5321 (section 4.4) wants from whoever delivers a mail finally.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import sys
import threading
import time
from typing import Any

from salmon import server
from salmon._vendor import asyncore

from salmon_state.log import log
from salmon_state.mail.receivers.bounds import TOO_COMPLEX, is_too_complex
from salmon_state.mail.receivers.channels import Channel, LMTPChannel, SMTPChannel
from salmon_state.mail.receivers.ending import SIZE_LIMIT, Ending

__all__ = ["LMTPReceiver", "SMTPReceiver"]

_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class _ListeningReceiver(Ending):
    """What SMTP and LMTP share: one thread for all connections.

    Args:
        host: Where to listen.
        port: The TCP port.
        size_limit: Bytes that a mail may have; a larger one is refused with 552.
    """

    backlog = 511
    """Clients that may wait to be accepted: with the usual 5 the others wait for a second, then
    two, four, eight and so on."""

    idle_timeout = 300.0
    """Seconds that a client may be silent (RFC 5321, section 4.5.3.2.7)."""

    accepting: bool
    addr: tuple[str, int]
    socket: Any
    _map: dict[int, Any]
    _channel: type[Channel]

    def __init__(self, host: str, port: int, *, size_limit: int = SIZE_LIMIT) -> None:
        self.size_limit = size_limit
        self.clock = 0.0
        self._resting_until = 0.0
        self._is_full = False
        # The other half is for the handlers: a store's connections, files, the relay.
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_clients = sys.maxsize if descriptors < 0 else descriptors // 2
        super().__init__(host, port)
        self.socket.listen(self.backlog)

    def start(self) -> None:
        """Starts the thread that listens, and returns."""
        threading.Thread(target=self._listen, name="receiver").start()
        log().info("%s started", type(self).__name__)

    def _listen(self) -> None:
        before = time.monotonic()
        try:
            # A handler runs inside loop(), and so does sending the reply to the client.
            while not self._stopping:
                asyncore.loop(timeout=0.1, use_poll=True, count=1)
                now = time.monotonic()
                # What a handler took is not held against clients who could not be heard.
                self.clock += min(now - before, 1.0)
                before = now
                self._hang_up_on_the_silent()
            asyncore.close_all()
        finally:
            self._ended.set()

    def _hang_up_on_the_silent(self) -> None:
        for channel in list(self._map.values()):
            if isinstance(channel, Channel) and (self.clock - channel.heard_at > self.idle_timeout):
                channel.leave(b"421 4.4.2 Nothing heard for too long")

    def readable(self) -> bool:
        """Returns whether another client may be accepted now."""
        if len(self._map) > self._most_clients:
            self._rest(f"{self._most_clients} clients are connected")
        return self.clock >= self._resting_until

    def handle_accept(self) -> None:
        """Accepts a client, unless it takes a descriptor that is not there."""
        try:
            pair = self.accept()  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno not in _SHORTAGES:
                raise
            self._rest(os.strerror(error.errno))
            return
        if pair is not None:
            self._channel(self, *pair)
            if self._is_full:
                self._is_full = False
                log().warning("clients are accepted again")

    def _rest(self, reason: str) -> None:
        self._resting_until = self.clock + 1.0
        if not self._is_full:
            self._is_full = True
            log().error("no more clients are accepted until some have left: %s", reason)

    def close(self) -> None:
        """Closes the socket, but not when asyncore only wants to because one accept failed."""
        if self._stopping or not self.accepting:
            asyncore.dispatcher.close(self)
        else:
            log().exception("A connection could not be accepted")

    # The names are Salmon's: its servers call this method.
    def process_message(self, Peer: Any, From: Any, To: Any, Data: Any, **kwargs: Any) -> Any:  # noqa: N803
        """Hands a mail to the router, with the Return-Path header that is its own."""
        data = _with_return_path(From, Data)
        if is_too_complex(data):
            log().warning("a mail from %r is too complex to be parsed: refused", From)
            return TOO_COMPLEX
        return super().process_message(Peer, From, To, data, **kwargs)  # type: ignore[misc]


class SMTPReceiver(_ListeningReceiver, server.SMTPReceiver):
    """Receives mail by SMTP."""

    _channel = SMTPChannel


class LMTPReceiver(_ListeningReceiver, server.LMTPReceiver):
    """Receives mail by LMTP."""

    _channel = LMTPChannel


def _with_return_path(sender: str | bytes, data: str | bytes) -> bytes:
    if isinstance(sender, str):
        sender = sender.encode("utf-8", "surrogateescape")
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    # A mail that starts with an mbox line would otherwise begin with a header called "From ".
    address = re.sub(rb"[\x00-\x20\x7f<>]+", b" ", sender).strip()
    return b"Return-Path: <" + address + b">\n" + data
