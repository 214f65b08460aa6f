"""How a conversation ends: what it is left with, and who looks at it from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from salmon.server import SMTPError

from salmon_state.conversation import current_conversation
from salmon_state.errors import ConversationBusy, StorageError, StorageUnavailable
from salmon_state.keys import Sender
from salmon_state.storage import StateStorage
from salmon_state.testing.threads import run_together

__all__ = ["COMES_AGAIN", "STAYS", "elsewhere", "left_with", "refused"]

COMES_AGAIN: tuple[BaseException, ...] = (
    SMTPError(451, "later"),
    SMTPError(421),
    StorageUnavailable("down"),
    ConversationBusy("in hand"),
    StorageError("damaged"),
    SystemExit(1),
    KeyboardInterrupt(),
)
"""What a conversation is left with when nothing may be kept."""

STAYS: tuple[BaseException, ...] = (
    SMTPError(550, "no"),
    SMTPError(554),
    SMTPError(250),
    ValueError("a handler broke"),
    NotImplementedError("not yet"),
)
"""What a conversation is left with when its writes stay."""


def elsewhere(call: Any, *arguments: Any) -> Any:
    """Returns what a call returns in a thread of its own, and so outside the conversation."""
    return run_together([lambda: call(*arguments)])[0]


@contextmanager
def left_with(store: StateStorage, sender: Sender, error: BaseException) -> Iterator[None]:
    """Makes a block a conversation that ends with an error; the same one must come out."""
    left = []
    try:
        with store.conversation(sender):
            yield
            left.append(error)
            raise error
    except BaseException as caught:
        if not left:
            raise
        assert caught is error  # noqa: PT017 - whatever else came is shown as its context
        return
    raise AssertionError(f"{error!r} was swallowed")


@contextmanager
def refused(
    store: StateStorage, sender: Sender, kind: type[Exception] = ConversationBusy
) -> Iterator[None]:
    """Makes a block a conversation that nothing is wrong with until it shall be committed."""
    conversation = store.conversation(sender)
    with ExitStack() as leaving:
        leaving.push(conversation.__enter__())
        yield
        commit = leaving.pop_all()
    with pytest.raises(kind):
        commit.close()
    assert current_conversation() is None
