"""What a store asks of each kind of database: connecting, upserts, errors, locks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import Insert

from salmon_state.backend import UnitOfWork
from salmon_state.findings import Finding
from salmon_state.stores.clock import ServerClock
from salmon_state.stores.locks import FileLocks

__all__ = ["CAME_TOO_LATE", "Database", "Step"]

CAME_TOO_LATE = (
    " (a statement came after its deadline: the network or the server stood still, or the server's "
    "clock was set)"
)
"""What `Database.advice` says of a statement that was not `Database.in_time`."""

Step = tuple[str, Sequence[tuple[Any, ...]]]
"""A statement, and the rows of parameters to run it with: one, if it is a SELECT."""

_MOST, _SHORT = 20, 100_000
"""How many statements are said in one text at most, and of how many characters and bytes."""


class Database:
    """One kind of database; the methods' defaults are what most of them share."""

    work: ClassVar[Callable[..., UnitOfWork]] = UnitOfWork
    """What its conversations work with; made of a store and its `Tables`."""
    names: ClassVar[tuple[str, ...]] = ()
    """The names of SQLAlchemy's dialects."""
    drivers: ClassVar[tuple[str, ...]] = ()
    """Those whose waiting can be bounded, as SQLAlchemy calls them; the usual one first."""
    package: ClassVar[str] = ""
    """What pip installs its driver as."""
    fewest: ClassVar[int] = 2
    """How many statements it takes to gain by saying them in one text."""
    begin: ClassVar[str] = "BEGIN"
    """Starts a transaction that writes."""
    lock_alone: ClassVar[str] = ""
    """What wins a lock, kept to the transaction's end; its parameter is a number. If need be."""
    lock_shared: ClassVar[str] = ""
    """The same, for a lock that others may have as well if they share it."""
    for_share: ClassVar[str] = " FOR SHARE"
    """Makes a SELECT lock the rows that it finds against changes."""
    holds_rows_only: ClassVar[bool] = False
    """Whether nothing keeps others from making a row that is not there."""
    inheritable: ClassVar[bool] = True
    """Whether a forked child may have its parent's connections, as long as it leaves them alone."""
    remote: ClassVar[bool] = True
    """Whether a connection can break in mid-statement, so that nobody knows whether it happened."""
    one_writer: ClassVar[bool] = False
    """Whether nobody else writes while one statement does, so that it may move all of a sender."""
    time_question: ClassVar[str] = ""
    """Selects the server's time in seconds since 1970; empty if there is no server."""
    has_locks: ClassVar[bool] = True
    """Whether it has locks by name, on which conversations can be built."""

    def prepare_url(self, url: sa.URL) -> sa.URL:
        """Returns the URL to connect to; checks what can be checked without connecting."""
        return url

    def options(self, driver: Any) -> Mapping[str, type] | None:
        """Returns what a URL's query may say, with the types; ``None`` if only the driver knows.

        Args:
            driver: Its module.
        """
        return None

    def connect_arguments(self, url: sa.URL, timeout: float) -> dict[str, Any]:
        """Returns the driver's arguments that bound connecting, reading and writing.

        What the URL's query says wins over them.
        """
        return {}

    def connect(
        self, dialect: sa.Dialect, arguments: Sequence[Any], options: dict[str, Any], timeout: float
    ) -> Any:
        """Returns a new connection of the driver, whose every statement the timeout bounds."""
        return dialect.connect(*arguments, **options)

    @staticmethod
    def insert(table: sa.Table) -> Any:
        """Returns the dialect's own insert, where that has ``ON CONFLICT``."""
        raise NotImplementedError

    @staticmethod
    def fetch_one(driver: Any, sql: str, parameters: tuple[Any, ...]) -> Any:
        """Returns the first row of a query, or ``None``."""
        cursor = driver.cursor()
        cursor.execute(sql, parameters)
        row = cursor.fetchone()
        cursor.close()
        return row

    @staticmethod
    def fetch_all(driver: Any, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        """Returns all rows of a query."""
        cursor = driver.cursor()
        cursor.execute(sql, parameters)
        rows: list[Any] = cursor.fetchall()
        cursor.close()
        return rows

    def say(self, cursor: Any, steps: Sequence[Step]) -> list[Any]:
        """Runs statements one after the other, in one round trip if the driver can.

        Only what is short is said in one text, and no COMMIT after what may wait: it would happen
        although the client has given up.

        Args:
            cursor: Of the connection.
            steps: Pairs of a statement and the rows of parameters to run it with.

        Returns:
            For each statement its rows if it is a SELECT, otherwise how many rows it changed.
        """
        if len(steps) == 1 and len(steps[0][1]) == 1:
            return [_run(cursor, *steps[0])]
        statements = sum(len(rows) for _, rows in steps)
        together = None
        if self.fewest <= statements <= _MOST and _length(steps) < _SHORT:
            together = self.speaker(cursor)
        if together is None:
            return [_run(cursor, *step) for step in steps]
        texts = [sql for sql, rows in steps for _ in rows]
        together.execute(
            "; ".join(texts), [each for _, rows in steps for row in rows for each in row]
        )
        results: list[Any] = []
        for sql, rows in steps:
            if sql.startswith("SELECT"):
                results.append(together.fetchall())
                together.nextset()
                continue
            results.append(0)
            for _ in rows:
                results[-1] += together.rowcount
                together.nextset()
        return results

    def say_pair(self, cursor: Any, steps: Sequence[Step]) -> list[Any]:
        """Does the same with two statements, each of which writes one row of its own."""
        return self.say(cursor, steps)

    def speaker(self, cursor: Any) -> Any:
        """Returns a cursor of the same connection that takes several statements in one text.

        ``None`` if the driver has none.
        """
        return None

    def begin_moving(self, cursor: Any, lock: str, timeout: float) -> None:
        """Makes the transaction that is begun next lock rows that do not exist yet, if it must.

        Args:
            cursor: Of a connection that is in no transaction.
            lock: The name of a lock for whoever does so in the same table.
            timeout: How long to wait for it, in seconds.

        Raises:
            StorageUnavailable: It was not won in time.
        """

    def end_moving(self, cursor: Any, lock: str) -> None:
        """Gives that lock back after the transaction."""

    def check_writers(self, connection: sa.Connection) -> None:
        """Raises `ConfigurationError` if other servers write the same rows."""

    @staticmethod
    def execute(driver: Any, sql: str, parameters: tuple[Any, ...]) -> int:
        """Runs a statement that commits itself, and returns how many rows it changed."""
        cursor = driver.cursor()
        cursor.execute(sql, parameters)
        count: int = cursor.rowcount
        cursor.close()
        return count

    def ask_time(self, driver: Any) -> float:
        """Returns what the server takes for the time, in seconds since 1970."""
        ((seconds,),) = self.fetch_all(driver, self.time_question, ())
        return float(seconds)

    def deadline(self, driver: Any) -> float | str | None:
        """Returns until when a statement that commits itself may be made, by the server's clock.

        Or ``None``, if nobody can say: an application's own engine has connections whose patience
        is unknown. In a transaction there is no need: its COMMIT never comes.
        """
        clock: ServerClock | None = getattr(driver, "clock", None)
        return None if clock is None else clock.deadline(driver)

    def in_time(self, deadline: sa.BindParameter[Any]) -> sa.ColumnElement[bool]:
        """Returns what is true until a moment by the server's clock, and then an error.

        An error, because "no row was changed" must not stand for "too late" as well; see `is_gone`.
        """
        raise NotImplementedError

    def sharing(self, lock: sa.ColumnElement[int]) -> sa.ColumnElement[bool] | None:
        """Returns a condition that is true, and says so when it has won a lock it may share.

        In a statement it is asked for before a row is changed. ``None`` if there is no need.
        """
        return None

    def owning(self, lock: sa.ColumnElement[int]) -> sa.ColumnElement[bool] | None:
        """The same for a lock that nobody else may have."""
        return None

    def upsert(self, insert: Any) -> Insert:
        """Returns what inserts a row or replaces its value and time, which come last."""
        table: sa.Table = insert.table
        changed = {column.name: insert.excluded[column.name] for column in list(table.c)[-2:]}
        upsert: Insert = insert.on_conflict_do_update(
            index_elements=table.primary_key, set_=changed
        )
        return upsert

    def insert_missing(self, insert: Any) -> Insert:
        """Returns what inserts a row unless there is one; `say` may raise `Overtaken` then."""
        statement: Insert = insert.on_conflict_do_nothing(index_elements=insert.table.primary_key)
        return statement

    def after(
        self, key: Sequence[sa.Column[Any]], last: Sequence[sa.BindParameter[Any]]
    ) -> sa.ColumnElement[bool]:
        """Returns the condition for the rows whose key comes after another one.

        With it the database goes straight to the first of them.
        """
        return sa.tuple_(*key) > sa.tuple_(*last)

    def up_to(
        self, key: Sequence[sa.Column[Any]], last: Sequence[sa.BindParameter[Any]]
    ) -> sa.ColumnElement[bool]:
        """Returns the condition for the rows whose key is another one or comes before it."""
        return sa.tuple_(*key) <= sa.tuple_(*last)

    def skip_locked(self, dialect: sa.Dialect) -> str | None:
        """Returns what makes a SELECT lock its rows, but for those that somebody has locked.

        ``None`` if this version of the server knows nothing like it.
        """
        return " FOR UPDATE SKIP LOCKED"

    def file_locks(self, connection: sa.Connection, schema: str | None) -> FileLocks | None:
        """Returns the locks of conversations where the database has none of its own."""
        return None

    def is_conflict(self, error: BaseException) -> bool:
        """Returns whether the database chose this transaction to fail so that another may go on."""
        return False

    def is_forbidden(self, error: DBAPIError) -> bool:
        """Returns whether the user lacks a right."""
        return False

    def is_gone(self, error: BaseException) -> bool:
        """Returns whether the connection is of no more use, although SQLAlchemy thinks it is.

        So is one to a server that only reads: while another one takes over, the next connection
        may lead to that one. And so is one that takes another time for the server's, so that what
        it said came too late. What was refused has certainly not happened.
        """
        return False

    def check_rights(self, connection: sa.Connection, table: sa.Table) -> None:
        """Raises the driver's error if the user may not read and write; changes nothing.

        Otherwise a mail server would start, and refuse every mail that changes a state.
        """
        nothing = sa.select(*table.c).where(sa.false())
        for statement in (
            self.upsert(self.insert(table)).from_select([c.name for c in table.c], nothing),
            table.delete().where(sa.false()),
        ):
            connection.execute(statement)

    def is_misconfigured(self, error: BaseException) -> bool:
        """Returns whether connecting cannot work until somebody changes the URL or the server."""
        return False

    def advice(self, error: BaseException) -> str:
        """Returns what to do about an error whose own text does not say it, or nothing."""
        return ""

    def pause(self, tables: Sequence[str]) -> Sequence[str]:
        """Returns what keeps others from writing into some tables until the connection ends."""
        return (self.begin,)

    def examine(self, driver: Any) -> list[str]:
        """Returns what the database finds wrong with its own files, one sentence each."""
        return []

    @staticmethod
    def diagnose(connection: sa.Connection, tables: sa.MetaData) -> Iterable[Finding]:
        """Returns what there is to say of the server or the file; see `StateStorage.diagnose`."""
        raise NotImplementedError

    def is_damaged(self, error: BaseException) -> bool:
        """Returns whether the database itself is damaged, so that trying again cannot help."""
        return False

    @contextmanager
    def schema_lock(self, connection: sa.Connection) -> Iterator[None]:
        """Keeps every other process from creating or changing the tables meanwhile."""
        connection.exec_driver_sql(self.begin)
        try:
            self._lock_schema(connection)
            yield
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")

    def _lock_schema(self, connection: sa.Connection) -> None:
        pass


def _run(cursor: Any, sql: str, rows: Sequence[tuple[Any, ...]]) -> Any:
    if len(rows) > 1:
        cursor.executemany(sql, rows)
        return cursor.rowcount
    cursor.execute(sql, rows[0])
    return cursor.fetchall() if sql.startswith("SELECT") else cursor.rowcount


def _length(steps: Sequence[Step]) -> int:
    """Returns how many characters and bytes the parameters have."""
    values = (each for _, rows in steps for row in rows for each in row)
    return sum(len(each) for each in values if isinstance(each, (str, bytes)))
