"""SMTPReceiver and LMTPReceiver: many clients and many mails at a time, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

from salmon import routing
from salmon.routing import Router

from salmon_state.errors import ConfigurationError
from salmon_state.log import log
from salmon_state.mail.receivers.ending import Ending
from salmon_state.mail.receivers.limits import Limits
from salmon_state.mail.receivers.processes import Processes
from salmon_state.mail.receivers.sockets import listen_on_path, listen_on_port, place_of
from salmon_state.stores.memory import MemoryStorage

if TYPE_CHECKING:
    from salmon_state.mail.receivers.service import Service

__all__ = ["LMTPReceiver", "SMTPReceiver"]

_DEFAULT = Limits()

_FAREWELL = 1.0
"""Seconds that the main thread may go on after a signal: with ``salmon start --debug`` it sleeps
for ever."""


class SMTPReceiver(Ending):
    """Receives mail by SMTP: one thread for all clients, and some for their mails.

    It takes what Salmon's takes and stands in its place, in ``settings.receiver``. It needs
    aiosmtpd (``pip install aiosmtpd``). A client hears 250 when the router is done
    with its mail, and with `salmon_state.attach` all that came of it is committed by then: a
    process that is killed before loses no mail, as the client sends it again.

    Mails of one sender are handled one after the other, in the order in which they came over one
    connection, and wait without keeping a worker from others. A mail to several recipients is
    handled for each of them; if that fails for now for one, the client is told to send it again,
    and for whom it was handled the inbox knows (``attach(…, once_within=…)``); without an inbox a
    mail has one recipient, and the client sends it again for each of the others.

    Addresses arrive as the client wrote them, with capital ASCII letters made small as by Salmon's
    receivers; what is no address, or has other letters without SMTPUTF8, is refused.

    Args:
        host: Where to listen: a name or an address.
        port: The TCP port; 0 takes one that is free, see `address`.
        limits: What clients may cost.
        workers: How many mails are handled at a time. A SQL store needs as many connections, its
            ``pool_size``; a mail that gets none in time is to come again. Salmon itself lets one
            handler at a time run, unless it is marked with ``@nolocking``; with
            `salmon_state.attach`, a handler that shares nothing between senders but the store may
            be.
        processes: How many processes take clients from the same socket, each with its own workers
            and limits. They are forked by `start`, started again when they die, and end with this
            one. The router must have its store by now, one that processes can share.
        hostname: What the receiver calls itself; the machine's name if it is not given.
        tls: A context with a certificate, for clients who want STARTTLS.
        check_recipients: Whether a recipient for whom the router has no route is refused with 550.
            Mail to postmaster is taken all the same.
        proxy_protocol: Whether a proxy in front says who the client is, in a PROXY header of
            version 1 or 2. Without such a proxy anybody could say anything.

    Attributes:
        address: Where it listens, as the socket has it.

    Raises:
        OSError: It cannot listen there.
        ConfigurationError: aiosmtpd is not installed, there is no worker or no process, or there
            are several and the router's store is in memory.
    """

    _protocol = "SMTP"

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8825,
        *,
        limits: Limits = _DEFAULT,
        workers: int = 16,
        processes: int = 1,
        hostname: str | None = None,
        tls: ssl.SSLContext | None = None,
        check_recipients: bool = True,
        proxy_protocol: bool = False,
    ) -> None:
        super().__init__()
        for name, number in (("workers", workers), ("processes", processes)):
            if number < 1:
                raise ConfigurationError(f"{name}: expected 1 or more, got {number}")
        if processes > 1:
            _check_shared(Router.STATE_STORE, processes)
        self._service = _service(
            self._protocol,
            limits=limits,
            workers=workers,
            hostname=hostname or socket.gethostname(),
            tls=tls,
            check_recipients=check_recipients,
            proxy_protocol=proxy_protocol,
        )
        self._listening = self._listen(host, port)
        self.address: Any = self._listening.getsockname()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: asyncio.Event
        self._children: Processes | None = None
        if processes > 1:
            # What takes longer than it should is given up by the child itself.
            self._children = Processes(processes, self._run_child, 2 * limits.ending)

    def _listen(self, host: str, port: int) -> socket.socket:
        return listen_on_port(host, port)

    def start(self) -> None:
        """Starts the thread that listens, and returns.

        SIGTERM and SIGHUP stop it from then on, as `stop` does, if this is the main thread and
        nobody else handles them.
        """
        self.stop_at_signals()
        threading.Thread(target=self._run, name="receiver").start()
        log().info("%s started on %s", type(self).__name__, place_of(self.address))

    def stop(self) -> None:
        """Asks the receiver to end; safe in a signal handler.

        Mails in hand are finished, for as long as `Limits.ending`. Clients who have not finished
        theirs, or come now, are told to come again.
        """
        super().stop()
        if self._children is not None:
            self._children.stop()
        elif self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._told.set)

    def _run(self) -> None:
        try:
            if self._children is not None:
                self._children.run()
            else:
                asyncio.run(self._serve())
        finally:
            self._listening.close()
            self.has_ended()
            if self._stopped_by is not None:
                threading.main_thread().join(_FAREWELL)
                if threading.main_thread().is_alive():
                    os.kill(os.getpid(), self._stopped_by)

    def _run_child(self, told: int) -> None:
        asyncio.run(self._serve(told))

    async def _serve(self, told: int | None = None) -> None:
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if told is not None:
            self._loop.add_reader(told, self._hear, told)
        if self._stopping:  # before there was anybody to tell
            self._told.set()
        await self._service.run(self._listening, self._told)

    def _hear(self, told: int) -> None:
        assert self._loop is not None  # noqa: S101 - for the type checker
        self._loop.remove_reader(told)  # it stays readable
        self._told.set()


class LMTPReceiver(SMTPReceiver):
    """Receives mail by LMTP, from a mail server in front; there is an answer for each recipient.

    The arguments are those of `SMTPReceiver` and two more.

    Args:
        host: Where to listen, unless on a path.
        port: The TCP port.
        socket: The path of a Unix socket to listen on instead; whatever socket was left there is
            replaced, unless somebody listens on it.
        socket_mode: Who may connect to it: its permissions.
        **options: See `SMTPReceiver`.
    """

    _protocol = "LMTP"

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8824,
        socket: str | None = None,
        *,
        socket_mode: int = 0o660,
        **options: Any,
    ) -> None:
        self._path = socket
        self._mode = socket_mode
        super().__init__(host, port, **options)
        self.address = socket or self.address

    def _listen(self, host: str, port: int) -> socket.socket:
        return listen_on_path(self._path, self._mode) if self._path else listen_on_port(host, port)


def _check_shared(store: object, processes: int) -> None:
    if isinstance(store, MemoryStorage) or type(store) is routing.MemoryStorage:
        raise ConfigurationError(
            f"processes: {processes} cannot share states in memory: put a store that they can "
            "share into Router.STATE_STORE first"
        )


def _service(protocol: str, **options: Any) -> Service:
    try:
        import aiosmtpd  # noqa: F401 - only to see whether it is there
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"receiving {protocol} needs aiosmtpd: pip install aiosmtpd"
        ) from error
    from salmon_state.mail.receivers import service, session

    client = {"SMTP": session.SMTPClient, "LMTP": session.LMTPClient}[protocol]
    return service.Service(client, **options)
