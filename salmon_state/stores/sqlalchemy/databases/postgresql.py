"""PostgreSQL: its sessions, its errors, and how psycopg is told to be patient for a while only."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from salmon_state.entries import Entry, Want
from salmon_state.errors import busy
from salmon_state.keys import Sender
from salmon_state.stores.clock import ServerClock
from salmon_state.stores.encoding import sender_digest
from salmon_state.stores.sqlalchemy.database import CAME_TOO_LATE, Database, Step
from salmon_state.stores.sqlalchemy.diagnosis.postgresql import diagnose_postgresql
from salmon_state.stores.sqlalchemy.statements import Parameters
from salmon_state.stores.sqlalchemy.work import BEFORE_HANDLERS, SQLWork

__all__ = ["PostgreSQL"]


_TRY = "pg_try_advisory_xact_lock"
_IN_TRANSACTION = 2  # PQTRANS_INTRANS
_IN_FAILED_TRANSACTION = 3  # PQTRANS_INERROR; its COMMIT would quietly roll back

# SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
_LOCK_NOT_AVAILABLE = "55P03"


class PostgreSQLWork(SQLWork):
    """One transaction: an advisory lock, the snapshot, the commit.

    The lock belongs to the transaction, so a pooler may give every transaction another server
    connection; and it ends with the connection, which the server closes when the client dies. It
    needs 1 round trip to begin (2 if it must wait), 1 to end, and 1 for what was changed, together
    with the comparison of what was read beside it.
    """

    def enter(self, sender: Sender, timeout: float, wants: Sequence[Want]) -> list[Entry]:
        self._check_connection()
        read = self._inlined(*self._tables.wanted(sender, wants))
        number = self._number(sender) if sender else None
        if self._loan is None:
            self._take_place()
            self._loan, results = self._pool.hold(self._open, number, read, timeout)
            self._in_transaction = bool(results)
        else:
            results = self._on_loan(self._say, [*_lock(_TRY, number), read])
        if not _won(results):
            raise busy(timeout)
        return self._tables.found(results[-1], wants)

    def _number(self, sender: Sender) -> int:
        """Returns the number of a sender's lock."""
        name = hashlib.sha256(self._tables.space + sender_digest(sender)).digest()
        return int.from_bytes(name[:8], "big", signed=True)

    def _inlined(self, sql: str, parameters: Parameters) -> str:
        """Returns a statement with its parameters, which are nothing from outside but digests."""
        return sql % tuple([f"decode('{digest.hex()}', 'hex')" for digest in parameters])

    @property
    def given_up(self) -> bool:
        if self._loan is None or not self._shared:
            return False
        return self._status() != _IN_TRANSACTION

    def _status(self) -> int:
        assert self._loan is not None  # noqa: S101 - for the type checker
        status: int = self._loan.driver.info.transaction_status
        return status

    def _ask(self, cursor: Any) -> None:
        if self._status() != _IN_FAILED_TRANSACTION:  # which the server has just told us
            super()._ask(cursor)

    def _recover(self, cursor: Any) -> None:
        if self._status() == _IN_FAILED_TRANSACTION:
            cursor.execute(f"ROLLBACK TO SAVEPOINT {BEFORE_HANDLERS}")  # the lock stays
        else:
            super()._recover(cursor)

    def _open(self, cursor: Any, number: int | None, read: str, timeout: float) -> list[list[Any]]:
        """Begins the transaction; returns the results, or none if the lock was not won.

        Waiting needs a limit, and to set one takes half as long as all the rest together: at first
        the lock is only tried.
        """
        # The read is a statement of its own: one that waited saw the rows before it waited.
        results = self._say(cursor, [self._database.begin, *_lock(_TRY, number), read])
        if timeout and not _won(results):
            results = self._wait(cursor, [*_lock("pg_advisory_xact_lock", number), read], timeout)
        if not _won(results):
            cursor.execute("ROLLBACK")
            return []
        return results

    def _wait(self, cursor: Any, parts: list[str], timeout: float) -> list[list[Any]]:
        limit = f"SET LOCAL lock_timeout = {max(1, round(timeout * 1000))}"
        driver = cursor.connection
        bounded = hasattr(driver, "bound")
        if bounded:
            driver.bound(self._pool.timeout + timeout)
        try:
            return self._say(cursor, [limit, *parts])
        except self._pool.driver_error as error:
            if _sqlstate(error) != _LOCK_NOT_AVAILABLE:
                raise
            return []
        finally:
            if bounded:
                driver.bound(self._pool.timeout)

    def _say(self, cursor: Any, parts: list[str]) -> list[list[Any]]:
        """Returns the rows of every part that has some; in one round trip if the driver can."""
        together = self._pool.driver == "psycopg"
        if together:
            cursor.execute("; ".join(parts), prepare=False)
        results: list[list[Any]] = []
        for number, part in enumerate(parts):
            if not together:
                cursor.execute(part)
            elif number:
                cursor.nextset()
            if part.startswith("SELECT"):
                results.append(cursor.fetchall())
        return results


