"""Service: the loop that serves the clients of a receiver, and what they share."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from salmon.routing import Router

from salmon_state.log import log
from salmon_state.mail.delivery import knows_mails
from salmon_state.mail.receivers.handling import Handled, ReceivedMail, handle, settle
from salmon_state.mail.receivers.limits import IN_HAND, SHORTAGES, Limits
from salmon_state.mail.receivers.repeated import Repeated
from salmon_state.mail.receivers.sockets import BACKLOG
from salmon_state.mail.receivers.workers import Workers

__all__ = ["ENDING", "Service"]

ENDING = "421 4.3.2 This server is being stopped, please come again"


class _Client(Protocol):
    """What a service knows of a client."""

    has_mail: bool
    """Whether a mail of this client is complete and has not been answered."""

    def hang_up(self, reason: str) -> None:
        """Says why, and closes the connection."""


class Service:
    """Serves clients on a socket until it is told to stop.

    Attributes:
        memory: Bytes that there still are for mails.
    """

    def __init__(
        self,
        client: Callable[[Service], _Client],
        *,
        limits: Limits,
        workers: int,
        hostname: str,
        tls: ssl.SSLContext | None,
        check_recipients: bool,
        proxy_protocol: bool,
    ) -> None:
        self._client = client
        self.limits = limits
        self.hostname = hostname
        self.tls = tls
        self.check_recipients = check_recipients
        self.proxy_protocol = proxy_protocol
        self.memory = max(limits.memory, limits.size * IN_HAND)  # so that one fits in
        self.repeated = Repeated()
        self.loop: asyncio.AbstractEventLoop
        self._threads = workers
        self._clients: dict[_Client, str] = {}
        self._of_address: Counter[str] = Counter()
        # The other half is for the handlers: a store's connections, files, the relay.
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = limits.connections if descriptors < 0 else min(limits.connections, descriptors // 2)
        self._most_clients = most

    async def run(self, listening: socket.socket, stop: asyncio.Event) -> None:
        """Serves until `stop` is set and the mails in hand have had their answers."""
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._note)
        side_by_side = 2 if getattr(Router.STATE_STORE, "is_remote", False) else 1
        self._workers: Workers[Handled] = Workers(
            self.loop,
            self._threads,
            self.limits.waiting,
            side_by_side,
            settle,
            lambda mail: not mail.owed,
        )
        self._stop = stop
        is_unix = listening.family == socket.AF_UNIX
        start = self.loop.create_unix_server if is_unix else self.loop.create_server
        # One at a turn of the loop, so that other processes get their share.
        protocol: Any = partial(self._client, self)
        server: Any = await start(protocol, sock=listening, backlog=1)
        listening.listen(BACKLOG)
        await stop.wait()
        # Clients who come now hear that they should come again: it goes on listening.
        for client in list(self._clients):
            if not client.has_mail:
                client.hang_up(ENDING)
        try:
            await asyncio.wait_for(self._is_done(), self.limits.ending)
        except asyncio.TimeoutError:
            log().error("mails that took more than %s s are given up", self.limits.ending)
        server.close()
        for client in list(self._clients):
            client.hang_up(ENDING)
        self._workers.close()

    @property
    def is_ending(self) -> bool:
        """Whether no further mail is taken."""
        return self._stop.is_set()

    async def _is_done(self) -> None:
        await self._workers.idle.wait()
        while any(client.has_mail for client in self._clients):
            await asyncio.sleep(0)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in SHORTAGES:
            text = "no more clients are accepted until some have left: %s"
            self.repeated.say(text, error, level=logging.ERROR)  # tried again after a second
        elif not isinstance(error, ConnectionError):
            said = context.get("message"), error
            self.repeated.say("receiving mail: %s: %r", *said, level=logging.ERROR)

    # ---------------------------------------------------------------- clients

    def admit(self, client: _Client, transport: Any) -> str | None:
        """Takes a new client; or returns what to say to one who may not come in."""
        if self.is_ending:
            return ENDING
        if len(self._clients) >= self._most_clients:
            self.repeated.say("%d clients are connected: others are refused", self._most_clients)
            return "421 4.7.0 Too many connections"
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        if address and self._of_address[address] >= self.limits.connections_of_address:
            self.repeated.say(
                "too many connections from one address are refused, such as %s", address
            )
            return "421 4.7.0 Too many connections from your address"
        self._clients[client] = address
        self._of_address[address] += 1
        return None

    def leave(self, client: _Client) -> None:
        """Forgets a client."""
        address = self._clients.pop(client, None)
        if address is None:  # aiosmtpd says it twice of one who failed at TLS
            return
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]

    # ---------------------------------------------------------------- mails

    def most_recipients(self, *, each: bool) -> int:
        """Returns how many recipients a mail may have.

        Args:
            each: Whether there is an answer for each of them. If there is not, and it fails for
                one, the mail comes again for all: who would have it handled twice takes one.
        """
        return self.limits.recipients if each or knows_mails(Router) else 1

    async def handle(self, mail: ReceivedMail) -> list[str]:
        """Has a mail handled when it is its sender's turn; returns the answers.

        Raises:
            TooBusy: It was not, for too long.
        """
        return (await self._workers.submit(mail.sender, partial(handle, mail))).answers
