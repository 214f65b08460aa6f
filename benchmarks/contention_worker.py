"""One process of `contention`: ``python -m benchmarks.contention_worker KIND PLACE NUMBER``.

For each number of seconds that it reads it opens conversations as fast as it can, every second one
with the hot sender, and in each reads the state and sets the next one. The locks that ours are
compared with are only taken and given back: they keep no state.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from salmon_state import open_storage
from salmon_state.errors import ConversationBusy

MODULE = "app.handlers"
HOT = "hot@example.com"
COOL = 1000
TIMEOUT = 2.0

Enter = Callable[[str], AbstractContextManager[object]]


def _store(url: str) -> Enter:
    store = open_storage(url)

    @contextlib.contextmanager
    def enter(sender: str) -> Iterator[None]:
        with store.conversation(sender, timeout=TIMEOUT):
            yield
            state = store.get(MODULE, sender)
            store.set(MODULE, sender, "POSTING" if state == "CONFIRMING" else "CONFIRMING")

    return enter


def _diskcache(path: str) -> Enter:
    import diskcache

    cache = diskcache.Cache(path)
    return lambda sender: diskcache.RLock(cache, sender, expire=60)


def _redis(url: str) -> Enter:
    import redis

    client = redis.Redis.from_url(url)

    @contextlib.contextmanager
    def enter(sender: str) -> Iterator[None]:
        lock = client.lock(f"lock:{sender}", timeout=60, blocking_timeout=TIMEOUT)
        if not lock.acquire():
            raise ConversationBusy("redis-py's Lock")
        yield
        lock.release()

    return enter


def _postgresql(url: str) -> Enter:
    import psycopg

    connection: Any = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)

    @contextlib.contextmanager
    def enter(sender: str) -> Iterator[None]:
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (sender,))
        yield
        connection.execute("SELECT pg_advisory_unlock(hashtext(%s))", (sender,))

    return enter


def _mariadb(url: str) -> Enter:
    from benchmarks.floors import connect_mariadb

    connection = connect_mariadb(url)

    @contextlib.contextmanager
    def enter(sender: str) -> Iterator[None]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT GET_LOCK(%s, %s)", (sender, TIMEOUT))
            if cursor.fetchone() != (1,):
                raise ConversationBusy("GET_LOCK")
            yield
            cursor.execute("DO RELEASE_LOCK(%s)", (sender,))

    return enter


LOCKS: dict[str, Callable[[str], Enter]] = {
    "store": _store,
    "diskcache": _diskcache,
    "redis": _redis,
    "postgresql": _postgresql,
    "mariadb": _mariadb,
}


def contend(enter: Enter, seconds: float, chance: random.Random) -> dict[str, Any]:
    """Returns how long each conversation was waited for, and how often in vain."""
    waited: dict[str, list[float]] = {"hot": [], "cool": []}
    busy = 0
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        kind = chance.choice(("hot", "cool"))
        sender = HOT if kind == "hot" else f"cool{chance.randrange(COOL)}@example.com"
        try:
            with enter(sender):
                waited[kind].append(time.perf_counter() - began)
        except ConversationBusy:
            busy += 1
    return {**waited, "busy": busy}


def main(kind: str, place: str, number: str) -> None:
    logging.getLogger("salmon_state").setLevel(logging.CRITICAL)
    enter = LOCKS[kind](place)
    with enter(f"warm{number}@example.com"):
        pass
    print("ready", flush=True)
    chance = random.Random(int(number))
    for line in sys.stdin:
        print(json.dumps(contend(enter, float(line), chance)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
