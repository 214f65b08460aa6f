"""One operation: ``get`` and ``set`` at ten thousand conversations."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.contenders import GROUPS, Contender, group
from benchmarks.places import Places
from benchmarks.rounds import Plan, Row, Samples, compare, rotated, timed, timed_in_loop

MODULE = "app.handlers"
OPERATIONS = ("get hit", "get miss", "set new", "set changed", "set START")
NAMES = tuple(GROUPS)
IN_MEMORY = 20
"""How many calls of a store in memory one sample is the mean of."""


def sender(number: int | str) -> str:
    return f"subscriber{number}@example.com"


def measure(places: Places, plan: Plan, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Returns the rows and their comparison."""
    rows: list[Row] = []
    for name in names:
        print(f"  operations: {name}", flush=True)
        contenders = group(places, name)
        try:
            rows += _measure_group(contenders, plan)
        finally:
            for contender in contenders:
                contender.close()
    return {"rows": rows, "comparisons": compare(rows, ("group", "operation"))}


SLOW = 0.01
"""In seconds: whose calls take longer takes part in every fourth turn only."""


def _measure_group(contenders: list[Contender], plan: Plan) -> list[Row]:
    filling = [(MODULE, sender(number), "CONFIRMING") for number in range(plan.conversations)]
    slow = set()
    for contender in contenders:
        contender.fill(filling)
        began = time.perf_counter()
        _check(contender)
        if time.perf_counter() - began > 6 * SLOW:
            slow.add(contender.who)
    samples = Samples()
    turn = 0
    for number in range(-1, plan.rounds):  # one round to warm up
        for _ in range(plan.turns if number >= 0 else 1):
            turn += 1
            some = [each for each in contenders if each.who not in slow or turn % 4 == 1]
            for who, operation, found in _turn(rotated(some, turn), plan, turn):
                if number >= 0:
                    samples.add((who, operation), number, found)
    by_name = {contender.who: contender for contender in contenders}
    return [
        {
            **{name: getattr(by_name[who], name) for name in ("group", "who", "role")},
            "durability": by_name[who].durability,
            "operation": operation,
            **samples.row((who, operation)),
        }
        for who, operation in samples
    ]


def _turn(
    contenders: list[Contender], plan: Plan, turn: int
) -> Iterator[tuple[str, str, list[float]]]:
    """Yields the samples of a turn by contender and operation."""
    together = IN_MEMORY if contenders[0].group == "memory" else 1
    for operation, arguments in _calls(plan, turn, together):
        # One after the other where a call ends with fsync, whose time changes from one moment to
        # the next; otherwise some at a time, as the first would only fill the processor's caches.
        step = together if operation.startswith("set") else len(arguments)
        for first in range(0, len(arguments), step):
            for contender in contenders:
                found = _run(contender, operation[:3], arguments[first : first + step])
                yield contender.who, operation, found


def _run(contender: Contender, method: str, arguments: list[tuple[str, ...]]) -> list[float]:
    call = getattr(contender.store, method)
    loop = getattr(contender.store, "loop", None)
    if loop is not None:
        return timed_in_loop(loop, call, arguments)
    return timed(call, arguments, IN_MEMORY if contender.group == "memory" else 1)


def _calls(plan: Plan, turn: int, together: int) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Yields what every contender is asked in a turn."""
    count = plan.calls * together
    chosen = random.Random(turn).choices(range(plan.conversations), k=2 * count)
    to = ("POSTING", "CONFIRMING")[turn % 2]
    new = [sender(f"-{turn}-{number}") for number in range(count)]
    yield "get hit", [(MODULE, sender(number)) for number in chosen[:count]]
    yield "get miss", [(MODULE, sender(f"-none-{turn}-{number}")) for number in range(count)]
    yield "set new", [(MODULE, each, "CONFIRMING") for each in new]
    yield "set changed", [(MODULE, sender(number), to) for number in chosen[count:]]
    yield "set START", [(MODULE, each, "START") for each in new]


def _check(contender: Contender) -> None:
    """Makes sure that what is measured does what it is measured for."""

    def ask(method: str, *arguments: str) -> Any:
        found = getattr(contender.store, method)(*arguments)
        loop = getattr(contender.store, "loop", None)
        return found if loop is None else loop.run_until_complete(found)

    for state in ("CONFIRMING", "POSTING", "START"):
        if state != "CONFIRMING":
            ask("set", MODULE, sender(0), state)
        if (found := ask("get", MODULE, sender(0))) != state:
            raise AssertionError(f"{contender.who}: expected {state}, got {found!r}")
    ask("set", MODULE, sender(0), "CONFIRMING")
