"""Salmon's one router for a test, and mails to put into it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from salmon import routing
from salmon.mail import MailRequest
from salmon.routing import Router, nolocking, route, route_like

MODULE = __name__
"""The module of the handlers that `Ring` makes."""


@pytest.fixture
def router() -> Iterator[Any]:
    """Gives the router as it is when Salmon is imported, and puts everything back afterwards.

    Its locks stay the same objects: nobody may hold one now.
    """
    before = dict(vars(Router))
    modules = set(sys.modules)
    vars(Router).clear()
    vars(Router).update(vars(routing.RoutingBase()))
    Router.lock, Router.call_lock = before["lock"], before["call_lock"]
    Router.HANDLERS[MODULE] = routing.DEFAULT_STATE_KEY
    yield Router
    for name in set(sys.modules) - modules:
        if name in Router.HANDLERS:  # its routes went with this router: it must be loaded again
            del sys.modules[name]
    vars(Router).clear()
    vars(Router).update(before)
    for lock in (Router.lock, Router.call_lock):
        assert lock.acquire(timeout=60), "a test left a thread behind in the router"
        lock.release()


def mail(sender: str | None, to: str = "ring@x", body: str = "hello", peer: Any = None) -> Any:
    """Returns a message as a receiver makes it."""
    data = f"Subject: hi\nTo: {to}\n\n{body}\n"
    return MailRequest(peer or ("127.0.0.1", 25), sender, to, data)


Handle = Callable[[Any, str], Any]


class Ring:
    """Handlers of ``ring@x`` that move a sender round START, ONE, TWO and write down each mail.

    Args:
        before: What every handler calls first, with the message and its state's name.
        locking: Whether Salmon runs one handler at a time, as it does by default.
    """

    names = ("START", "ONE", "TWO")

    def __init__(
        self, before: Callable[[Any, str], object] = lambda *_: None, *, locking: bool = True
    ) -> None:
        self.before = before
        self.ran: list[tuple[str | None, str]] = []
        self.handlers: dict[str, Any] = {}
        for name in self.names:
            handler: Any = self._make(name)
            if not locking:
                handler = nolocking(handler)
            first = self.handlers.get("START")
            decorate = route_like(first) if first else route("ring@(host)", host=".+")
            self.handlers[name] = decorate(handler)

    def _make(self, name: str) -> Handle:
        def handle(message: Any, host: str) -> Any:
            self.ran.append((message.From, name))
            self.before(message, name)
            return self.handlers[self.names[(self.names.index(name) + 1) % len(self.names)]]

        handle.__name__ = name
        return handle
