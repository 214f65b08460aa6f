"""The server: mails per second through ``salmon start``, over real SMTP connections."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.places import Places, skipped_if_missing
from benchmarks.rounds import FLOOR, OURS, PEER, Plan, Row, Samples, compare, rotated
from benchmarks.smtp_load import send_all
from tests.services import free_port

CHECKOUT = Path(__file__).parents[1]
SALMON = str(Path(sys.executable).with_name("salmon"))
NAMES = ("memory", "shelve", "sqlite", "postgresql", "mariadb", "redis")
WAYS = ((1, True), (4, True), (16, True), (1, False), (4, False))
"""How many clients, and whether each keeps its connection for all its mails.

Sixteen that connect for each mail are more than Salmon listens for: it asks for a backlog of five.
"""
PROCESSES = (1, 2, 4)
SENDERS = 400
"""How many senders take turns: each walks through eight states again and again."""


class Served(NamedTuple):
    """A server and what it is called in the tables."""

    group: str
    who: str
    role: str
    durability: str
    ports: tuple[int, ...]


class Servers:
    """Starts servers and ends them."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()

    def start(self, url: str, *, attached: bool) -> int:
        """Starts one and returns its port, on which it already listens."""
        port = free_port()
        directory = self._places.path("server")
        (directory / "run").mkdir(parents=True)
        (directory / "logs").mkdir()
        environment = {
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "SALMON_SETTINGS_MODULE": "benchmarks.application.settings",
            "BENCH_STATE_URL": url,
            "BENCH_ATTACHED": "yes" if attached else "no",
            "BENCH_PORT": str(port),
        }
        command = [SALMON, "start", "--no-daemon", "--boot", "benchmarks.application.boot"]
        with open(directory / "output", "wb") as output:
            process = subprocess.Popen(
                command, cwd=directory, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        self._running.append(process)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                return port
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((directory / "output").read_text()[-2000:])
            time.sleep(0.05)


def _served(places: Places, servers: Servers) -> Iterator[Served]:
    def served(name: str, who: str, role: str, url: str, *, attached: bool) -> Served:
        kinds = {"memory": "memory", "redis": "fsync each second"}
        port = servers.start(url, attached=attached)
        return Served(name, who, role, kinds.get(name, "fsync"), (port,))

    yield served("memory", "Salmon's MemoryStorage", FLOOR, "salmon:", attached=False)
    yield served("memory", "salmon-state", OURS, "memory://", attached=False)
    for name in NAMES:
        with skipped_if_missing(name):
            url = places.url(name)
            yield served(name, "salmon-state, attach", OURS, url, attached=True)
            if name != "memory":
                floor = f"floor:{places.url(name)}"
                yield served(name, "one read, one write", FLOOR, floor, attached=False)
            if name in ("sqlite", "postgresql", "mariadb"):
                naive = f"orm:{places.url(name)}"
                yield served(name, "SQLAlchemy ORM, naive", PEER, naive, attached=False)


def measure(places: Places, plan: Plan) -> dict[str, Any]:
    """Returns the rows; times are for one mail, so that ratios mean what they mean elsewhere."""
    with Servers(places) as servers:
        found = list(_served(places, servers))
        rows = _measure_clients(found, plan)
    for row in rows:
        row["share_of_memory"] = _share(rows, row)
    several = _measure_processes(places, plan)
    return {
        "rows": rows,
        "processes": several,
        "comparisons": compare(rows, ("group", "clients", "connection")),
    }


def _senders(turn: int, count: int) -> list[str]:
    return [f"s{(turn * count + number) % SENDERS}@example.com" for number in range(count)]


def _measure_clients(found: list[Served], plan: Plan) -> list[Row]:
    samples = Samples()
    refused: dict[Any, int] = {}
    for number in range(-1, plan.rounds):
        print(f"  server: round {number + 1} of {plan.rounds}", flush=True)
        for (clients, kept), served in itertools.product(WAYS, rotated(found, number)):
            senders = _senders(number + 1, plan.mails)
            seconds, again = send_all(served.ports, clients, senders, kept=kept)
            key = served, clients, kept
            refused[key] = refused.get(key, 0) + again
            if number >= 0:
                samples.add(key, number, [seconds / plan.mails])
    return [
        {
            **{name: getattr(served, name) for name in ("group", "who", "role", "durability")},
            "clients": clients,
            "connection": "kept" if kept else "one a mail",
            "refused": refused[served, clients, kept],
            **samples.row((served, clients, kept)),
        }
        for served, clients, kept in samples
    ]


def _share(rows: list[Row], row: Row) -> float:
    """Returns the mails per second as a share of those on our memory store without attach."""
    ceiling = next(
        each
        for each in rows
        if (each["who"], each["group"]) == ("salmon-state", "memory")
        and all(each[name] == row[name] for name in ("clients", "connection"))
    )
    return float(ceiling["p50"] / row["p50"])


def _measure_processes(places: Places, plan: Plan) -> list[Row]:
    """Returns mails per second of 1, 2 and 4 servers on one database, with 16 clients."""
    rows: list[Row] = []
    for name in NAMES[1:]:
        print(f"  server processes: {name}", flush=True)
        with skipped_if_missing(name), Servers(places) as servers:
            url = places.url(name)
            ports = [servers.start(url, attached=True) for _ in range(max(PROCESSES))]
            samples = Samples()
            refused = dict.fromkeys(PROCESSES, 0)
            for number in range(-1, plan.rounds):
                for count in rotated(PROCESSES, number):
                    senders = _senders(number + 1, plan.mails)
                    seconds, again = send_all(ports[:count], 16, senders, kept=True)
                    refused[count] += again
                    if number >= 0:
                        samples.add(count, number, [seconds / plan.mails])
            for count in PROCESSES:
                row = {"group": name, "processes": count, "refused": refused[count]}
                rows.append({**row, **samples.row(count)})
    return rows
