"""What one ``get`` costs as a shelf grows: ours against Salmon's own, in one run.

Run as ``python -m benchmarks.shelve_growth``. Salmon's uses dbm.dumb, as on the many Pythons that
have neither gdbm nor ndbm.
"""

from __future__ import annotations

import dbm
import dbm.dumb
import random
import shelve
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from salmon.routing import ShelveStorage as SalmonShelveStorage

from salmon_state.entries import Kind, Write
from salmon_state.stores.shelf import ShelveStorage

MODULE = "app.handlers"
SIZES = (100, 1_000, 100_000)
SALMON_SIZES = (100, 1_000)
ROUNDS = 15
MOST_GROWTH = 1.5
LEAST_GAIN = 20.0

Get = Callable[[str, str], str]


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        dbm.open(f"{directory}/any", "n").close()  # makes dbm look for its flavours ...
        dbm._defaultmod = dbm.dumb  # type: ignore[attr-defined]  # ... of which it takes this one
        cases: dict[tuple[str, int], Get] = {}
        stores = []
        for size in SIZES:
            store = our_shelf(Path(directory, f"ours{size}"), size)
            stores.append(store)
            cases["salmon-state", size] = store.get
        for size in SALMON_SIZES:
            cases["Salmon", size] = salmon_shelf(Path(directory, f"salmon{size}"), size)
        costs = measure(cases)
        for store in stores:
            store.close()
    return report(costs)


def our_shelf(path: Path, size: int) -> ShelveStorage:
    store = ShelveStorage(path)
    store._commit(
        Write(Kind.STATE, sender(number), MODULE, "CONFIRMING", number) for number in range(size)
    )
    return store


def salmon_shelf(path: Path, size: int) -> Get:
    file: Any = dbm.dumb.open(str(path), "c")  # noqa: SIM115 - the shelf closes it
    with closing(shelve.Shelf[str](file)) as shelf:
        for number in range(size):
            shelf[repr([MODULE.encode("ascii"), sender(number)])] = "CONFIRMING"
    get: Get = SalmonShelveStorage(str(path)).get
    return get


def sender(number: int) -> str:
    return f"subscriber{number}@example.com"


def measure(cases: dict[tuple[str, int], Get]) -> dict[tuple[str, int], float]:
    """Returns microseconds a get: the median of rounds in which every case has its turn."""
    times: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(ROUNDS):
        for (name, size), get in cases.items():
            senders = [
                sender(random.randrange(size)) for _ in range(5 if name == "Salmon" else 1000)
            ]
            start = time.perf_counter()
            for one in senders:
                found = get(MODULE, one)
                assert found == "CONFIRMING", found
            times[name, size].append((time.perf_counter() - start) / len(senders) * 1e6)
    return {case: statistics.median(values) for case, values in times.items()}


def report(costs: dict[tuple[str, int], float]) -> int:
    print(f"one get, Python {sys.version.split()[0]}, median of {ROUNDS} rounds")
    for (name, size), cost in costs.items():
        print(f"  {name:12}  {size:7,} senders  {cost:10.1f} µs")
    growth = costs["salmon-state", SIZES[-1]] / costs["salmon-state", SIZES[0]]
    gain = costs["Salmon", 1_000] / costs["salmon-state", 1_000]
    print(f"  ours at 100,000 / ours at 100:   {growth:8.2f}  (at most {MOST_GROWTH})")
    print(f"  Salmon's / ours at 1,000:        {gain:8.0f}  (at least {LEAST_GAIN:.0f})")
    return 0 if growth <= MOST_GROWTH and gain >= LEAST_GAIN else 1


if __name__ == "__main__":
    sys.exit(main())
