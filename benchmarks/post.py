"""A post on the running example, by SMTP: what somebody else's mail takes before and meanwhile.

``python -m benchmarks.post [SUBSCRIBERS]`` measures it alone.
"""

from __future__ import annotations

import smtplib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.outbox import alone, one_by_one, sink
from benchmarks.places import Places, skipped_if_missing
from benchmarks.rounds import Plan, percentile
from salmon_state import open_storage
from tests.end_to_end.conftest import KEY
from tests.end_to_end.mail_server import MailServer

NAMES = ("sqlite", "postgresql")
SUBSCRIBERS = 10_000
IDLE = 100
"""Mails of others before each post: about as many as there are meanwhile."""
AUTHOR = "0@example.com"
POST = b"From: 0@example.com\r\nSubject: %d\r\n\r\n" + b"A line, as there are in mails.\r\n" * 40


@contextmanager
def serving(places: Places, url: str, relay: int) -> Iterator[MailServer]:
    """Runs the example, with its dispatcher in a process of its own, as ``make run`` does."""
    directory = places.path("example")
    for name in ("run", "logs"):
        (directory / name).mkdir(parents=True)
    server = MailServer(directory, state_url=url, RELAY=f"127.0.0.1:{relay}", DISPATCHER="process")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def others(client: smtplib.SMTP, to: str, is_over: Callable[[int], bool]) -> list[float]:
    """Returns what each mail took of strangers who want to subscribe, in seconds."""

    def subscribe(_: int) -> None:
        client.sendmail(f"{time.time_ns()}@example.org", [to], b"Subject: hello\r\n\r\n")

    return one_by_one(subscribe, is_over, 0.01)


def post(server: MailServer, subscribers: int, taken: Any) -> dict[str, Any]:
    """Returns the figures of one post."""
    to = server.address("news-subscribe")
    with server.connection() as other, server.connection() as author:
        time.sleep(1.0)  # what was before is over
        idle = others(other, to, lambda done: done >= IDLE)
        time.sleep(1.0)
        before, began = taken.value, time.perf_counter()
        author.sendmail(AUTHOR, [server.address("news")], POST % time.time_ns())
        answered = time.perf_counter() - began
        busy = others(other, to, lambda _: taken.value - before >= subscribers - 1)
    rate = subscribers / (time.perf_counter() - began)
    return {"answered": answered, "rate": rate, "idle": idle, "busy": busy}


def measure(
    places: Places, plan: Plan, names: tuple[str, ...] = NAMES, count: int = SUBSCRIBERS
) -> dict[str, Any]:
    """Returns a row for each store."""
    rows = []
    for name in names:
        print(f"  post: {name}", flush=True)
        with skipped_if_missing(name), sink() as (port, taken):
            url = places.url(name)
            with open_storage(url) as store, store.conversation("nobody@example.com"):
                for number in range(count):
                    store.set(KEY, f"{number}@example.com", "POSTING")
            with serving(places, url, port) as server:
                found = [post(server, count, taken) for _ in range(plan.rounds)]
            rows.append(_row(name, count, found))
    return {"rows": rows}


def _row(name: str, count: int, found: list[dict[str, Any]]) -> dict[str, Any]:
    took = {when: sorted(t for one in found for t in one[when]) for when in ("idle", "busy")}
    return {
        "group": name,
        "recipients": count,
        "answered_ms": max(one["answered"] for one in found) * 1000,
        "per_second": sum(one["rate"] for one in found) / len(found),
        "others": len(took["busy"]),
        "p50_ms": {when: percentile(times, 0.5) * 1000 for when, times in took.items()},
        "p99_ms": {when: percentile(times, 0.99) * 1000 for when, times in took.items()},
    }


if __name__ == "__main__":
    alone(measure, SUBSCRIBERS)
