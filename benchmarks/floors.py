"""The floors: one statement of the driver, and no more around it than its documentation shows.

A floor keeps what ours keeps, at the same durability: module, sender, state and time, found by
module and sender. It does not check, escape, retry, lock or lend anything.
"""

# mypy: disable-error-code="import-not-found, import-untyped, no-any-return"

from __future__ import annotations

import pickle
import sqlite3
import time
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import redis as redis_py
import sqlalchemy as sa
from salmon.routing import ROUTE_FIRST_STATE as START

Pairs = list[tuple[str, str, str]]


def _now() -> int:
    return time.time_ns() // 1000


class Dict:
    """A dict by module and sender."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], str] = {}

    def get(self, module: str, sender: str) -> str:
        return self._states.get((module, sender), START)

    def set(self, module: str, sender: str, state: str) -> None:
        if state == START:
            self._states.pop((module, sender), None)
        else:
            self._states[module, sender] = state


def connect_sqlite(path: Path) -> sqlite3.Connection:
    """Connects as ours does: every commit reaches the disk before it returns."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


class OneReadOneWrite:
    """What a mail costs at least that changes a durable state: one read and one write.

    Salmon's router asks for the state of each candidate; those questions are answered from memory.

    Args:
        floor: The floor that reads and writes.
    """

    def __init__(self, floor: Any) -> None:
        self._floor = floor
        self._known = Dict()
        self.get = self._known.get

    def set(self, module: str, sender: str, state: str) -> None:
        self._write(module, sender, state)
        self._known.set(module, sender, state)

    def _write(self, module: str, sender: str, state: str) -> None:
        self._floor.get(module, sender)
        self._floor.set(module, sender, state)


class Shelf:
    """The table of ``dbm.sqlite3`` with a pickled state and time in it."""

    def __init__(self, path: Path) -> None:
        self._connection = connect_sqlite(path)
        self._connection.execute(
            "CREATE TABLE Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)"
        )

    def get(self, module: str, sender: str) -> str:
        key = repr([module, sender]).encode()
        row = self._connection.execute("SELECT value FROM Dict WHERE key = ?", (key,)).fetchone()
        return START if row is None else pickle.loads(row[0]).partition(" ")[2]

    def set(self, module: str, sender: str, state: str) -> None:
        key = repr([module, sender]).encode()
        if state == START:
            self._connection.execute("DELETE FROM Dict WHERE key = ?", (key,))
            return
        value = pickle.dumps(f"{_now()} {state}")
        self._connection.execute("REPLACE INTO Dict VALUES (?, ?)", (key, value))

    def fill(self, pairs: Pairs) -> None:
        self._connection.execute("BEGIN")
        for pair in pairs:
            self.set(*pair)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


class SQLite:
    """One statement of ``sqlite3``."""

    def __init__(self, path: Path) -> None:
        self._connection = connect_sqlite(path)
        self._connection.execute(
            "CREATE TABLE states (sender TEXT, module TEXT, state TEXT NOT NULL, "
            "updated_at INTEGER, PRIMARY KEY (sender, module)) WITHOUT ROWID"
        )

    def get(self, module: str, sender: str) -> str:
        row = self._connection.execute(
            "SELECT state FROM states WHERE sender = ? AND module = ?", (sender, module)
        ).fetchone()
        return START if row is None else row[0]

    def set(self, module: str, sender: str, state: str) -> None:
        if state == START:
            self._connection.execute(
                "DELETE FROM states WHERE sender = ? AND module = ?", (sender, module)
            )
            return
        self._connection.execute(
            "INSERT INTO states VALUES (?, ?, ?, ?) ON CONFLICT (sender, module) "
            "DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at",
            (sender, module, state, _now()),
        )

    def fill(self, pairs: Pairs) -> None:
        self._connection.execute("BEGIN")
        for pair in pairs:
            self.set(*pair)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


