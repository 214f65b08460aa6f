"""One conversation: enter, ``get``, ``set``, leave; beside a transaction of the driver's."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks import transactions
from benchmarks.operations import MODULE, sender
from benchmarks.places import Places, skipped_if_missing
from benchmarks.rounds import FLOOR, OURS, PEER, Plan, Row, Samples, compare, rotated, timed
from salmon_state import open_storage
from salmon_state.storage import StateStorage

NAMES = ("sqlite", "postgresql", "mariadb", "redis", "postgresql, DBOS")
SENDERS = 1_000

Step = Callable[[str, str, str], None]


class Talker(NamedTuple):
    """Who reads a state and writes another one, in one step that others cannot come between."""

    who: str
    role: str
    step: Step
    close: Callable[[], None]


def ours(url: str) -> Talker:
    """Returns a store of ours at an empty place."""
    store = open_storage(url)
    return Talker("salmon-state", OURS, _conversation(store), store.close)


def _conversation(store: StateStorage) -> Step:
    def step(module: str, sender: str, state: str) -> None:
        with store.conversation(sender):
            store.get(module, sender)
            store.set(module, sender, state)

    return step


def _talkers(places: Places, name: str) -> Iterator[Talker]:
    kind, _, beside = name.partition(", ")
    yield ours(places.url(kind))
    if beside:  # apart from the others, because its threads are never idle
        from benchmarks import steps

        dbos = steps.DBOS(places.url(kind))
        yield Talker(beside, PEER, dbos.step, dbos.close)
        return
    floor = transactions.at(places.redis().url(db=1) if kind == "redis" else places.url(kind))
    yield Talker("the driver's transaction", FLOOR, floor.step, floor.close)
    if kind in ("sqlite", "postgresql"):
        from benchmarks import steps

        saver = steps.LangGraph(places.url(kind))
        yield Talker("LangGraph's checkpoints", PEER, saver.step, saver.close)


def measure(places: Places, plan: Plan, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Returns the rows and their comparison, and prints the ratios."""
    rows: list[Row] = []
    for name in names:
        with skipped_if_missing(name):
            talkers: list[Talker] = []
            try:
                talkers.extend(_talkers(places, name))
                rows += _measure_talkers(name, talkers, plan)
            finally:
                for talker in talkers:
                    talker.close()
    comparisons = compare(rows, ("group",))
    for each in comparisons:
        print(f"  conversation: {each['group']}: {each['p50']:.0f} µs" + _said(each), flush=True)
    return {"rows": rows, "comparisons": comparisons}


def _said(each: Row) -> str:
    others = ((each["to_floor"], each["floor"]), (each["to_peer"], each["best_peer"]))
    return "".join(f", {ratio['median']:.2f} times {who}" for ratio, who in others if ratio)


def _measure_talkers(name: str, talkers: list[Talker], plan: Plan) -> list[Row]:
    for talker in talkers:
        for number in range(SENDERS if talker.who != "DBOS" else 1):
            talker.step(MODULE, sender(number), "CONFIRMING")
    samples = Samples()
    turn = 0
    for number in range(-1, plan.rounds):  # one round to warm up
        for _ in range(plan.turns):
            turn += 1
            state = ("POSTING", "CONFIRMING")[turn % 2]
            chosen = random.Random(turn).choices(range(SENDERS), k=plan.calls)
            for each in chosen:  # one call after the other, as each ends with fsync
                for talker in rotated(talkers, each):
                    found = timed(talker.step, [(MODULE, sender(each), state)])
                    if number >= 0:
                        samples.add(talker, number, found)
    return [
        {
            "group": name,
            "who": talker.who,
            "role": talker.role,
            "durability": "fsync each second" if name == "redis" else "fsync",
            **samples.row(talker),
        }
        for talker in samples
    ]
