"""What an operator asks of many conversations, with indexes of the states and without."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from benchmarks.growth.fill import THEN, grown
from benchmarks.operations import MODULE, sender
from benchmarks.places import Places, skipped_if_missing
from benchmarks.rounds import Plan, Row
from salmon_state import open_storage
from salmon_state.entries import Kind, Write
from salmon_state.storage import StateStorage

NAMES = ("memory", "shelve", "sqlite", "postgresql", "mariadb", "redis")
RARE = 1_000
"""So many conversations are in a state of their own."""
AGES = timedelta(days=36_500)
LONG = 1.0
"""What has taken more seconds is not asked again."""

RENAME = "`rename` of 1,000"
ASKED: dict[str, tuple[Callable[[StateStorage, tuple[str, str]], int], int]] = {
    "`records`, the first in a state nobody is in": (lambda s, _: _first(s, state="NONE"), 0),
    "`records`, the first in a state 1,000 are in": (lambda s, now: _first(s, state=now[0]), 1),
    "the same of a module": (lambda s, now: _first(s, module=MODULE, state=now[0]), 1),
    "`records`, the first of a module nobody is in": (lambda s, _: _first(s, module="none"), 0),
    "`records`, the first of before there were any": (lambda s, _: _first(s, older_than=AGES), 0),
    "`purge` that finds nothing": (lambda s, _: s.purge(older_than=AGES), 0),
    RENAME: (lambda s, states: min(s.rename(MODULE, *states), 1), 1),
    "`len`": (lambda s, _: min(len(s), 1), 1),
}
"""What is asked, given the rare state and one that nobody is in; and what is to come of it."""


def measure(places: Places, plan: Plan, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Returns rows of what was asked, which store, whether it has indexes, and milliseconds."""
    rows: list[Row] = []
    size = plan.sizes[-1]
    for name in names:
        with skipped_if_missing(name):
            print(f"  filters: {name}, {size:,}", flush=True)
            url = places.url(name)
            with grown(name, url, size) as store:
                rare = range(0, size, max(1, size // RARE))
                store._commit(Write(Kind.STATE, sender(n), MODULE, "RARE", THEN) for n in rare)
                rows += _rows(name, "without", _measured(store, plan))
            if name != "memory":
                began = time.perf_counter()
                with open_storage(url, indexes=True, timeout=600) as store:
                    made = time.perf_counter() - began
                    took = [("making them", made), *_measured(store, plan)]
                    rows += _rows(name, "indexes", took)
    return {"rows": rows, "size": size}


def _rows(group: str, who: str, took: Iterator[tuple[str, float]] | list[Any]) -> list[Row]:
    return [
        {"group": group, "who": who, "asked": asked, "ms": 1_000 * seconds}
        for asked, seconds in took
    ]


def _first(store: StateStorage, **filters: Any) -> int:
    return sum(1 for _ in itertools.islice(store.records(**filters), 1))


def _measured(store: StateStorage, plan: Plan) -> Iterator[tuple[str, float]]:
    """Yields what was asked, and how many seconds it took in the median."""
    states = ("RARE", "RENAMED")
    for asked, (ask, expected) in ASKED.items():
        times: list[float] = []
        for number in range(2 * plan.rounds):
            began = time.perf_counter()
            found = ask(store, states)
            times.append(time.perf_counter() - began)
            if found != expected:
                raise AssertionError(f"{asked}: expected {expected}, got {found}")
            if asked == RENAME:
                states = (states[1], states[0])
            if number % 2 and sum(times) > LONG:  # an even number, which undoes a rename
                break
        yield asked, statistics.median(times)
