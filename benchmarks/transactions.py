"""The floors of a conversation: the driver's own transaction that does the same.

Lock the sender, read its state, write another one, commit, unlock; on SQLite the transaction is the
lock. Nothing is checked, escaped, retried or lent, and nobody who dies or waits is thought of.

Those that know mails when they come again write a row for each as well, which is found by its time
when it expires.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks import floors


class SQLite(floors.SQLite):
    """BEGIN IMMEDIATE, SELECT, upsert, COMMIT."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._connection.execute(
            "CREATE TABLE marks (sender TEXT, mark BLOB, at INTEGER, PRIMARY KEY (sender, mark)) "
            "WITHOUT ROWID"
        )
        self._connection.execute("CREATE INDEX due ON marks (at)")

    def step(self, module: str, sender: str, state: str, mark: bytes = b"") -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self.get(module, sender)
        self.set(module, sender, state)
        if mark:
            row = sender, mark, time.time_ns()
            self._connection.execute("INSERT INTO marks VALUES (?, ?, ?)", row)
        self._connection.execute("COMMIT")


class PostgreSQL(floors.PostgreSQL):
    """psycopg's transaction, with an advisory lock in it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._connection.execute(
            "CREATE TABLE marks (sender text, mark bytea, at bigint, PRIMARY KEY (sender, mark))"
        )
        self._connection.execute("CREATE INDEX due ON marks (at)")

    def step(self, module: str, sender: str, state: str, mark: bytes = b"") -> None:
        with self._connection.transaction():
            self._connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (sender,)
            )
            self.get(module, sender)
            self.set(module, sender, state)
            if mark:
                row = sender, mark, time.time_ns()
                self._connection.execute("INSERT INTO marks VALUES (%s, %s, %s)", row)


class MariaDB(floors.MariaDB):
    """A named lock around a transaction."""

    def step(self, module: str, sender: str, state: str) -> None:
        self._run("SELECT GET_LOCK(%s, 2)", (sender,))
        self._run("BEGIN")
        self.get(module, sender)
        self.set(module, sender, state)
        self._run("COMMIT")
        self._run("DO RELEASE_LOCK(%s)", (sender,))


class Redis(floors.Redis):
    """A key that nobody else has as a lock, and MULTI to write and to give it back."""

    def step(self, module: str, sender: str, state: str) -> None:
        self._client.set(f"lock:{sender}", "mine", nx=True, px=10_000)
        self.get(module, sender)
        pipeline = self._client.pipeline()
        pipeline.set(f"raw:{module}:{sender}", f"0 {state}")
        pipeline.delete(f"lock:{sender}")
        pipeline.execute()


def at(url: str) -> Any:
    """Returns the floor under the store that a URL is for, at the same empty place."""
    kind, _, path = url.partition(":///")
    if kind == "sqlite":
        return SQLite(Path(path))
    made = {"postgresql+psycopg": PostgreSQL, "mysql+pymysql": MariaDB, "redis": Redis}
    return made[url.partition(":")[0]](url)