def _lock(how: str, number: int | None) -> list[str]:
    return [] if number is None else [f"SELECT {how}({number})"]


def _won(results: list[list[Any]]) -> bool:
    """Returns whether the lock that was tried was won, if one was."""
    return bool(results) and results[0] != [(False,)]


class PostgreSQL(Database):
    """A PostgreSQL server, by psycopg 3; in an application's own engine also by psycopg2."""

    names = ("postgresql",)
    work = PostgreSQLWork
    drivers = ("psycopg",)  # psycopg2 waits for a silent server without end
    package = "psycopg[binary]"
    fewest = 3  # two are quicker prepared and one by one, but for the way
    insert = staticmethod(postgresql.insert)
    diagnose = staticmethod(diagnose_postgresql)
    # Whatever the server's default is: what waited for a lock must see what happened meanwhile.
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
    time_question = "SELECT date_part('epoch', clock_timestamp())"
    lock_alone = "pg_advisory_xact_lock(%s)"
    lock_shared = "pg_advisory_xact_lock_shared(%s)"

    _CONFLICTS = ("40001", "40P01", _LOCK_NOT_AVAILABLE)
    _FORBIDDEN = ("42501",)
    _READ_ONLY = "25006"
    _TOO_LATE = "22012"  # a division by zero; see `in_time`
    _MISSING = ("3F000",)
    # libpq reports a refused login as text only.
    _REFUSED = re.compile(
        "authentication failed|no password supplied|(role|database) .* does not exist|"
        "permission denied for database|no pg_hba.conf entry|is not permitted to log in|"
        "invalid connection option|invalid [a-z_ ]*value"
    )

    def options(self, driver: Any) -> Mapping[str, type]:
        names = (option.keyword.decode() for option in driver.pq.Conninfo.get_defaults())
        numbers = ("connect_timeout", "keepalives", "tcp_user_timeout")
        types = {name: int if name.startswith(numbers) else str for name in names}
        return {**types, "prepare_threshold": str}

    def connect_arguments(self, url: sa.URL, timeout: float) -> dict[str, Any]:
        # libpq takes whole seconds and turns 1 into 2.
        return {
            "connect_timeout": max(2, round(timeout)),
            "application_name": "salmon-state",
            "client_encoding": "utf8",  # a database in SQL_ASCII would give bytes for text
        }

    def connect(
        self, dialect: sa.Dialect, arguments: Sequence[Any], options: dict[str, Any], timeout: float
    ) -> Any:
        threshold = options.get("prepare_threshold")
        if threshold is not None:  # text, which psycopg does not take
            options = {**options, "prepare_threshold": _threshold(threshold)}
        connection = _bounded_connection().connect(*arguments, **options)
        connection.bound(timeout)
        connection.clock = ServerClock(self.ask_time, connection.patience)
        # Whatever the default is: with a stricter one, writers of the same row fail each other.
        connection.autocommit = True
        connection.execute(
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
            prepare=False,
        ).close()
        return connection

    def in_time(self, deadline: sa.BindParameter[Any]) -> sa.ColumnElement[bool]:
        # To compare numbers instead of times would take three times as long.
        early = sa.func.to_timestamp(deadline) > sa.func.clock_timestamp()
        one: sa.ColumnElement[int] = sa.literal_column("1")
        return one.op("/")(sa.cast(early, sa.Integer)) == one

    def sharing(self, lock: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
        return sa.func.pg_advisory_xact_lock_shared(lock).is_not(None)

    def owning(self, lock: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
        return sa.func.pg_advisory_xact_lock(lock).is_not(None)

    def say(self, cursor: Any, steps: Sequence[Step]) -> list[Any]:
        # What most mails write, as `Database` would do it: a mail need not go through that as well.
        if len(steps) != 1 or len(steps[0][1]) != 1 or steps[0][0].startswith("SELECT"):
            return super().say(cursor, steps)
        ((sql, (row,)),) = steps
        cursor.execute(sql, row)
        return [cursor.rowcount]

    def say_pair(self, cursor: Any, steps: Sequence[Step]) -> list[Any]:
        # What a state and the mark of its mail need: as one statement it is prepared, which as
        # one text it would not be, and it is a round trip less than one after the other.
        if not _is_psycopg(cursor):
            return super().say_pair(cursor, steps)
        (one, [first]), (other, [second]) = steps
        cursor.execute(
            f"WITH one AS ({one} RETURNING 1), other AS ({other} RETURNING 1) "  # noqa: S608 - ours
            "SELECT (SELECT count(*) FROM one), (SELECT count(*) FROM other)",
            (*first, *second),
        )
        return list(cursor.fetchone())

    def speaker(self, cursor: Any) -> Any:
        if not _is_psycopg(cursor):
            return None  # psycopg2 would give the last result only
        from psycopg import ClientCursor  # here, because only whoever has this connection has it

        return ClientCursor(cursor.connection)

    def pause(self, tables: Sequence[str]) -> Sequence[str]:
        return (self.begin, f"LOCK TABLE {', '.join(tables)} IN SHARE MODE")

    def is_conflict(self, error: BaseException) -> bool:
        return _sqlstate(error) in self._CONFLICTS

    def is_forbidden(self, error: DBAPIError) -> bool:
        return _sqlstate(error.orig) in self._FORBIDDEN

    def is_gone(self, error: BaseException) -> bool:
        return _sqlstate(error) in (self._READ_ONLY, self._TOO_LATE)

    def is_misconfigured(self, error: BaseException) -> bool:
        return _sqlstate(error) in self._MISSING or bool(self._REFUSED.search(str(error)))

    def advice(self, error: BaseException) -> str:
        if _sqlstate(error) == self._TOO_LATE:
            return CAME_TOO_LATE
        if isinstance(error, TypeError) and "bytes" in str(error):
            return (
                " (the driver gives bytes for text, as it does for a database in SQL_ASCII: make "
                "the engine with connect_args={'client_encoding': 'utf8'})"
            )
        return ""

    def _lock_schema(self, connection: sa.Connection) -> None:
        # IF NOT EXISTS is no help: two at once still collide in the catalogue.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7957125123961775)")


@cache
def _bounded_connection() -> Any:
    """Returns the class of our connections, once: only whoever uses PostgreSQL has psycopg.

    libpq bounds connecting, and its TCP options a host that is gone; a server that keeps the
    connection open and says nothing (stopped, swapping, behind a broken proxy) it waits for without
    end. PostgreSQL's own ``statement_timeout`` is no help against a server that does not run.

    Nor does it take a commit for one that its standby may not have: when the wait for a synchronous
    standby is cut short, PostgreSQL reports success all the same, and a warning beside it.
    """
    import psycopg
    from psycopg import capabilities

    class BoundedConnection(psycopg.Connection[Any]):
        """Raises `psycopg.OperationalError` when an exchange takes longer than it may: see `bound`.

        Shortly before, it asks the server to cancel the statement. One that waits for somebody
        else's lock would otherwise go on waiting when its client is gone, and change the row in the
        end, although the client was told that it had not. The connection cannot be used afterwards,
        not even when the statement reports success: it may have been a commit that waited for a
        standby.

        And it raises `psycopg.OperationalError` when somebody else ended such a wait.

        Attributes:
            patience: After how many seconds an exchange is cancelled.
            clock: The server's.
        """

        patience: float
        _reserve: float
        clock: ServerClock

        def __init__(self, pgconn: psycopg.pq.abc.PGconn, *arguments: Any) -> None:
            super().__init__(pgconn, *arguments)
            self.bound(5.0)
            # The handler knows the list and not the connection: no cycle keeps that open.
            unconfirmed = self._unconfirmed = list[str]()

            def notice(diagnostic: psycopg.errors.Diagnostic) -> None:
                # By the function in the server that says it, because the text is in any language.
                if diagnostic.source_function == "SyncRepWaitForLSN":
                    unconfirmed.append(str(diagnostic.message_primary))

            self.add_notice_handler(notice)

        def bound(self, timeout: float) -> None:
            """Says how many seconds an exchange may take, to cancel it included."""
            self._reserve = min(1.0, timeout / 5)
            self.patience = timeout - self._reserve

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            """Runs an exchange with the server to its end, or to the timeout."""
            try:
                result = super().wait(gen, interval, self.patience if timeout is None else timeout)
            except psycopg.OperationalError:
                # Cancelling with libpq before 17 would wait for a silent server without end.
                if (
                    timeout is not None
                    or self.pgconn.transaction_status != psycopg.pq.TransactionStatus.ACTIVE
                    or not capabilities.has_cancel_safe()
                ):
                    raise
                self._try_cancel(timeout=self._reserve / 2)
                super().wait(gen, interval, timeout=self._reserve / 2)
                raise psycopg.OperationalError(
                    f"cancelled after {self.patience:g} s, perhaps in vain"
                ) from None
            if self._unconfirmed:
                raise psycopg.OperationalError(
                    f"perhaps not on the standby: {self._unconfirmed.pop()}"
                )
            return result

    return BoundedConnection


def _is_psycopg(cursor: Any) -> bool:
    return hasattr(cursor.connection, "pgconn")


def _threshold(text: str) -> int | None:
    """Returns psycopg's ``prepare_threshold`` from a URL's query.

    Raises:
        ValueError: It is neither a number nor ``none``.
    """
    if text.lower() == "none":
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(
            "prepare_threshold must be 'none', so that nothing is prepared, or after how many uses "
            f"a statement is, got {text!r}"
        )
    return int(text)


def _sqlstate(error: object) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
