"""What the processes of the kit do with a store; needs neither pytest nor Hypothesis."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.entries import Kind, Seen, Write, in_order
from salmon_state.keys import Sender
from salmon_state.storage import Record, StateStorage

__all__ = [
    "KINDS",
    "beside",
    "commit_and_stop",
    "commit_forever",
    "do",
    "get_and_list",
    "get_many",
    "read",
    "set_forever",
    "set_many",
    "take_all",
    "take_and_finish",
    "win",
]


def do(store: StateStorage, method: str, *arguments: Any) -> Any:
    """Calls one method."""
    return getattr(store, method)(*arguments)


def read(store: StateStorage) -> list[Record]:
    """Returns all records."""
    return list(store)


def set_many(store: StateStorage, states: Sequence[tuple[str, Sender, str]]) -> None:
    """Sets one state after the other."""
    for module, sender, state in states:
        store.set(module, sender, state)


def get_many(store: StateStorage, keys: Sequence[tuple[str, Sender]]) -> list[str]:
    """Returns the states of some conversations."""
    return [store.get(module, sender) for module, sender in keys]


def get_and_list(
    store: StateStorage, keys: Sequence[tuple[str, Sender]]
) -> tuple[list[str], list[Record]]:
    """Returns the states of some conversations, and all records."""
    return get_many(store, keys), read(store)


def set_forever(store: StateStorage, module: str, senders: int) -> Iterator[int]:
    """Moves some senders on in turn, step by step, and acknowledges each set when it returned."""
    for step in itertools.count():
        store.set(module, f"{step % senders}@x", f"S{step}")
        yield step


def win(store: StateStorage, module: str, sender: Sender, last: int) -> int:
    """Counts up with others by compare_and_set; returns the number of steps that it won."""
    won = 0
    while True:
        state = store.get(module, sender)
        step = 0 if state == ROUTE_FIRST_STATE else int(state)
        if step >= last:
            return won
        won += store.compare_and_set(module, sender, state, str(step + 1))


KINDS = (Kind.HANDLED, Kind.OUTGOING, Kind.BODY, Kind.TRANSITION)
"""What a mail may write beside its state."""


def commit_forever(store: StateStorage, sender: Sender, each: int) -> Iterator[int]:
    """Commits a state and so many entries of each kind together, again and again.

    If one commit may do that, the state is that of two other senders as well.
    """
    senders = (sender, *beside(sender)) if store.spans_senders else (sender,)
    for step in itertools.count():
        names = [f"{step}.{number:03}" for number in range(each)]
        writes = [Write(Kind.STATE, whose, "app", f"S{step}", step) for whose in senders]
        writes += [Write(kind, sender, name, b"x", step) for kind in KINDS for name in names]
        store._commit(in_order(writes))
        yield step


def beside(sender: Sender) -> tuple[str, str]:
    """Returns two senders, one that is before and one that is behind it in the order of writes."""
    return f"!{sender}", f"~{sender}"


def commit_and_stop(store: StateStorage, sender: Sender) -> None:
    """Stands still in the middle of a commit until it is told to go on."""

    def writes() -> Iterator[Write]:
        yield Write(Kind.STATE, sender, "one", "ONE", 1)
        os.kill(os.getpid(), signal.SIGSTOP)
        yield Write(Kind.STATE, sender, "two", "ONE", 1)

    store._commit(writes())


def take_all(store: StateStorage, kind: Kind, until: int, limit: int) -> list[Any]:
    """Claims until nothing is due; returns what it got."""
    taken = []
    while claimed := store._claim(kind, until, limit):
        taken += [entry[:3] for entry in claimed]
    return taken


def take_and_finish(store: StateStorage, kind: Kind, until: int, limit: int) -> Iterator[Any]:
    """Claims, removes what it has claimed one by one, and acknowledges each."""
    while claimed := store._claim(kind, until, limit):
        for entry in claimed:
            store._commit([Write(*entry[:3], None, None, Seen(at=until))])
            yield entry[:3]
