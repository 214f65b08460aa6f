"""The floors of a conversation: the driver's own transaction that does the same.

Lock the sender, read its state, write another one, commit, unlock; on SQLite the transaction is the
lock. Nothing is checked, escaped, retried or lent, and nobody who dies or waits is thought of.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import floors


class SQLite(floors.SQLite):
    """BEGIN IMMEDIATE, SELECT, upsert, COMMIT."""

    def step(self, module: str, sender: str, state: str) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self.get(module, sender)
        self.set(module, sender, state)
        self._connection.execute("COMMIT")


class PostgreSQL(floors.PostgreSQL):
    """psycopg's transaction, with an advisory lock in it."""

    def step(self, module: str, sender: str, state: str) -> None:
        with self._connection.transaction():
            self._connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (sender,)
            )
            self.get(module, sender)
            self.set(module, sender, state)


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
