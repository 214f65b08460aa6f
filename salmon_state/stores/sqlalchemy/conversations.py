"""Conversations in SQL databases: who holds the lock, and in which transaction they end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from salmon_state.errors import busy
from salmon_state.keys import Sender
from salmon_state.stores.sqlalchemy.databases import PostgreSQL
from salmon_state.stores.sqlalchemy.schema import decode_states, sender_digest
from salmon_state.stores.sqlalchemy.work import BEFORE_HANDLERS, SQLWork

if TYPE_CHECKING:
    from salmon_state.stores.sqlalchemy.store import SQLAlchemyStorage

__all__ = ["MariaDBWork", "PostgreSQLWork", "SQLWork", "SQLiteWork"]


class SQLiteWork(SQLWork):
    """The lock is one of the operating system, on a file beside the database.

    A transaction of SQLite's would keep everybody else from writing while a handler runs. It is
    begun at the end, or by the first statement of a handler that is no SELECT: reading, before a
    mail is sent on to a thousand others, takes nothing from anybody.
    """

    def _share(self, connection: sa.Connection) -> None:
        sa.event.listen(connection, _EACH_STATEMENT, self._before_statement)

    def close(self) -> None:
        if self._shared and self._lease is not None:
            sa.event.remove(self._lease.connection, _EACH_STATEMENT, self._before_statement)
        super().close()

    def _before_statement(
        self, connection: sa.Connection, cursor: Any, statement: str, *_: object
    ) -> None:
        if self._in_transaction or statement[:7].upper() == "SELECT ":
            return
        try:
            cursor.execute(self._store._database.begin)
        except self._store._connections.driver_error as error:
            self._store._raise(error)
        self._in_transaction = True

    @property
    def failed(self) -> bool:
        return (
            self._lease is not None
            and self._in_transaction
            and not self._lease.driver.in_transaction
        )


_EACH_STATEMENT = "before_cursor_execute"


class PostgreSQLWork(SQLWork):
    """One transaction: an advisory lock, the snapshot, the commit.

    The lock belongs to the transaction, so a pooler may give every transaction another server
    connection; and it ends with the connection, which the server closes when the client dies. It
    needs 1 round trip to begin (2 if it must wait), 1 to end, and 1 for each changed state.
    """

    def enter(self, sender: Sender, timeout: float, *, lock: bool) -> Mapping[str, str]:
        self._check_connection()
        digest = sender_digest(sender)
        if self._lease is None:
            self._take_place()
            self._lease, results = self._store._connections.hold(
                self._open, digest, timeout if lock else None
            )
            self._in_transaction = bool(results)
        else:
            with self._on_lease() as cursor:
                results = self._say(cursor, self._parts(digest, _TRY if lock else None))
        if not _won(results):
            raise busy(timeout)
        return decode_states(results[-1])

    @property
    def failed(self) -> bool:
        if self._lease is None or not self._shared:
            return False
        return self._status() != _IN_TRANSACTION

    def _status(self) -> int:
        assert self._lease is not None  # noqa: S101 - for the type checker
        status: int = self._lease.driver.info.transaction_status
        return status

    def _ask(self, cursor: Any) -> None:
        if self._status() != _IN_FAILED_TRANSACTION:  # which the server has just told us
            super()._ask(cursor)

    def _recover(self, cursor: Any) -> None:
        if self._status() == _IN_FAILED_TRANSACTION:
            cursor.execute(f"ROLLBACK TO SAVEPOINT {BEFORE_HANDLERS}")  # the lock stays
        else:
            super()._recover(cursor)

    def _parts(self, digest: bytes, lock: str | None) -> list[str]:
        """Returns what there is to say, with nothing from outside in it but digests."""
        parts = []
        if lock is not None:
            name = hashlib.sha256(self._store._lock_space + digest).digest()
            parts.append(f"SELECT {lock}({int.from_bytes(name[:8], 'big', signed=True)})")
        # A statement of its own: the one that waits for the lock saw the rows before it waited.
        parts.append(self._store._statements.get_sender.sql % f"decode('{digest.hex()}', 'hex')")
        return parts

    def _open(self, driver: Any, digest: bytes, timeout: float | None) -> list[list[Any]]:
        """Begins the transaction; returns the results, or none if the lock was not won.

        Waiting needs a limit, and to set one takes half as long as all the rest together: at first
        the lock is only tried.
        """
        cursor = driver.cursor()
        # Whatever the server's default is: a snapshot of the whole transaction would be one from
        # before the lock was won.
        begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
        lock = None if timeout is None else _TRY
        results = self._say(cursor, [begin, *self._parts(digest, lock)])
        if timeout and not _won(results):
            results = self._wait(driver, cursor, digest, timeout)
        if not _won(results):
            cursor.execute("ROLLBACK")
            return []
        return results

    def _wait(self, driver: Any, cursor: Any, digest: bytes, timeout: float) -> list[list[Any]]:
        limit = f"SET LOCAL lock_timeout = {max(1, round(timeout * 1000))}"
        bounded = hasattr(driver, "statement_timeout")
        if bounded:
            driver.statement_timeout = self._store._timeout + timeout
        try:
            return self._say(cursor, [limit, *self._parts(digest, "pg_advisory_xact_lock")])
        except self._store._connections.driver_error as error:
            if not PostgreSQL().is_lock_timeout(error):
                raise
            return []
        finally:
            if bounded:
                driver.statement_timeout = self._store._timeout

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


def _won(results: list[list[Any]]) -> bool:
    """Returns whether the lock that was tried was won, if one was."""
    return bool(results) and results[0] != [(False,)]


_TRY = "pg_try_advisory_xact_lock"
_IN_TRANSACTION = 2  # PQTRANS_INTRANS
_IN_FAILED_TRANSACTION = 3  # PQTRANS_INERROR; its COMMIT would quietly roll back


_NO_SUCH_SAVEPOINT = 1305


class MariaDBWork(SQLWork):
    """A named lock of the server, the snapshot, then a transaction for the writes.

    The lock belongs to the connection: it ends with it, which the server closes when the client
    dies; and it needs one that stays the same, which a transaction pooler in between does not
    give. It needs 2 round trips to begin and 1 to end; to write, 1 for one state, and for several
    as many and 2 more.
    """

    def __init__(self, store: SQLAlchemyStorage) -> None:
        super().__init__(store)
        self._names: list[str] = []

    def enter(self, sender: Sender, timeout: float, *, lock: bool) -> Mapping[str, str]:
        self._check_connection()
        digest = sender_digest(sender)
        # At most 64 characters, and one name space for all databases of the server.
        name = hashlib.sha256(self._store._lock_space + digest).hexdigest()[:60] if lock else None
        if self._lease is None:
            self._take_place()
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

    def _begin(self, cursor: Any, *, moving: bool = False) -> None:
        if moving and not self._in_transaction:
            self._names.append(self._store._moves_lock)
        super()._begin(cursor, moving=moving)

    def _was_given_up(self, cursor: Any) -> bool:
        try:
            cursor.execute(f"RELEASE SAVEPOINT {BEFORE_HANDLERS}")
        except self._store._connections.driver_error as error:
            if error.args[:1] != (_NO_SUCH_SAVEPOINT,):
                raise
            return True
        return False

    def _unlock(self) -> None:
        if self._names and self._lease is not None:
            with self._on_lease() as cursor:
                for name in self._names:
                    cursor.execute("DO RELEASE_LOCK(%s)", (name,))
