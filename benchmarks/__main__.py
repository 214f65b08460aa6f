"""``python -m benchmarks``: measures, and writes the figures, the tables and the charts."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    contention,
    conversation,
    machine,
    mail,
    operations,
    outbox,
    post,
    receiving,
    server,
)
from benchmarks.growth.filters import measure as measure_filters
from benchmarks.growth.measure import measure as measure_growth
from benchmarks.places import Places
from benchmarks.report import write_report
from benchmarks.rounds import Plan

CHECKOUT = Path(__file__).parents[1]
MEASUREMENTS: dict[str, Callable[[Places, Plan], dict[str, Any]]] = {
    "operations": operations.measure,
    "conversation": conversation.measure,
    "mail": mail.measure,
    "outbox": outbox.measure,
    "post": post.measure,
    "server": server.measure,
    "receiving": receiving.measure,
    "contention": contention.measure,
    "growth": measure_growth,
    "filters": measure_filters,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything: 3 minutes")
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="may be repeated")
    parser.add_argument("--size", type=int, default=10**6, help="the largest to grow to: 10000000")
    parser.add_argument("--report", action="store_true", help="only write the report anew")
    options = parser.parse_args(arguments)
    # A short run is a look; it does not take the place of the figures that are kept.
    results = CHECKOUT / ("build/benchmarks" if options.quick else "benchmarks/results")
    results.mkdir(parents=True, exist_ok=True)
    if not options.report:
        plan = Plan.short() if options.quick else Plan.full(largest=options.size)
        _measure(plan, options.only or list(MEASUREMENTS), results)
    write_report(results, None if options.quick else CHECKOUT / "docs/performance.md")
    print(f"wrote {results / 'performance.md'}")
    return 0


def _measure(plan: Plan, names: list[str], results: Path) -> None:
    with Places() as places:
        for name in names:
            described = machine.describe(places.directory)
            began = time.monotonic()
            print(f"{name} ...", flush=True)
            found = MEASUREMENTS[name](places, plan)
            seconds = round(time.monotonic() - began)
            described["load_average_at_end"] = round(os.getloadavg()[0], 2)
            document = {"plan": plan._asdict(), "machine": described, "seconds": seconds, **found}
            save(results / f"{name}.json", document)
            print(f"{name}: {seconds} s", flush=True)


def save(path: Path, document: dict[str, Any]) -> None:
    """Writes what one measurement found."""
    path.write_text(json.dumps(_rounded(document), indent=1, ensure_ascii=False) + "\n")


def _rounded(value: Any) -> Any:
    """Returns figures with four digits, which is more than any of them is good for."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
