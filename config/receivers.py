"""Salmon's three receivers, made to end cleanly, to bear hostile clients, and to say who sent.

Salmon's own can only be killed, in the middle of whatever handler is running. They wait for ever
for clients and keep whatever these send. And they hide from a handler whether a mail has a null
sender (``MAIL FROM:<>``): it then sees the ``From:`` header. A list server must know, or two
servers will send each other automatic replies for ever. These receivers add the ``Return-Path``
header that RFC 5321 (section 4.4) wants from whoever delivers a mail finally.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Iterator
from email.message import Message
from email.utils import parseaddr
from pathlib import Path
from typing import Any

from salmon import server
from salmon._vendor import asyncore
from salmon.mail import MailRequest

from config.bounds import TOO_COMPLEX, is_too_complex
from config.channels import Channel, LMTPChannel, SMTPChannel

__all__ = ["LMTPReceiver", "QueueReceiver", "SMTPReceiver"]

LOG = logging.getLogger("config.receivers")

SIZE_LIMIT = 10 * 1024 * 1024
"""Bytes that a mail may have, unless a receiver is told otherwise."""

_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class _Ending:
    """How a receiver ends: at `stop`, when the mail in hand has had its answer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._stopping = False
        self._ended = threading.Event()
        super().__init__(*arguments, **options)

    def stop(self) -> None:
        """Asks the receiver to end; safe in a signal handler.

        Clients that are connected but have not finished their mail are cut off and will come
        again.
        """
        self._stopping = True

    def wait(self, seconds: float) -> bool:
        """Waits for the receiver to end; returns whether it has."""
        return self._ended.wait(seconds)


class _ListeningReceiver(_Ending):
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
        LOG.info("%s started", type(self).__name__)

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
                LOG.warning("clients are accepted again")

    def _rest(self, reason: str) -> None:
        self._resting_until = self.clock + 1.0
        if not self._is_full:
            self._is_full = True
            LOG.error("no more clients are accepted until some have left: %s", reason)

    def close(self) -> None:
        """Closes the socket, but not when asyncore only wants to because one accept failed."""
        if self._stopping or not self.accepting:
            asyncore.dispatcher.close(self)
        else:
            LOG.exception("A connection could not be accepted")

    # The names are Salmon's: its servers call this method.
    def process_message(self, Peer: Any, From: Any, To: Any, Data: Any, **kwargs: Any) -> Any:  # noqa: N803
        """Hands a mail to the router, with the Return-Path header that is its own."""
        data = _with_return_path(From, Data)
        if is_too_complex(data):
            LOG.warning("a mail from %r is too complex to be parsed: refused", From)
            return TOO_COMPLEX
        return super().process_message(Peer, From, To, data, **kwargs)  # type: ignore[misc]


class SMTPReceiver(_ListeningReceiver, server.SMTPReceiver):
    """Receives mail by SMTP."""

    _channel = SMTPChannel


class LMTPReceiver(_ListeningReceiver, server.LMTPReceiver):
    """Receives mail by LMTP."""

    _channel = LMTPChannel


