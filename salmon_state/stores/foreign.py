"""Stores that are none of ours: those with `get`, `set` and `clear` alone."""

from __future__ import annotations

from typing import Any

from salmon_state.storage import StateStorage

__all__ = ["adapted"]


def adapted(store: Any) -> StateStorage:
    """Returns the store, or if it lacks the hooks of ours, what gives its conversations a lock.

    Such are Salmon's own, and any class with the three methods that Salmon's documentation
    teaches, even if it is derived from `StateStorage`.
    """
    return store if isinstance(store, StateStorage) and store._has_hooks else ForeignStorage(store)


class ForeignStorage(StateStorage):
    """Keeps mails of one sender apart between the threads of this process, and nothing else.

    Salmon's router reads and writes the store itself, which knows of no conversation: what it is
    told happens at once.
    """

    locks_processes = False

    def __init__(self, store: Any) -> None:
        super().__init__()
        self._name = type(store).__name__

    def __repr__(self) -> str:
        return f"<{self._name}>"
