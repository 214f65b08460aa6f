"""A handler that answers each mail through the outbox, and writes down that it handled it."""

from __future__ import annotations

from typing import Any

from salmon.routing import Router, route

from salmon_state import current_conversation
from salmon_state.mail.outbox import Outbox
from tests.stress.handlers import handled


@route("list@(host)", host=".+")
def START(message: Any, host: str) -> None:  # noqa: N802 - a state
    """Answers a mail, in the commit of a row about it."""
    conversation = current_conversation()
    assert conversation is not None
    conversation.connection.execute(
        handled.insert(), {"message_id": message["message-id"], "sender": message.From, "step": 0}
    )
    Outbox(Router.STATE_STORE).reply(message, f"list@{host}", message["message-id"], "thanks")
