"""Recorded histories: what processes did to one sender, and whether one order explains it all.

Every method promises to happen at one moment between its call and its return. A history keeps that
promise if its steps can be put into one order, in which none comes before a step that had returned
before it was called, and in which every step saw what the steps before it had left behind.

This module is imported by the processes as well; it needs neither pytest nor Hypothesis.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.errors import ConversationBusy, StorageUnavailable
from salmon_state.storage import StateStorage

__all__ = ["Step", "explain", "read_all", "record_history"]

MODULES = ("one", "three", "two")

States = Mapping[str, str]
"""The states of one sender by module; START is there, too."""

_NOBODY: States = dict.fromkeys(MODULES, ROUTE_FIRST_STATE)


@dataclass(frozen=True)
class Step:
    """One thing that was done to a sender: what it saw, then what it did."""

    called: int
    """In nanoseconds, by a clock that all processes share."""
    returned: int
    name: str
    seen: States = field(default_factory=dict)
    """What it is known to have seen, by module."""
    unlike: States = field(default_factory=dict)
    """In which states these modules were not."""
    moved: int | None = None
    """How many conversations `set_all` says it moved, if it does."""
    move: str | None = None
    """Where all conversations of the sender went."""
    writes: States = field(default_factory=dict)
    """What was set afterwards."""
    sure: bool = True
    """Whether it happened; what ended with `StorageUnavailable` may have, or not at all."""

    def after(self, states: States) -> States | None:
        """Returns the states that it leaves behind; ``None`` if it cannot have seen these."""
        existing = [module for module in MODULES if states[module] != ROUTE_FIRST_STATE]
        if (
            any(states[module] != state for module, state in self.seen.items())
            or any(states[module] == state for module, state in self.unlike.items())
            or self.moved not in (None, len(existing))
        ):
            return None
        moved = {} if self.move is None else dict.fromkeys(existing, self.move)
        return {**states, **moved, **self.writes}


def explain(histories: Sequence[Sequence[Step]]) -> list[Step]:
    """Puts the steps of processes into an order that explains them.

    Args:
        histories: Each process's steps, in the order in which it did them.

    Raises:
        AssertionError: There is no such order; the message shows where the search ended.
    """
    start = (0,) * len(histories)
    trail: list[Step] = []
    furthest: list[Step] = []
    seen: set[object] = set()
    branches = [_next_steps(histories, start, _NOBODY)]
    while branches:
        for step, position, states in branches[-1]:
            key = position, *states.values()
            if key not in seen:
                seen.add(key)
                trail.append(step)
                branches.append(_next_steps(histories, position, states))
                break
        else:  # a dead end
            branches.pop()
            del trail[-1:]
        if len(trail) == sum(map(len, histories)):
            return trail
        if len(trail) > len(furthest):
            furthest = [*trail]
    raise AssertionError(_describe(furthest, histories))


def _next_steps(
    histories: Sequence[Sequence[Step]], position: tuple[int, ...], states: States
) -> Iterator[tuple[Step, tuple[int, ...], States]]:
    """Yields the steps that may come next, and where that leads."""
    heads = {
        who: history[at]
        for who, (history, at) in enumerate(zip(histories, position, strict=True))
        if at < len(history)
    }
    # What may have happened later than it returned happened before its process went on.
    sure = (
        next((s for s in history[at:] if s.sure), None)
        for history, at in zip(histories, position, strict=True)
    )
    first_return = min((step.returned for step in sure if step), default=inf)
    for who, step in heads.items():
        if step.called > first_return:
            continue
        behind = (*position[:who], position[who] + 1, *position[who + 1 :])
        after = step.after(states)
        if after is not None:
            yield step, behind, after
        if not step.sure:
            yield step, behind, states


def _describe(trail: Sequence[Step], histories: Sequence[Sequence[Step]]) -> str:
    done = set(map(id, trail))
    waiting = [next((s for s in steps if id(s) not in done), None) for steps in histories]
    lines = ["no order explains what was seen; it goes as far as", *map(str, trail[-12:])]
    return "\n".join([*lines, "and then none of these can be next:", *map(str, waiting)])


# ---------------------------------------------------------------- what the processes do


def record_history(store: StateStorage, sender: str, who: int, steps: int) -> list[Step]:
    """Does random things to a sender, and returns what they were and what was seen."""
    chance = random.Random(who)  # noqa: S311 - no secret
    history: list[Step] = []
    kinds: list[Callable[[], None]] = [
        *[lambda: history.append(_set(store, sender, new(), chance))] * 5,
        *[lambda: history.append(_get(store, sender, chance))] * 4,
        *[lambda: history.append(_set_all(store, sender, new()))] * 3,
        *[lambda: history.append(_compare_and_set(store, sender, new(), chance))] * 2,
        *[lambda: history.extend(_talk(store, sender, new(), chance))] * 3,
        *[lambda: history.extend(_talk_of(store, sender, f"daemon{who}@x", new()))] * 2,
    ]

    def new() -> str:
        return ROUTE_FIRST_STATE if chance.random() < 0.3 else f"P{who}S{len(history)}"

    for _ in range(steps):
        chance.choice(kinds)()
    return history


def read_all(store: StateStorage, sender: str) -> Step:
    """Reads all modules of a sender that nobody changes meanwhile."""
    called = _now()
    seen = {module: store.get(module, sender) for module in MODULES}
    return Step(called, _now(), "read all", seen=seen)


def _now() -> int:
    return time.monotonic_ns()


def _get(store: StateStorage, sender: str, chance: random.Random) -> Step:
    module, called = chance.choice(MODULES), _now()
    try:
        state = store.get(module, sender)
    except StorageUnavailable:
        return Step(called, _now(), "get", sure=False)
    return Step(called, _now(), "get", seen={module: state})


def _set(store: StateStorage, sender: str, state: str, chance: random.Random) -> Step:
    module, called = chance.choice(MODULES), _now()
    sure = _happens(lambda: store.set(module, sender, state))
    return Step(called, _now(), "set", writes={module: state}, sure=sure)


def _happens(call: Callable[[], object]) -> bool:
    """Does something; returns whether it is known to have happened: a store may be overloaded."""
    try:
        call()
    except StorageUnavailable:
        return False
    return True


def _set_all(store: StateStorage, sender: str, state: str) -> Step:
    called, moved = _now(), []
    sure = _happens(lambda: moved.append(store.set_all(sender, state)))
    return Step(called, _now(), "set_all", moved=moved[0] if sure else None, move=state, sure=sure)


def _compare_and_set(store: StateStorage, sender: str, state: str, chance: random.Random) -> Step:
    module = chance.choice(MODULES)
    called, sure = _now(), True
    try:
        expected = store.get(module, sender)
    except StorageUnavailable:
        return Step(called, _now(), "get", sure=False)
    called = _now()
    try:
        if not store.compare_and_set(module, sender, expected, state):
            return Step(called, _now(), "compare_and_set", unlike={module: expected})
    except StorageUnavailable:
        sure = False
    seen, writes = {module: expected}, {module: state}
    return Step(called, _now(), "compare_and_set", seen=seen, writes=writes, sure=sure)


def _talk(store: StateStorage, sender: str, state: str, chance: random.Random) -> list[Step]:
    """Reads all in a conversation of the sender, and changes two modules, or all."""
    called, snapshot, sure, written = _now(), None, True, []
    try:
        with store.conversation(sender, timeout=30):
            seen = {module: store.get(module, sender) for module in MODULES}
            snapshot = Step(called, _now(), "enter", seen=seen)
            if chance.random() < 0.3:
                store.set_all(sender, state)
                written = [module for module in MODULES if seen[module] != ROUTE_FIRST_STATE]
            else:
                written = chance.sample(MODULES, 2)
                for module in written:
                    store.set(module, sender, state)
            called = _now()
    except ConversationBusy:  # it was overtaken, and has changed nothing
        return [] if snapshot is None else [snapshot]
    except StorageUnavailable:
        if snapshot is None:
            return []
        sure = False
    # That a conversation which was new stays so is not looked at again.
    went_by = {
        module: seen[module] for module in written if {seen[module], state} != {ROUTE_FIRST_STATE}
    }
    writes = dict.fromkeys(went_by, state)
    return [snapshot, Step(called, _now(), "leave", seen=went_by, writes=writes, sure=sure)]


def _talk_of(store: StateStorage, sender: str, daemon: str, state: str) -> list[Step]:
    """Moves all conversations of the sender in one of somebody else, and sets one afterwards."""
    called, sure = None, True
    try:
        with store.conversation(daemon, timeout=30):
            store.set_all(sender, state)
            store.set(MODULES[1], sender, f"{state}+")
            called = _now()
    except ConversationBusy:
        return []
    except StorageUnavailable:
        if called is None:
            return []
        sure = False
    writes = {MODULES[1]: f"{state}+"}
    return [Step(called, _now(), "leave of another", move=state, writes=writes, sure=sure)]
