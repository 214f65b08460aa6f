"""What a database's driver does by itself, to be measured beside a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from salmon_state.options import path_of
from salmon_state.registry import resolve_url

__all__ = ["Calls", "bare_calls"]

_KEY = "salmon-state bench"

_TABLE = "salmon_state_bench"
_UPSERT = {
    "mysql": "ON DUPLICATE KEY UPDATE v = VALUES(v)",
    "mariadb": "ON DUPLICATE KEY UPDATE v = VALUES(v)",
}


class Calls(NamedTuple):
    """What is measured."""

    get: Callable[[], object]
    """Reads one entry."""
    set: Callable[[], object]
    """Writes one entry, durably."""
    mail: Callable[[], object]
    """Locks one entry, reads it, and writes it: what a mail costs."""


@contextmanager
def bare_calls(url: str) -> Iterator[Calls]:
    """Gives the calls of the driver for a store's URL, on an entry of its own beside the store's.

    In SQL that is a table, which is made for it and dropped; for SQLite and the shelf it is in a
    file of its own in the same directory.

    Raises:
        NotImplementedError: There is no driver to compare with, as for what other packages bring.
    """
    url = resolve_url(url)
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme in ("sqlite", "shelve"):
        path = Path(f"{path_of(url, ())}.bench")
        try:
            with _sql(f"sqlite:///{path}") as calls:
                yield calls
        finally:
            for suffix in ("", "-wal", "-shm", ".conversations"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    elif scheme in ("postgresql", "mysql", "mariadb"):
        with _sql(url) as calls:
            yield calls
    elif url.startswith(("redis://", "rediss://", "unix://")):
        with _redis(url) as calls:
            yield calls
    else:
        raise NotImplementedError(f"nothing to compare {scheme}:// with")


@contextmanager
def _sql(url: str) -> Iterator[Calls]:
    # Here, as everything in this module: only whoever has such a store has what it needs.
    from salmon_state.stores.sqlalchemy.opening import make_engine

    engine = make_engine(url, 30.0, 1, ())
    lent = engine.raw_connection()
    connection: Any = lent.driver_connection
    dialect = engine.dialect.name
    if dialect in _UPSERT:
        connection.autocommit(True)
    elif dialect == "postgresql":
        connection.autocommit = True
    cursor = connection.cursor()
    mark = "?" if dialect == "sqlite" else "%s"
    upsert = _UPSERT.get(dialect, "ON CONFLICT (k) DO UPDATE SET v = excluded.v")
    write = f"INSERT INTO {_TABLE} VALUES ({mark}, {mark}) {upsert}"  # noqa: S608
    read = f"SELECT v FROM {_TABLE} WHERE k = {mark}"  # noqa: S608
    begin = "BEGIN IMMEDIATE" if dialect == "sqlite" else "BEGIN"
    lock = read if dialect == "sqlite" else f"{read} FOR UPDATE"

    def get() -> None:
        cursor.execute(read, (_KEY,))
        cursor.fetchone()

    # Another one each time: what changes nothing is not written.
    values = map("S{}".format, count())

    def set_() -> None:
        cursor.execute(write, (_KEY, next(values)))

    def mail() -> None:
        cursor.execute(begin)
        cursor.execute(lock, (_KEY,))
        cursor.fetchone()
        cursor.execute(write, (_KEY, next(values)))
        cursor.execute("COMMIT")

    try:
        cursor.execute(f"CREATE TABLE {_TABLE} (k VARCHAR(100) PRIMARY KEY, v VARCHAR(100))")
        try:
            set_()
            yield Calls(get, set_, mail)
        finally:
            cursor.execute(f"DROP TABLE {_TABLE}")
    finally:
        lent.close()
        engine.dispose()


@contextmanager
def _redis(url: str) -> Iterator[Calls]:
    import redis

    lease = f"{_KEY}:lease"
    with redis.Redis.from_url(url) as client:

        def mail() -> None:
            client.set(lease, "token", nx=True, px=10_000)
            client.hget(_KEY, "field")
            pipe = client.pipeline()
            pipe.hset(_KEY, "field", "POSTING")
            pipe.delete(lease)
            pipe.execute()

        try:
            yield Calls(
                lambda: client.hget(_KEY, "field"),
                lambda: client.hset(_KEY, "field", "POSTING"),
                mail,
            )
        finally:
            client.delete(_KEY, lease)
