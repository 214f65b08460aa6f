"""Mails by SMTP: our receiver beside Salmon's, with the same store and handlers, in turns.

``python -m benchmarks.receiving`` measures it alone.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP

from benchmarks.places import Places, skipped_if_missing
from benchmarks.rounds import Plan, Ratio, percentile, rotated
from benchmarks.smtp_load import send_all
from salmon_state.mail.receivers.limits import Limits
from salmon_state.mail.receivers.service import Service
from salmon_state.mail.receivers.session import SMTPClient

CHECKOUT = Path(__file__).parents[1]
NAMES = ("memory", "sqlite", "postgresql")
CLIENTS = 16
AT_ONCE = 500
LONG = 8
"""How many times as many mails as elsewhere: two processes need some to find their pace."""

RUN = """\
import sys
from salmon.routing import Router
from salmon import server
from salmon_state import attach, open_storage
from salmon_state.mail import receivers

url, kind, handlers = sys.argv[1:]
Router.STATE_STORE = open_storage(url)
attach(Router)
Router.load([handlers])
if kind == "salmon":
    receiver = server.SMTPReceiver("127.0.0.1", 0)
    port = receiver.socket.getsockname()[1]
else:
    receiver = receivers.SMTPReceiver("127.0.0.1", 0, processes=int(kind))
    port = receiver.address[1]
receiver.start()
print(port, flush=True)
"""


@contextmanager
def serving(url: str, kind: str, waits: str = "") -> Iterator[tuple[int, int]]:
    """Runs a server; gives its port and its process id.

    Args:
        url: Where its states are.
        kind: ``salmon``, or the number of processes of ours.
        waits: What its handler waits for; ``""`` is one that only changes the state.
    """
    handlers = "benchmarks.handlers.waiting" if waits else "benchmarks.handlers.eight"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "BENCH_WAITS": waits}
    command = [sys.executable, "-c", RUN, url, kind, handlers]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.kill()


def _senders(count: int, turn: int = 0) -> list[str]:
    return [f"s{(turn * count + number) % 400}@example.com" for number in range(count)]


def rates(urls: dict[str, str], mails: int, rounds: int, waits: str = "") -> dict[str, list[float]]:
    """Returns the mails a second of each kind of server, by round, and the clients' share.

    The share is how much of one processor the client took while it measured the last kind.
    """
    found: dict[str, list[float]] = {kind: [] for kind in urls}
    for number in range(-1, rounds):
        for kind in rotated(tuple(urls), number):
            with serving(urls[kind], kind, waits) as (port, _):
                send_all([port], CLIENTS, _senders(100), kept=True)  # to warm up
                began = time.process_time()
                seconds, refused = send_all([port], CLIENTS, _senders(mails, 1), kept=True)
                if refused:
                    raise RuntimeError(f"{refused} mails were refused")
                if number >= 0:
                    found[kind].append(mails / seconds)
                    share = (time.process_time() - began) / seconds
                    found.setdefault(f"{kind} client", []).append(share)
    return found


async def _talk(port: int, senders: Iterator[str], took: dict[str, list[float]]) -> float:
    """Sends one mail after the other over a connection; returns when it was greeted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def say(line: str) -> None:
        writer.write(line.encode())
        await reader.readline()

    await reader.readline()
    greeted = time.perf_counter()
    await say("HELO x\r\n")
    for sender in senders:
        began = time.perf_counter()
        await say(f"MAIL FROM:<{sender}>\r\n")
        await say("RCPT TO:<eight@example.com>\r\n")
        await say("DATA\r\n")
        writer.write(b"Subject: hi\r\n\r\nhello\r\n.\r\n")
        if not (answer := await reader.readline()).startswith(b"250"):
            raise RuntimeError(f"a mail was answered {answer!r}")
        took.setdefault(sender, []).append(time.perf_counter() - began)
    writer.close()
    return greeted


