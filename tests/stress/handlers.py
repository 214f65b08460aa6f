"""Handlers each of which moves its sender one step on, and writes that down with the state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from salmon.routing import Router, route

from salmon_state import current_conversation

STEPS = 40
"""More than a sender can make, with every mail handled twice."""

handled = sa.Table(
    "handled",
    sa.MetaData(),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("message_id", sa.String(100), nullable=False),
    sa.Column("sender", sa.String(100), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
)
"""One row for each time that a mail was handled."""

LOG = logging.getLogger("stress")


def _state(step: int) -> Callable[[Any, str], Any]:
    def handle(message: Any, host: str) -> Any:
        LOG.info("handling %s", message["message-id"])
        conversation = current_conversation()
        assert conversation is not None
        conversation.connection.execute(
            handled.insert(),
            {"message_id": message["message-id"], "sender": message.From, "step": step},
        )
        return STATES[step + 1]

    handle.__name__ = name_of(step)
    handler: Callable[[Any, str], Any] = route("steps@(host)", host=".+")(handle)
    return handler


def name_of(step: int) -> str:
    """Returns the state of a sender that so many mails were handled of."""
    return f"STEP{step}" if step else "START"


STATES = [_state(step) for step in range(STEPS)]
Router.HANDLERS.setdefault(__name__, lambda module, message: module)