class PostgreSQL:
    """One statement of psycopg, which prepares it by itself."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        self._connection.execute(
            "CREATE TABLE states (sender text, module text, state text NOT NULL, "
            "updated_at bigint, PRIMARY KEY (sender, module))"
        )

    def get(self, module: str, sender: str) -> str:
        row = self._connection.execute(
            "SELECT state FROM states WHERE sender = %s AND module = %s", (sender, module)
        ).fetchone()
        return START if row is None else row[0]

    def set(self, module: str, sender: str, state: str) -> None:
        if state == START:
            self._connection.execute(
                "DELETE FROM states WHERE sender = %s AND module = %s", (sender, module)
            )
            return
        self._connection.execute(
            "INSERT INTO states VALUES (%s, %s, %s, %s) ON CONFLICT (sender, module) "
            "DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at",
            (sender, module, state, _now()),
        )

    def fill(self, pairs: Pairs) -> None:
        with self._connection.cursor().copy("COPY states FROM STDIN") as copy:
            for module, sender, state in pairs:
                copy.write_row((sender, module, state, _now()))

    def close(self) -> None:
        self._connection.close()


def connect_mariadb(url: str) -> pymysql.Connection[Any]:
    """Connects PyMySQL to the database of a URL."""
    parts = sa.make_url(url)
    return pymysql.connect(
        host=parts.host,
        port=parts.port or 3306,
        user=parts.username,
        password=parts.password or "",
        database=parts.database,
        autocommit=True,
    )


class MariaDB:
    """One statement of PyMySQL."""

    def __init__(self, url: str) -> None:
        self._connection = connect_mariadb(url)
        self._run(
            "CREATE TABLE states (sender varchar(255), module varchar(255), state text NOT NULL, "
            "updated_at bigint, PRIMARY KEY (sender, module)) CHARSET ascii COLLATE ascii_bin"
        )

    def _run(self, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchone()

    def get(self, module: str, sender: str) -> str:
        row = self._run(
            "SELECT state FROM states WHERE sender = %s AND module = %s", (sender, module)
        )
        return START if row is None else row[0]

    def set(self, module: str, sender: str, state: str) -> None:
        if state == START:
            self._run("DELETE FROM states WHERE sender = %s AND module = %s", (sender, module))
            return
        self._run(
            "INSERT INTO states VALUES (%s, %s, %s, %s) "
            "ON DUPLICATE KEY UPDATE state = VALUES(state), updated_at = VALUES(updated_at)",
            (sender, module, state, _now()),
        )

    def fill(self, pairs: Pairs) -> None:
        rows = [(sender, module, state, _now()) for module, sender, state in pairs]
        with self._connection.cursor() as cursor:
            cursor.executemany("REPLACE INTO states VALUES (%s, %s, %s, %s)", rows)

    def close(self) -> None:
        self._connection.close()


class Redis:
    """One command of redis-py: GET, SET or DEL."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis_py.Redis.from_url(url)

    def get(self, module: str, sender: str) -> str:
        value = self._client.get(f"raw:{module}:{sender}")
        return START if value is None else value.decode().partition(" ")[2]

    def set(self, module: str, sender: str, state: str) -> None:
        if state == START:
            self._client.delete(f"raw:{module}:{sender}")
        else:
            self._client.set(f"raw:{module}:{sender}", f"{_now()} {state}")

    def fill(self, pairs: Pairs) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for module, sender, state in pairs:
            pipeline.set(f"raw:{module}:{sender}", f"{_now()} {state}")
        pipeline.execute()

    def close(self) -> None:
        self._client.close()


def at(url: str) -> Any:
    """Returns the floor under the store that a URL is for, at the same empty place."""
    kind, _, path = url.partition(":///")
    if kind in ("sqlite", "shelve"):
        return {"sqlite": SQLite, "shelve": Shelf}[kind](Path(path))
    return {"postgresql+psycopg": PostgreSQL, "mysql+pymysql": MariaDB, "redis": Redis}[
        url.partition(":")[0]
    ](url)
