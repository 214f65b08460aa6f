"""Conversations in SQL databases: who holds the lock, and in which transaction they end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from salmon_state.conversation import Move, Transition, UnitOfWork, busy
from salmon_state.errors import StorageUnavailable
from salmon_state.storage import Sender
from salmon_state.stores.sqlalchemy.connections import Lease
from salmon_state.stores.sqlalchemy.schema import decode_states, sender_digest

if TYPE_CHECKING:
    from salmon_state.stores.sqlalchemy.store import SQLAlchemyStorage

__all__ = ["MariaDBWork", "PostgreSQLWork", "SQLWork", "SQLiteWork"]


class SQLWork(UnitOfWork):
    """What the three have in common: one connection from the first need of it to the end."""

    _store: SQLAlchemyStorage

    def __init__(self, store: SQLAlchemyStorage) -> None:
        super().__init__(store)
        self._lease: Lease | None = None
        self._in_transaction = False

    def read(self, module: str, sender: Sender) -> str | None:
        if self._lease is None:
            return super().read(module, sender)
        return self.read_sender(sender).get(module)

    def read_sender(self, sender: Sender) -> Mapping[str, str]:
        if self._lease is None:
            return super().read_sender(sender)
        statement = self._store._statements.get_sender
        with self._on_lease() as cursor:
            cursor.execute(statement.sql, (sender_digest(sender),))
            return decode_states(cursor.fetchall())

    def commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        if self._lease is None:
            super().commit(moves, transitions)
            return
        if not (self._in_transaction or moves or transitions):
            return
        with self._on_lease() as cursor:
            self._begin(cursor)
            self._store._statements.write(cursor, moves, transitions)
            try:
                cursor.execute("COMMIT")
            except self._store._connections.driver_error as error:
                if self._store._database.is_conflict(error):
                    raise
                raise StorageUnavailable(f"a commit was not confirmed: {error}") from error
            self._in_transaction = False

    def rollback(self) -> None:
        if self._lease is not None and self._in_transaction:
            with self._on_lease() as cursor:
                cursor.execute("ROLLBACK")
                self._in_transaction = False

    def close(self) -> None:
        try:
            self.rollback()
            self._unlock()
        except self._store._connections.driver_error:
            pass  # the connection is closed by now, which rolls back and frees the locks as well
        finally:
            if self._lease is not None:
                self._store._connections.give_back(self._lease)
                self._lease = None
            super().close()

    def _unlock(self) -> None:
        """Frees the locks that neither a transaction's end nor `_releases` frees."""

    def _begin(self, cursor: Any) -> None:
        if not self._in_transaction:
            cursor.execute(self._store._database.begin)
            self._in_transaction = True

    @contextmanager
    def _on_lease(self) -> Iterator[Any]:
        """Lends a cursor of the connection, which an error closes: nothing can go on on it."""
        assert self._lease is not None  # noqa: S101 - for the type checker
        cursor = self._lease.driver.cursor()
        try:
            yield cursor
        except BaseException:
            lease, self._lease = self._lease, None
            self._in_transaction = False
            self._lost = True
            self._store._connections.discard(lease)
            raise
        cursor.close()

    _lost = False

    @property
    def connection(self) -> Any:
        """SQLAlchemy's connection; its transaction begins when a handler first asks for it."""
        if self._lost:
            raise StorageUnavailable("the connection of this conversation broke")
        if self._lease is None:
            self._lease = self._store._connections.take()
        with self._on_lease() as cursor:
            self._begin(cursor)
        return self._lease.connection


class SQLiteWork(SQLWork):
    """The lock is one of the operating system, on a file beside the database.

    A transaction of SQLite's would keep everybody else from writing while a handler runs. It is
    begun at the end, or when a handler takes part.
    """


