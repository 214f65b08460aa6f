"""What the processes of the kit do with mails that come several times; needs no pytest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from salmon.mail import MailRequest
from salmon.routing import RoutingBase, nolocking, stateless

from salmon_state.conversation import current_conversation
from salmon_state.entries import Kind, Write
from salmon_state.errors import ConversationBusy
from salmon_state.keys import Sender
from salmon_state.mail.delivery import attach
from salmon_state.storage import StateStorage
from salmon_state.testing.processes import PATIENCE

__all__ = ["handle", "handle_and_wait"]


def handle(store: StateStorage, senders: Sequence[Sender], mails: int, server: str) -> int:
    """Delivers some mails of each sender, as often as each takes until it is answered.

    Each that is handled leaves an entry with the server's name behind.

    Returns:
        How many its handler took, of those that others deliver as well.
    """
    router = RoutingBase()
    attach(router, store, once_within=timedelta(days=1))
    taken: list[Any] = []

    @stateless
    @nolocking
    def take(message: Any) -> None:
        conversation = current_conversation()
        assert conversation is not None
        name = f"{message['Subject']} {server}"
        conversation.add(Write(Kind.CURSOR, message.From, name, b"handled"))
        taken.append(message)

    router.register_route("", take)
    handled = 0
    for number in range(mails):
        for sender in senders:
            handled += len(_deliver(router, sender, number, taken))
    return handled


def handle_and_wait(store: StateStorage, sender: Sender) -> Iterator[int]:
    """Delivers one mail, says how often it was handled, and never gets to answer it."""
    yield handle(store, [sender], 1, "killed")
    time.sleep(PATIENCE)


def _deliver(router: RoutingBase, sender: Sender, number: int, taken: list[Any]) -> list[Any]:
    message = MailRequest("", None, "list@x", f"Subject: {number}\n\nhello\n")
    message.From = sender
    deadline = time.monotonic() + PATIENCE
    while True:
        taken.clear()
        try:
            router.deliver(message)
        except ConversationBusy:
            if time.monotonic() > deadline:
                raise
        else:
            return taken
