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
from salmon_state.testing.stopping import stop_at_change

__all__ = [
    "CHURNED",
    "KINDS",
    "beside",
    "churn",
    "churn_steps",
    "commit_and_stop",
    "commit_forever",
    "do",
    "get_and_list",
    "get_many",
    "read",
    "set_forever",
    "set_many",
    "step_of",
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
    """Stands still in the middle of a commit until it is told to go on.

    That is in the middle of its changes of files, or where it asks for its second write.
    """
    changes = stop_at_change(lambda: store._commit([Write(Kind.STATE, sender, "0", "ONE", 1)]), 0)

    def writes() -> Iterator[Write]:
        yield Write(Kind.STATE, sender, "one", "ONE", 1)
        if not changes:  # a driver in C makes them
            os.kill(os.getpid(), signal.SIGSTOP)
        yield Write(Kind.STATE, sender, "two", "ONE", 1)

    stop_at_change(lambda: store._commit(writes()), (changes + 1) // 2)


CHURNED = [(f"{number:02}", "churn@example.com") for number in range(100)]
"""Modules and sender of the entries that are changed again and again."""


def churn(store: StateStorage, word: str) -> str:
    """Makes 2,500 changes, each hundred a commit; returns the state that all of them end in."""
    *_, last = churn_steps(store, word)
    return last


def churn_steps(store: StateStorage, word: str) -> Iterator[str]:
    """Makes the commits of a churn; yields the state that each has committed."""
    for step in range(25):
        state = None if step % 5 == 3 else f"{word}{step}"
        store._commit([Write(Kind.STATE, s, module, state, step) for module, s in CHURNED])
        yield state or ROUTE_FIRST_STATE


def step_of(senders: Sequence[str], number: int) -> list[Write]:
    """Returns the writes of a commit that gives all senders something new.

    The last sender has one entry, which is there after every second step.
    """
    *most, last = senders
    places = [(kind, sender) for kind in (Kind.OUTGOING, Kind.BODY) for sender in most]
    writes = [Write(*place, "n", b"%d" % number, number) for place in places]
    now_and_then = b"%d" % number if number % 2 else None
    return in_order([*writes, Write(Kind.OUTGOING, last, "odd", now_and_then, number)])


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