class QueueReceiver(_Ending, server.QueueReceiver):
    """Receives mail from a Maildir into which another mail server puts it.

    Salmon's own takes every mail out of the directory at once, so that all of them are lost if
    the process dies, and drops a mail that it cannot parse. This one takes a mail when a worker
    is free for it, and puts what cannot be parsed into the undeliverable queue. What cannot be
    handled now is put back by `salmon_state.attach`, and its worker rests: in an outage all of
    them do, and look for mail again once a second.

    What is no mail (a FIFO, a device, a link to nothing, a file that is too large or that may not
    be read) stays where it is, with a line in the log.

    Args:
        queue_dir: The Maildir.
        sleep: Seconds between two looks into an empty directory.
        workers: Mails in hand at the same time.
        size_limit: Bytes that a mail may have.
    """

    def __init__(
        self,
        queue_dir: str,
        sleep: float = 0.25,
        workers: int = 10,
        *,
        size_limit: int = SIZE_LIMIT,
    ) -> None:
        super().__init__(queue_dir, sleep=sleep, workers=workers)
        self._size_limit = size_limit
        self._left_alone: set[str] = set()
        self._free = threading.BoundedSemaphore(workers)

    def start(self, one_shot: bool = False) -> None:
        """Blocks until `stop`, or with `one_shot` until the directory is empty."""
        LOG.info("QueueReceiver started on %s", self.queue.dir)
        try:
            while not self._stopping:
                if not self._take_one():
                    if one_shot:
                        break
                    time.sleep(self.sleep)
            self.workers.close()
            self.workers.join()
        finally:
            self._ended.set()

    def _take_one(self) -> bool:
        self._free.acquire()
        message = self._pop()
        if message is None:
            self._free.release()
            return False
        self.workers.apply_async(self._process, args=(message,))
        return True

    def _pop(self) -> Any:
        # Not Salmon's pop(): it loses a mail that it cannot parse, and leaves files open. In the
        # order of the names, which begin with the time: a mail that was put back because it could
        # not be handled now is behind all others, and keeps none of them waiting.
        for entry in sorted(self._entries(), key=lambda entry: _by_time(entry.name)):
            try:
                if entry.stat().st_size > self._size_limit:
                    self._leave_alone(entry, f"more than {self._size_limit} bytes")
                    continue
                data = Path(entry.path).read_bytes()
                os.remove(entry.path)
            except FileNotFoundError:  # another server was faster
                continue
            except OSError as error:
                self._leave_alone(entry, str(error))
                continue
            try:
                return self._request(data)
            except Exception:
                LOG.exception("A mail from %s cannot be parsed", self.queue.dir)
                server.undeliverable_message(data, "it cannot be parsed")
        return None

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        for name in ("new", "cur"):
            with os.scandir(os.path.join(self.queue.dir, name)) as entries:
                for entry in entries:
                    if entry.is_file():
                        yield entry
                    else:
                        self._leave_alone(entry, "it is no file")

    def _leave_alone(self, entry: os.DirEntry[str], reason: str) -> None:
        """Says once what is not taken: opening a FIFO, for one, would wait for ever."""
        if entry.path not in self._left_alone:
            self._left_alone.add(entry.path)
            LOG.error("%s is left alone: %s", entry.path, reason)

    def _request(self, data: bytes) -> MailRequest:
        """Makes a mail, with the envelope that the other mail server recorded.

        Salmon takes the headers as they stand, with display names and capitals; the same person
        would be somebody else than by SMTP.
        """
        if is_too_complex(data):
            raise ValueError(TOO_COMPLEX)
        request = MailRequest(self.queue.dir, None, None, data)
        headers = request.base.mime_part
        request.From = _address(headers, "Return-Path", "From")
        request.To = _address(headers, "Delivered-To", "X-Original-To", "To")
        return request

    def _process(self, message: Any) -> None:
        try:
            self.process_message(message)
        finally:
            self._free.release()


def _by_time(name: str) -> list[str | int]:
    """Returns what to sort a Maildir's names by: their numbers may lack leading zeros."""
    parts: list[str | int] = [*re.split("([0-9]+)", name)]
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts


def _address(headers: Message, *names: str) -> str:
    for name in names:
        if name in headers:
            return parseaddr(str(headers[name]).lower())[1]
    return ""


def _with_return_path(sender: str | bytes, data: str | bytes) -> bytes:
    if isinstance(sender, str):
        sender = sender.encode("utf-8", "surrogateescape")
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    # A mail that starts with an mbox line would otherwise begin with a header called "From ".
    address = re.sub(rb"[\x00-\x20\x7f<>]+", b" ", sender).strip()
    return b"Return-Path: <" + address + b">\n" + data
