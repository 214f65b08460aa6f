"""Salmon's three receivers, made to end cleanly and to tell handlers who sent a mail.

Salmon's own can only be killed, in the middle of whatever handler is running, and hide from a
handler whether a mail has a null sender (``MAIL FROM:<>``): it then sees the ``From:`` header.
A list server must know, or two servers will send each other automatic replies for ever. These
receivers add the ``Return-Path`` header that RFC 5321 (section 4.4) wants from whoever delivers
a mail finally.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from email.message import Message
from email.utils import parseaddr
from typing import Any

from salmon import server
from salmon._vendor import asyncore
from salmon.mail import MailRequest

__all__ = ["LMTPReceiver", "QueueReceiver", "SMTPReceiver"]

LOG = logging.getLogger("config.receivers")


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
    """What SMTP and LMTP share: one thread for all connections."""

    accepting: bool

    def start(self) -> None:
        """Starts the thread that listens, and returns."""
        threading.Thread(target=self._listen, name="receiver").start()
        LOG.info("%s started", type(self).__name__)

    def _listen(self) -> None:
        try:
            # A handler runs inside loop(), and so does sending the reply to the client.
            while not self._stopping:
                asyncore.loop(timeout=0.1, use_poll=True, count=1)
            asyncore.close_all()
        finally:
            self._ended.set()

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
        return super().process_message(Peer, From, To, data, **kwargs)  # type: ignore[misc]


class SMTPReceiver(_ListeningReceiver, server.SMTPReceiver):
    """Receives mail by SMTP."""


class LMTPReceiver(_ListeningReceiver, server.LMTPReceiver):
    """Receives mail by LMTP."""


class QueueReceiver(_Ending, server.QueueReceiver):
    """Receives mail from a Maildir into which another mail server puts it.

    Salmon's own takes every mail out of the directory at once, so that all of them are lost if
    the process dies, and drops a mail that it cannot parse. This one takes a mail when a worker
    is free for it, and puts what cannot be parsed into the undeliverable queue. What cannot be
    handled now is put back by `salmon_state.attach`, and its worker rests: in an outage all of
    them do, and look for mail again once a second.

    Args:
        queue_dir: The Maildir.
        sleep: Seconds between two looks into an empty directory.
        workers: Mails in hand at the same time.
    """

    def __init__(self, queue_dir: str, sleep: float = 0.25, workers: int = 10) -> None:
        super().__init__(queue_dir, sleep=sleep, workers=workers)
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
        for key in sorted(self.queue.mbox.keys(), key=_by_time):
            try:
                data = self.queue.mbox.get_bytes(key)
                self.queue.remove(key)
            except (KeyError, FileNotFoundError):  # another server was faster
                continue
            try:
                return MailRequest(self.queue.dir, None, None, data)
            except Exception:
                LOG.exception("A mail from %s cannot be parsed", self.queue.dir)
                server.undeliverable_message(data, "it cannot be parsed")
        return None

    def _process(self, message: Any) -> None:
        try:
            self.process_message(message)
        finally:
            self._free.release()

    def process_message(self, msg: Any) -> None:
        """Hands a mail to the router, with the envelope that the other mail server recorded.

        Salmon takes the headers as they stand, with display names and capitals; the same person
        would be somebody else than by SMTP.
        """
        headers = msg.base.mime_part
        msg.From = _address(headers, "Return-Path", "From")
        msg.To = _address(headers, "Delivered-To", "X-Original-To", "To")
        super().process_message(msg)


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
