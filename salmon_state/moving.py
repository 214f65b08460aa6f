"""Moving conversations from one handler module to another."""

from __future__ import annotations

from salmon_state.backend import Backend
from salmon_state.entries import ABSENT, STATE, Entry, Seen, Where, Write, in_order
from salmon_state.errors import Overtaken

__all__ = ["move_module"]


def move_module(store: Backend, old: str, new: str) -> int:
    """Moves each conversation of a module to another; see `StateStorage.rename_module`."""
    moved = 0
    for page in store._pages(STATE, Where(name=old)):
        for entries in store._atomic(page.entries):
            try:
                store._commit(in_order(write for entry in entries for write in _moves(entry, new)))
                moved += len(entries)
            except Overtaken:
                moved += sum(_move(store, entry, new) for entry in entries)
    return moved


def _move(store: Backend, entry: Entry, new: str) -> bool:
    found = [entry]
    while found:
        try:
            store._commit(in_order(_moves(found[0], new)))
        except Overtaken:
            if store._load(entry.sender, ((STATE, new),)):
                return False
            found = store._load(entry.sender, ((STATE, entry.name),))
        else:
            return True
    return False


def _moves(entry: Entry, new: str) -> list[Write]:
    _, sender, old, state, at = entry
    return [
        Write(STATE, sender, old, None, None, Seen(state, at)),
        Write(STATE, sender, new, state, at, ABSENT),
    ]
