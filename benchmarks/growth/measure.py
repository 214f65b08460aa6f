"""What grows: each store in three sizes, and the bare driver beside it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from benchmarks.growth.bare import BARE, Bare
from benchmarks.growth.fill import grown
from benchmarks.growth.weight import weight
from benchmarks.operations import MODULE, sender
from benchmarks.places import Places, skipped_if_missing
from benchmarks.rounds import FLOOR, OURS, Plan, Ratio, Row, Samples, rotated, timed
from salmon_state.storage import StateStorage

NAMES = ("memory", "shelve", "sqlite", "postgresql", "mariadb", "redis")
OPERATIONS = ("get", "set", "records, first page", "set_all")
WARM = 60_000
"""How often each store is read before: most pages of a million conversations are met then."""
FIRST_PAGE = 100
"""How many records are read of a store."""


def measure(places: Places, plan: Plan, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Returns a row for each store, size and operation, and the slope between the ends."""
    rows: list[Row] = []
    sizes: list[Row] = []
    for name in names:
        with skipped_if_missing(name):
            stores: dict[int, StateStorage] = {}
            floors: dict[int, Bare] = {}
            for number, size in enumerate(plan.sizes):
                print(f"  growth: {name}, {size:,}", flush=True)
                # In Redis a database each: a scan goes over the keys of everybody in it.
                url = places.redis().url(db=number) if name == "redis" else places.url(name)
                stores[size] = grown(name, url, size)
                floors[size] = BARE[name](url, size)
                sizes.append({"group": name, "size": size, **weight(name, url, size)})
            rows += _measure_stores(name, stores, floors, plan)
            for size in plan.sizes:
                stores[size].close()
                floors[size].close()
    return {"rows": rows, "sizes": sizes, "slopes": _slopes(rows, plan)}


def _measure_stores(
    name: str, stores: dict[int, StateStorage], floors: dict[int, Bare], plan: Plan
) -> list[Row]:
    for size, store in stores.items():
        _warm_up(store, floors[size], size)
    samples = Samples()
    together = 20 if name == "memory" else 1
    for number in range(-1, plan.rounds):
        for turn in range(plan.turns if number >= 0 else 2):
            for operation, size in itertools.product(OPERATIONS, rotated(list(stores), turn)):
                call, calls = _calls(stores[size], operation, size, plan, turn)
                some = together if len(calls) > together else 1
                asked = [(OURS, "salmon-state", call, calls)]
                if operation == "get":
                    floor = floors[size]
                    bare = [floor.arguments(sender(random.randrange(size))) for _ in calls]
                    asked.append((FLOOR, floor.who, floor.get, bare))
                for role, who, ask, arguments in rotated(asked, turn):
                    times = timed(ask, arguments, some)
                    if number >= 0:
                        samples.add((role, who, size, operation), number, times)
    return [
        {
            "group": name,
            "who": who,
            "role": role,
            "size": size,
            "operation": operation,
            **samples.row((role, who, size, operation)),
        }
        for role, who, size, operation in samples
    ]


def _warm_up(store: StateStorage, floor: Bare, size: int) -> None:
    """Reads so much of a store that it is one which has been in use for a while.

    A process of PostgreSQL's meets each page of the shared cache for the first time, which takes
    as long as half a lookup.
    """
    for _ in range(min(size, WARM)):
        store.get(MODULE, sender(random.randrange(size)))
        floor.get(*floor.arguments(sender(random.randrange(size))))


def _calls(
    store: StateStorage, operation: str, size: int, plan: Plan, turn: int
) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    # What reads more than it needs takes milliseconds: a few times are enough.
    count = plan.calls * (20 if type(store).__name__ == "MemoryStorage" else 1)
    senders = [sender(random.randrange(size)) for _ in range(count)]
    to = ("CONFIRMING", "POSTING")[turn % 2]
    if operation == "get":
        return store.get, [(MODULE, who) for who in senders]
    if operation == "set":
        return store.set, [(MODULE, who, to) for who in senders]
    if operation == "set_all":
        return store.set_all, [(who, to) for who in senders[: plan.calls // 2]]
    return _first_page, [(store,)] * 2


def _first_page(store: StateStorage) -> None:
    found = sum(1 for _ in itertools.islice(store.records(), FIRST_PAGE))
    if found != FIRST_PAGE:
        raise AssertionError(f"expected {FIRST_PAGE} records, got {found}")


def _slopes(rows: list[Row], plan: Plan) -> list[Row]:
    """Returns what each operation costs at the largest size ÷ at the smallest."""
    slopes = []
    small, large = plan.sizes[0], min(plan.sizes[-1], 10**6)
    key = ("group", "who", "role", "operation")
    ends = {(*(row[each] for each in key), row["size"]): row for row in rows}
    for *names, size in ends:
        if size == small:
            ratio = Ratio.of(ends[(*names, large)], ends[(*names, small)])
            about = dict(zip(key, names, strict=True))
            slopes.append({**about, "from": small, "to": large, **ratio._asdict()})
    return slopes