class PostgreSQLWork(SQLWork):
    """One transaction: an advisory lock, the snapshot, the commit.

    The lock belongs to the transaction, so a pooler may give every transaction another server
    connection; and it ends with the connection, which the server closes when the client dies. It
    needs 1 round trip to begin, 1 to end, and 1 for each changed state.
    """

    def enter(self, sender: Sender, timeout: float, *, lock: bool) -> Mapping[str, str]:
        if self._lease is None:
            parts = self._parts(sender, timeout, lock=lock)
            self._lease, results = self._store._connections.hold(self._open, parts, timeout)
            self._in_transaction = bool(results)
        else:
            with self._on_lease() as cursor:
                results = self._say(cursor, self._parts(sender, timeout, lock=lock))
        if not results or results[0] == [(False,)]:
            raise busy(timeout)
        return decode_states(results[-1])

    def _parts(self, sender: Sender, timeout: float, *, lock: bool) -> list[str]:
        """Returns what there is to say, with nothing from outside in it but digests."""
        digest = sender_digest(sender)
        parts = []
        if self._lease is None:
            wait = timeout if timeout > 0 else self._store._timeout
            parts = ["BEGIN", f"SET LOCAL lock_timeout = {max(1, round(wait * 1000))}"]
        if lock:
            name = hashlib.sha256(self._store._lock_space + digest).digest()
            number = int.from_bytes(name[:8], "big", signed=True)
            function = "pg_advisory_xact_lock" if timeout > 0 else "pg_try_advisory_xact_lock"
            parts.append(f"SELECT {function}({number})")
        # A statement of its own: the one that waits for the lock saw the rows before it waited.
        parts.append(self._store._statements.get_sender.sql % f"decode('{digest.hex()}', 'hex')")
        return parts

    def _open(self, driver: Any, parts: list[str], timeout: float) -> list[list[Any]]:
        """Returns the results, or none if the lock was not won."""
        cursor = driver.cursor()
        bounded = hasattr(driver, "statement_timeout")
        if bounded:
            driver.statement_timeout = self._store._timeout + timeout
        try:
            results = self._say(cursor, parts)
        except self._store._connections.driver_error as error:
            if getattr(error, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            results = []
        finally:
            if bounded:
                driver.statement_timeout = self._store._timeout
        if not results or results[0] == [(False,)]:
            cursor.execute("ROLLBACK")
            return []
        return results

    def _say(self, cursor: Any, parts: list[str]) -> list[list[Any]]:
        """Returns the rows of every part that has some; in one round trip if the driver can."""
        results: list[list[Any]] = []
        if self._store._driver == "psycopg":
            cursor.execute("; ".join(parts), prepare=False)
            more = True
            while more:
                if cursor.description:
                    results.append(cursor.fetchall())
                more = cursor.nextset()
        else:
            for part in parts:
                cursor.execute(part)
                if cursor.description:
                    results.append(cursor.fetchall())
        return results


_LOCK_NOT_AVAILABLE = "55P03"


class MariaDBWork(SQLWork):
    """A named lock of the server, the snapshot, then a transaction for the writes.

    The lock belongs to the connection: it ends with it, which the server closes when the client
    dies; and it needs one that stays the same, which a transaction pooler in between does not
    give. It needs 2 round trips to begin, 1 to end, and 3 to write.
    """

    def __init__(self, store: SQLAlchemyStorage) -> None:
        super().__init__(store)
        self._names: list[str] = []

    def enter(self, sender: Sender, timeout: float, *, lock: bool) -> Mapping[str, str]:
        digest = sender_digest(sender)
        # At most 64 characters, and one name space for all databases of the server.
        name = hashlib.sha256(self._store._lock_space + digest).hexdigest()[:60] if lock else None
        if self._lease is None:
            self._lease, rows = self._store._connections.hold(self._open, name, digest, timeout)
        else:
            with self._on_lease() as cursor:
                rows = self._say(cursor, name, digest, timeout)
        if rows is None:
            raise busy(timeout)
        if name is not None:
            self._names.append(name)
        return decode_states(rows)

    def _open(
        self, driver: Any, name: str | None, digest: bytes, timeout: float
    ) -> list[Any] | None:
        cursor = driver.cursor()
        rows = self._say(cursor, name, digest, timeout)
        cursor.close()
        return rows

    def _say(
        self, cursor: Any, name: str | None, digest: bytes, timeout: float
    ) -> list[Any] | None:
        deadline = time.monotonic() + timeout
        while name is not None:
            # In portions, each well within the time after which the driver takes the server for
            # dead.
            wait = max(0.0, min(deadline - time.monotonic(), self._store._timeout / 2))
            cursor.execute("SELECT GET_LOCK(%s, %s)", (name, wait))
            if cursor.fetchone()[0] == 1:
                break
            if time.monotonic() >= deadline:
                return None
        cursor.execute(self._store._statements.get_sender.sql, (digest,))
        rows: list[Any] = list(cursor.fetchall())
        return rows

    def _unlock(self) -> None:
        if self._names and self._lease is not None:
            with self._on_lease() as cursor:
                for name in self._names:
                    cursor.execute("DO RELEASE_LOCK(%s)", (name,))
