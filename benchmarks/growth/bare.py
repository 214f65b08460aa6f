"""The bare call of a driver that finds a state in a store of ours.

How much it grows with the store is the database's own doing, and that of the processor's caches.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.floors import connect_mariadb, connect_sqlite
from benchmarks.growth.fill import PREFIX, connect_postgresql
from benchmarks.operations import MODULE, sender
from salmon_state.keys import ascii_key
from salmon_state.stores.encoding import name_digest, sender_digest
from salmon_state.stores.redis.entries import Keys, encode_field


class Bare(NamedTuple):
    """Who is called, and how."""

    who: str
    get: Callable[..., Any]
    arguments: Callable[[str], tuple[Any, ...]]
    """Makes what `get` takes; that is not measured."""
    close: Callable[[], None] = lambda: None


def _dict(url: str, size: int) -> Bare:
    states = {(MODULE, sender(number)): "CONFIRMING" for number in range(size)}
    return Bare("dict", states.__getitem__, lambda who: ((MODULE, who),))


def _digests(who: str) -> tuple[Any, ...]:
    return ((sender_digest(who), name_digest(MODULE)),)


def _sqlite3(sql: str, arguments: Callable[[str], tuple[Any, ...]]) -> Callable[..., Bare]:
    def bare(url: str, size: int) -> Bare:
        connection = connect_sqlite(Path(url.partition("///")[2]))

        def get(parameters: tuple[Any, ...]) -> Any:
            (state,) = connection.execute(sql, parameters).fetchone()
            return state

        return Bare("sqlite3", get, arguments, connection.close)

    return bare


def _psycopg(url: str, size: int) -> Bare:
    connection = connect_postgresql(url)

    def get(parameters: tuple[Any, ...]) -> Any:
        (state,) = connection.execute(_SELECT % ("%s", "%s"), parameters).fetchone()
        return state

    return Bare("psycopg", get, _digests, connection.close)


def _pymysql(url: str, size: int) -> Bare:
    connection = connect_mariadb(url)

    def get(parameters: tuple[Any, ...]) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(_SELECT % ("%s", "%s"), parameters)
            (state,) = cursor.fetchone()
        return state

    return Bare("PyMySQL", get, _digests, connection.close)


def _redis_py(url: str, size: int) -> Bare:
    import redis

    client: Any = redis.Redis.from_url(url)
    keys, field = Keys(PREFIX), encode_field(MODULE)
    return Bare("redis-py", client.hget, lambda who: (keys.of(who), field), client.close)


_SELECT = "SELECT state FROM salmon_state WHERE sender_digest = %s AND module_digest = %s"
BARE: dict[str, Callable[[str, int], Bare]] = {
    "memory": _dict,
    "shelve": _sqlite3(
        "SELECT value FROM Dict WHERE key = ?", lambda who: ((ascii_key(MODULE, who).encode(),),)
    ),
    "sqlite": _sqlite3(_SELECT % ("?", "?"), _digests),
    "postgresql": _psycopg,
    "mariadb": _pymysql,
    "redis": _redis_py,
}
