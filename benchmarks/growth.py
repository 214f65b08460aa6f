"""Growth: what each operation costs at ten thousand, a hundred thousand and a million."""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.floors import connect_mariadb
from benchmarks.operations import MODULE
from benchmarks.places import Places, skipped_if_missing
from benchmarks.rounds import Plan, Ratio, Row, Samples, rotated, timed
from salmon_state import open_storage
from salmon_state.storage import Change, StateStorage
from salmon_state.stores.redis.entries import SENDER, Keys, encode_field, encode_sender
from salmon_state.stores.redis.entries import encode_value as encode_redis_value
from salmon_state.stores.sqlalchemy.schema import (
    encode_key,
    encode_state,
    module_digest,
    sender_digest,
)

NAMES = ("memory", "shelve", "sqlite", "postgresql", "mariadb", "redis")
OPERATIONS = ("get", "set", "records, first page", "set_all")
FIRST_PAGE = 100
"""How many records are read of a store."""
THEN = 1_700_000_000_000_000
CHUNK = 100_000
PREFIX = "salmon_state"
"""That of `RedisStorage` by default."""


def sender(number: int) -> str:
    return f"subscriber{number}@example.com"


def measure(places: Places, plan: Plan, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Returns a row for each store, size and operation, and the slope between the ends."""
    rows: list[Row] = []
    sizes: list[Row] = []
    for name in names:
        with skipped_if_missing(name):
            stores: dict[int, StateStorage] = {}
            for number, size in enumerate(plan.sizes):
                print(f"  growth: {name}, {size:,}", flush=True)
                # In Redis a database each: a scan goes over the keys of everybody in it.
                url = places.redis().url(db=number) if name == "redis" else places.url(name)
                stores[size] = _grown(name, url, size)
                sizes.append({"group": name, "size": size, **_weight(name, url, size)})
            rows += _measure_stores(name, stores, plan)
            for store in stores.values():
                store.close()
    return {"rows": rows, "sizes": sizes, "slopes": _slopes(rows, plan)}


def _grown(name: str, url: str, size: int) -> StateStorage:
    """Returns a store with so many conversations, filled as fast as its database allows."""
    store = open_storage(url)
    filler: Callable[..., None] = _FILLERS.get(name, _fill_by_itself)
    for first in range(0, size, CHUNK):
        filler(store, url, range(first, min(first + CHUNK, size)), size)
    if name == "postgresql":
        _postgresql(url, "VACUUM ANALYZE salmon_state")
    return store


def _fill_by_itself(store: Any, url: str, numbers: range, size: int) -> None:
    store._write(Change(MODULE, sender(number), "CONFIRMING", THEN) for number in numbers)


def _rows(numbers: range) -> Iterator[tuple[Any, ...]]:
    module = module_digest(MODULE)
    for number in numbers:
        who = sender(number)
        yield sender_digest(who), module, encode_key(MODULE, who), encode_state("CONFIRMING"), THEN


def _connect_postgresql(url: str) -> Any:
    import psycopg

    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def _postgresql(url: str, sql: str) -> Any:
    with _connect_postgresql(url) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchone() if cursor.description else None


def _fill_postgresql(store: Any, url: str, numbers: range, size: int) -> None:
    with (
        _connect_postgresql(url) as connection,
        connection.cursor().copy("COPY salmon_state FROM STDIN") as copy,
    ):
        for row in _rows(numbers):
            copy.write_row(row)


def _fill_mariadb(store: Any, url: str, numbers: range, size: int) -> None:
    connection = connect_mariadb(url)
    with connection.cursor() as cursor:
        # In the order of the primary key, as a million rows in no order take minutes.
        cursor.executemany(
            "INSERT INTO salmon_state VALUES (%s, %s, %s, %s, %s)", sorted(_rows(numbers))
        )
    connection.close()


def _fill_redis(store: Any, url: str, numbers: range, size: int) -> None:
    import redis

    keys = Keys(PREFIX)
    value = encode_redis_value("CONFIRMING", THEN)
    with redis.Redis.from_url(url).pipeline(transaction=False) as pipeline:
        for number in numbers:
            who = sender(number)
            entry: Any = {SENDER: encode_sender(who), encode_field(MODULE): value}
            pipeline.hset(keys.of(who), mapping=entry)
        pipeline.execute()


_FILLERS: dict[str, Callable[..., None]] = {
    "postgresql": _fill_postgresql,
    "mariadb": _fill_mariadb,
    "redis": _fill_redis,
}


def _measure_stores(name: str, stores: dict[int, StateStorage], plan: Plan) -> list[Row]:
    samples = Samples()
    for number in range(-1, plan.rounds):
        for turn in range(plan.turns if number >= 0 else 2):
            for operation in OPERATIONS:
                for size in rotated(list(stores), turn):
                    call, calls = _calls(stores[size], operation, size, plan, turn)
                    found = timed(call, calls, 20 if name == "memory" and len(calls) > 20 else 1)
                    if number >= 0:
                        samples.add((size, operation), number, found)
    return [
        {
            "group": name,
            "who": "salmon-state",
            "size": size,
            "operation": operation,
            **samples.row((size, operation)),
        }
        for size, operation in samples
    ]


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
    by_key = {(row["group"], row["operation"], row["size"]): row for row in rows}
    for group, operation, size in by_key:
        if size == small:
            ratio = Ratio.of(by_key[group, operation, large], by_key[group, operation, small])
            slopes.append(
                {"group": group, "operation": operation, "from": small, "to": large}
                | ratio._asdict()
            )
    return slopes


# ---------------------------------------------------------------- memory and disk


def _weight(name: str, url: str, size: int) -> Row:
    """Returns how much memory a process has that uses the store, and the bytes it takes."""
    command = [sys.executable, "-m", "benchmarks.growth_memory", url, str(size)]
    checkout = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": checkout}
    said = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=600
    ).stdout
    return {"process_mib": round(int(said) / 1024, 1), "bytes": _bytes(name, url, size)}


def _bytes(name: str, url: str, size: int) -> int | None:
    if name in ("sqlite", "shelve"):
        path = Path(url.partition("///")[2])
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    if name == "postgresql":
        return int(_postgresql(url, "SELECT pg_total_relation_size('salmon_state')")[0])
    if name == "mariadb":
        database = sa.make_url(url).database
        with connect_mariadb(url) as server, server.cursor() as cursor:
            cursor.execute(
                "SELECT file_size FROM information_schema.innodb_sys_tablespaces WHERE name = %s",
                (f"{database}/salmon_state",),
            )
            row = cursor.fetchone()
        return int(row[0]) if row else None
    if name == "redis":
        return _redis_bytes(url, size)
    return None


def _redis_bytes(url: str, size: int) -> int:
    """Returns the memory that Redis says its entries take, going by the first thousand."""
    import redis

    keys = Keys(PREFIX)
    client = redis.Redis.from_url(url)
    with client.pipeline(transaction=False) as pipeline:
        for number in range(1000):
            pipeline.memory_usage(keys.of(sender(number)))
        return int(sum(pipeline.execute()) * size // 1000)
