"""What ``get`` and ``set`` cost beside the bare redis-py commands, in one run.

Run as ``python -m benchmarks.redis_operations``; it starts a server of its own. Both sides talk to
the same server with the same settings of the client, in turns of a hundred calls, so that whatever
else the machine does hits both alike.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import redis

from salmon_state.stores.redis import RedisStorage
from tests.redis_services import SECRET, RedisServer

MODULE = "app.handlers"
SENDERS = [f"subscriber{number}@example.com" for number in range(100)]
ROUNDS = 200
MOST = 1.15


def main() -> int:
    server = RedisServer(appendonly="no")
    try:
        client = redis.Redis(host="127.0.0.1", port=server.port, password=SECRET)
        with RedisStorage(server.url()) as store, RedisStorage(client=client) as guest:
            return report(measure(cases(client, store, guest)))
    finally:
        server.remove()


def cases(
    client: Any, store: RedisStorage, guest: RedisStorage
) -> dict[tuple[str, str], Callable[[str], object]]:
    def bare_get(sender: str) -> object:
        return client.hget("bare:" + sender, MODULE)

    def bare_set(sender: str) -> object:
        return client.hset("bare:" + sender, MODULE, "1700000000000000 CONFIRMING")

    return {
        ("get", "redis-py"): bare_get,
        ("get", "RedisStorage(url)"): lambda sender: store.get(MODULE, sender),
        ("get", "RedisStorage(client=...)"): lambda sender: guest.get(MODULE, sender),
        ("set", "redis-py"): bare_set,
        ("set", "RedisStorage(url)"): lambda sender: store.set(MODULE, sender, "CONFIRMING"),
        ("set", "RedisStorage(client=...)"): lambda sender: guest.set(MODULE, sender, "CONFIRMING"),
    }


def measure(cases: dict[tuple[str, str], Callable[[str], object]]) -> dict[tuple[str, str], float]:
    """Returns the median of the seconds per call."""
    times: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for number in range(ROUNDS + 5):
        for case, call in cases.items():
            begin = time.perf_counter()
            for sender in SENDERS:
                call(sender)
            if number >= 5:
                times[case].append((time.perf_counter() - begin) / len(SENDERS))
    return {case: statistics.median(each) for case, each in times.items()}


def report(costs: dict[tuple[str, str], float]) -> int:
    worst = 0.0
    for (operation, who), seconds in costs.items():
        ratio = seconds / costs[operation, "redis-py"]
        worst = max(worst, ratio)
        print(f"{operation}  {who:<26} {seconds * 1e6:8.1f} µs  {ratio:5.2f} x")
    print(f"worst {worst:.2f} x, allowed {MOST:.2f} x")
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