async def _talk_all(port: int, clients: int, senders: list[str]) -> tuple[float, dict[str, Any]]:
    began, took = time.perf_counter(), dict[str, list[float]]()
    left = iter(senders)
    mine = [iter(senders[n::clients]) if clients > CLIENTS else left for n in range(clients)]
    greeted = await asyncio.gather(*(_talk(port, each, took) for each in mine))
    return max(greeted) - began, took


def others_p99(url: str, waits: str, mails: int) -> float:
    """Returns the 99th percentile of what a mail takes of those whose handler does not wait."""
    with serving(url, "1", waits) as (port, _):
        asyncio.run(_talk_all(port, CLIENTS, _senders(200)))
        _, took = asyncio.run(_talk_all(port, CLIENTS, _senders(mails, 1)))
    times = [
        each for who, all_ in took.items() if int(who[1:].partition("@")[0]) % 10 for each in all_
    ]
    return percentile(sorted(times), 0.99) * 1000


def greeted_after(url: str, clients: int) -> float:
    """Returns the seconds after which all clients were greeted; each sends a mail afterwards."""
    with serving(url, "1") as (port, _):
        greeted, took = asyncio.run(_talk_all(port, clients, _senders(clients)))
    assert sum(map(len, took.values())) == clients
    return greeted


async def _make_clients(count: int) -> dict[str, float]:
    """Returns the microseconds that it takes to make what speaks with a client."""
    loop = asyncio.get_running_loop()
    service = Service(
        SMTPClient,
        limits=Limits(),
        workers=1,
        hostname="bench",
        tls=None,
        check_recipients=True,
        proxy_protocol=False,
    )
    service.loop = loop
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: SMTPClient(service),
        "aiosmtpd": lambda: SMTP(None, hostname="bench", loop=loop),
    }
    took: dict[str, list[float]] = {who: [] for who in ways}
    for number in range(count):
        for who in rotated(tuple(ways), number):
            began = time.perf_counter()
            ways[who]()
            took[who].append(time.perf_counter() - began)
    return {who: statistics.median(each) * 1e6 for who, each in took.items()}


def measure(places: Places, plan: Plan, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Returns the rates, and what clients wait for."""
    rows = []
    for name in names:
        print(f"  receiving: {name}", flush=True)
        with skipped_if_missing(name):
            kinds = ("salmon", "1") if name == "memory" else ("salmon", "1", "2")
            urls = {kind: places.url(name) for kind in kinds}
            found = rates(urls, plan.mails * LONG, plan.rounds)
            rows += [_row(name, "changes a state", kind, found) for kind in kinds]
    waiting = {kind: places.url("memory") for kind in ("salmon", "1")}
    found = rates(waiting, max(plan.mails // 5, CLIENTS), plan.rounds, "each")
    rows += [_row("memory", "waits 20 ms", kind, found) for kind in waiting]
    p99 = {
        waits: statistics.median(
            others_p99(places.url("memory"), waits, plan.mails) for _ in range(plan.rounds)
        )
        for waits in ("none", "tenth")
    }
    greeted = max(greeted_after(places.url("memory"), AT_ONCE) for _ in range(plan.rounds))
    made = asyncio.run(_make_clients(1000))
    return {
        "rows": rows,
        "p99_ms": p99,
        "at_once": AT_ONCE,
        "greeted_seconds": greeted,
        "client_us": made,
    }


def _row(group: str, handler: str, kind: str, found: dict[str, list[float]]) -> dict[str, Any]:
    def ratio(to: str) -> dict[str, float] | None:
        if kind == to or to not in found:
            return None
        each = [ours / theirs for ours, theirs in zip(found[kind], found[to], strict=True)]
        return Ratio(statistics.median(each), min(each), max(each))._asdict()

    return {
        "group": group,
        "handler": handler,
        "kind": kind,
        "per_second": statistics.median(found[kind]),
        "client_share": statistics.median(found[f"{kind} client"]),
        "to_salmon": ratio("salmon"),
        "to_one": ratio("1") if kind == "2" else None,
    }


def main() -> None:
    """Prints what was measured."""
    with Places() as places:
        found = measure(places, Plan.short())
    for row in found.pop("rows"):
        print(row)
    print(found)


if __name__ == "__main__":
    main()
