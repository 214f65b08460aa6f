"""Fills stores as fast as their databases allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.floors import connect_mariadb
from benchmarks.operations import MODULE, sender
from salmon_state import open_storage
from salmon_state.entries import Kind, Write
from salmon_state.storage import StateStorage
from salmon_state.stores.encoding import encode_key, encode_state, name_digest, sender_digest
from salmon_state.stores.redis.entries import SENDER, Keys, encode_field, encode_sender
from salmon_state.stores.redis.entries import encode_value as encode_redis_value

THEN = 1_700_000_000_000_000
CHUNK = 100_000
PREFIX = "salmon_state"
"""That of `RedisStorage` by default."""


def grown(name: str, url: str, size: int) -> StateStorage:
    """Returns a store with so many conversations, filled as fast as its database allows."""
    store = open_storage(url)
    filler: Callable[..., None] = _FILLERS.get(name, _fill_by_itself)
    for first in range(0, size, CHUNK):
        filler(store, url, range(first, min(first + CHUNK, size)), size)
    if name == "postgresql":
        query_postgresql(url, "VACUUM ANALYZE salmon_state")
    return store


def _fill_by_itself(store: Any, url: str, numbers: range, size: int) -> None:
    store._commit(
        Write(Kind.STATE, sender(number), MODULE, "CONFIRMING", THEN) for number in numbers
    )


def _rows(numbers: range) -> Iterator[tuple[Any, ...]]:
    module = name_digest(MODULE)
    for number in numbers:
        who = sender(number)
        yield sender_digest(who), module, encode_key(MODULE, who), encode_state("CONFIRMING"), THEN


def connect_postgresql(url: str) -> Any:
    import psycopg

    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def query_postgresql(url: str, sql: str) -> Any:
    with connect_postgresql(url) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchone() if cursor.description else None


def _fill_postgresql(store: Any, url: str, numbers: range, size: int) -> None:
    with (
        connect_postgresql(url) as connection,
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
