"""Contention: one sender who writes all the time and a thousand who write now and then."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.places import Places, skipped_if_missing
from benchmarks.rounds import FLOOR, OURS, PEER, Plan, Row, percentile, rotated

NAMES = ("shelve", "sqlite", "postgresql", "mariadb", "redis")
PROCESSES = (1, 2, 4, 8)
ROUNDS = 3
PATIENCE = 60.0


def measure(places: Places, plan: Plan) -> dict[str, Any]:
    """Returns a row for each lock and number of processes."""
    results: dict[tuple[Any, ...], list[list[Row]]] = {}
    for name in NAMES:
        print(f"  contention: {name}", flush=True)
        with skipped_if_missing(name):
            ways = [(who, role, Workers(kind, at)) for who, role, kind, at in _ways(places, name)]
            try:
                for number in range(1 if plan.quick else ROUNDS):
                    for processes in PROCESSES:
                        for who, role, workers in rotated(ways, number):
                            found = results.setdefault((name, who, role, processes), [])
                            found.append(workers.contend(processes, plan.seconds))
            finally:
                for _, _, workers in ways:
                    workers.end()
    return {"rows": [_row(key, rounds) for key, rounds in results.items()]}


def _ways(places: Places, name: str) -> Iterator[tuple[str, str, str, str]]:
    """Yields who, its role, what kind of lock, and where."""
    yield "salmon-state", OURS, "store", places.url(name)
    if name == "sqlite":
        yield "DiskCache's RLock", PEER, "diskcache", str(places.path("diskcache"))
    if name == "postgresql":
        yield "pg_advisory_lock", FLOOR, "postgresql", places.url(name)
    if name == "mariadb":
        yield "GET_LOCK", FLOOR, "mariadb", places.url(name)
    if name == "redis":
        yield "redis-py's Lock", PEER, "redis", places.redis().url()


class Workers:
    """Processes that contend when they are told to; all are started at once, and wait."""

    def __init__(self, kind: str, place: str) -> None:
        checkout = str(Path(__file__).parents[1])
        self._running = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.contention_worker", kind, place, str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": checkout},
                text=True,
                bufsize=1,
            )
            for number in range(max(PROCESSES))
        ]
        for process in self._running:
            _answer(process, PATIENCE)

    def contend(self, processes: int, seconds: float) -> list[Row]:
        """Lets some of them contend for some time; returns what each experienced."""
        chosen = self._running[:processes]
        for process in chosen:
            assert process.stdin is not None
            process.stdin.write(f"{seconds}\n")
        return [json.loads(_answer(process, seconds + PATIENCE)) for process in chosen]

    def end(self) -> None:
        """Ends them all."""
        for process in self._running:
            process.kill()
            process.communicate()


def _answer(process: subprocess.Popen[str], timeout: float) -> str:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(timeout):
            raise RuntimeError("a process did not answer")
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a process ended too early")
    return line


def _row(key: tuple[Any, ...], rounds: list[list[Row]]) -> Row:
    name, who, role, processes = key
    everybody = [one for experienced in rounds for one in experienced]
    hot = sorted(each for one in everybody for each in one["hot"])
    cool = sorted(each for one in everybody for each in one["cool"])
    return {
        "group": name,
        "who": who,
        "role": role,
        "processes": processes,
        "hot_p50": percentile(hot, 0.5) * 1e6,
        "hot_p99": percentile(hot, 0.99) * 1e6,
        "hot_max": hot[-1] * 1e6,
        "cool_p50": percentile(cool, 0.5) * 1e6,
        "cool_p99": percentile(cool, 0.99) * 1e6,
        "won": len(hot) + len(cool),
        "fairness": [_fairness(experienced) for experienced in rounds],
        "busy": sum(one["busy"] for one in everybody),
    }


def _fairness(experienced: list[Row]) -> float:
    """Returns how often the unluckiest process won the hot sender ÷ the luckiest."""
    won = [len(one["hot"]) for one in experienced]
    return min(won) / max(won) if max(won) else 0.0
