"""What other processes do with a store; needs no pytest."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from salmon_state import StorageUnavailable
from salmon_state.storage import StateStorage

MODULE = "app.handlers"


def set_numbered(store: StateStorage, name: str, senders: int) -> Iterator[tuple[str, int, bool]]:
    """Sets numbered states for ever; says before and after what became of each."""
    for number in itertools.count():
        sender = f"{name}.{number % senders}@x"
        try:
            store.set(MODULE, sender, str(number))
        except StorageUnavailable:
            yield sender, number, False
            time.sleep(0.02)
        else:
            yield sender, number, True


def converse_numbered(
    store: StateStorage, name: str, senders: int
) -> Iterator[tuple[str, int, bool]]:
    """Commits numbered states in two modules for ever; says what became of each."""
    for number in itertools.count():
        sender = f"{name}.{number % senders}@x"
        try:
            with store.conversation(sender):
                store.set("one", sender, str(number))
                store.set("two", sender, str(number))
        except StorageUnavailable:
            yield sender, number, False
            time.sleep(0.02)
        else:
            yield sender, number, True
