"""MariaDB and MySQL: their sessions, their errors, and a lock around CREATE TABLE."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import Insert

from salmon_state.backend import Backend
from salmon_state.entries import Entry, Want, Write
from salmon_state.errors import (
    ConfigurationError,
    Overtaken,
    StorageError,
    StorageUnavailable,
    busy,
)
from salmon_state.keys import Sender
from salmon_state.stores.clock import ServerClock
from salmon_state.stores.encoding import sender_digest
from salmon_state.stores.sqlalchemy.database import CAME_TOO_LATE, Database, Step
from salmon_state.stores.sqlalchemy.diagnosis.mariadb import diagnose_mariadb
from salmon_state.stores.sqlalchemy.tables import Tables
from salmon_state.stores.sqlalchemy.work import BEFORE_HANDLERS, SQLWork

__all__ = ["MariaDB"]


_NO_SUCH_SAVEPOINT = 1305
_DUPLICATE = 1062
_MULTI_STATEMENTS = 1 << 16  # CLIENT_MULTI_STATEMENTS
_TAKEN_BY_ALL = 500_000
"""A statement with so many characters and bytes is no longer than any server allows."""
_ATTEMPTS = 5
"""How often a commit is tried again that the database ends in favour of another."""


class MariaDBWork(SQLWork):
    """A named lock of the server, the snapshot, then a transaction for the writes.

    The lock belongs to the connection: it ends with it, which the server closes when the client
    dies; and it needs one that stays the same, which a transaction pooler in between does not
    give. It needs 1 round trip to begin and 1 to end, which writes one state as well; where there
    are several, or something was read beside them, 1 more.
    """

    def __init__(self, store: Backend, tables: Tables) -> None:
        super().__init__(store, tables)
        self._names: list[str] = []

    def enter(self, sender: Sender, timeout: float, wants: Sequence[Want]) -> list[Entry]:
        self._check_connection()
        name = self._tables.lock_name(sender_digest(sender)) if sender else None
        if self._loan is None:
            self._take_place()
            self._loan, entries = self._pool.hold(self._open, name, sender, timeout, wants)
        else:
            entries = self._on_loan(self._open, name, sender, timeout, wants)
        if entries is None:
            raise busy(timeout)
        if name is not None:
            self._names.append(name)
        return entries

    def _open(
        self, cursor: Any, name: str | None, sender: Sender, timeout: float, wants: Sequence[Want]
    ) -> list[Entry] | None:
        tables, database = self._tables, self._database
        sql, parameters = tables.wanted(sender, wants)
        read: Step = (sql, [parameters])
        if name is None:
            return tables.found(database.say(cursor, [read])[0], wants)
        deadline = time.monotonic() + timeout
        while True:
            # In portions, each well within the time after which the driver takes the server for
            # dead.
            wait = max(0.0, min(deadline - time.monotonic(), self._pool.timeout / 2))
            # A statement of its own: it sees what happened while the lock was waited for.
            won, rows = database.say(cursor, [("SELECT GET_LOCK(%s, %s)", [(name, wait)]), read])
            if won[0][0] == 1:
                return tables.found(rows, wants)
            if time.monotonic() >= deadline:
                return None

    def _write(self, cursor: Any, writes: Sequence[Write]) -> None:
        for _ in range(_ATTEMPTS):
            try:
                self._write_once(cursor, writes)
                return
            except self._pool.driver_error as error:
                # The sender's lock is the connection's and stays; what handlers did does not.
                if self._shared or not self._database.is_conflict(error):
                    raise
        self._write_once(cursor, writes)

    def _write_once(self, cursor: Any, writes: Sequence[Write]) -> None:
        super()._write(cursor, writes)
        if self._freeing(cursor):
            self._names.clear()

    def _freeing(self, cursor: Any) -> list[Step]:
        free: Step = ("DO RELEASE_LOCK(%s)", [(name,) for name in self._names])
        return [free] if self._names and self._database.speaker(cursor) else []

    def _was_given_up(self, cursor: Any) -> bool:
        try:
            cursor.execute(f"RELEASE SAVEPOINT {BEFORE_HANDLERS}")
        except self._pool.driver_error as error:
            if error.args[:1] != (_NO_SUCH_SAVEPOINT,):
                raise
            return True
        return False

    def _unlock(self) -> None:
        if self._names and self._loan is not None:
            self._on_loan(self._release)

    def _release(self, cursor: Any) -> None:
        for name in self._names:
            cursor.execute("DO RELEASE_LOCK(%s)", (name,))


class MariaDB(Database):
    """A MariaDB or MySQL server, by PyMySQL or mysqlclient."""

    work = MariaDBWork
    names = ("mysql", "mariadb")
    drivers = ("pymysql", "mysqldb")
    package = "PyMySQL"
    begin = "START TRANSACTION"
    # Whatever the session's time zone is.
    time_question = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6"
    insert = staticmethod(mysql.insert)
    diagnose = staticmethod(diagnose_mariadb)
    holds_rows_only = True
    for_share = " FOR UPDATE"  # to share them and then to change one would deadlock with a third

    # Error numbers: https://mariadb.com/kb/en/mariadb-error-code-reference/
    _CONFLICTS = (1205, 1213, 1020)
    _FORBIDDEN = (1142, 1143, 1227, 1044)
    _READ_ONLY = (1290, 1792)
    _TOO_LATE = 1690  # a number out of range; see `in_time`
    _REFUSED = (1044, 1045, 1049, 1130, 1698, 2061)

    def options(self, driver: Any) -> Mapping[str, type] | None:
        if driver.__name__ != "pymysql":
            return None  # mysqlclient does not say what it takes
        names = inspect.signature(driver.connect).parameters
        # What SQLAlchemy makes of a URL's texts, and what it adds to the driver's own.
        times = ("connect_timeout", "read_timeout", "write_timeout")
        numbers = ("client_flag", "max_allowed_packet", "port", *times)
        truths = ("compress", "local_infile", "use_unicode", "ssl_check_hostname")
        return {
            **dict.fromkeys([*names, "ssl_capath", "ssl_cipher"], str),
            **dict.fromkeys(numbers, int),
            **dict.fromkeys(truths, bool),
        }

    def connect_arguments(self, url: sa.URL, timeout: float) -> dict[str, Any]:
        seconds = max(1, round(timeout))
        return dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), seconds)

    def connect(
        self, dialect: sa.Dialect, arguments: Sequence[Any], options: dict[str, Any], timeout: float
    ) -> Any:
        # As PyMySQL alone does not let anybody, and mysqlclient and psycopg do.
        flags = options.get("client_flag", 0) | _MULTI_STATEMENTS
        connection = dialect.connect(*arguments, **{**options, "client_flag": flags})
        cursor = connection.cursor()
        # No gap locks, with which two inserts can deadlock; and a server that gives up before its
        # client does, so that nothing happens after the client was told that it did not. What
        # MySQL does not know is in a comment.
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        seconds = max(1, round(timeout))
        waiting = max(1, seconds // 2)
        cursor.execute(
            f"SET SESSION innodb_lock_wait_timeout = {waiting}, lock_wait_timeout = {waiting} "
            f"/*M! , max_statement_time = {seconds * 0.8} */"
        )
        cursor.close()
        # What begins by then has its lock, or has given up, before its client gives up.
        connection.clock = ServerClock(self.ask_time, max(seconds - waiting, seconds / 2))
        return connection

    def deadline(self, driver: Any) -> str | None:
        seconds: Any = super().deadline(driver)
        return None if seconds is None else _text(int(seconds * 10))

    def in_time(self, deadline: sa.BindParameter[Any]) -> sa.ColumnElement[bool]:
        # A whole number beyond all is an error in every SQL mode. The time is that at which the
        # statement arrived, also on replicas; @@timestamp takes longer to parse.
        late = sa.literal_column("UTC_TIMESTAMP(6)", sa.String) >= deadline
        most: sa.ColumnElement[Any] = sa.literal_column("~0", sa.BigInteger)
        return most + late.self_group()

    def speaker(self, cursor: Any) -> Any:
        flags = getattr(cursor.connection, "client_flag", 0)
        return cursor if flags & _MULTI_STATEMENTS else None

    def upsert(self, insert: Any) -> Insert:
        changed = {
            column.name: insert.inserted[column.name] for column in list(insert.table.c)[-2:]
        }
        upsert: Insert = insert.on_duplicate_key_update(changed)
        return upsert

    def insert_missing(self, insert: Any) -> Insert:
        plain: Insert = insert  # IGNORE would ignore other errors as well
        return plain

    def skip_locked(self, dialect: Any) -> str | None:
        since = (10, 6) if dialect.is_mariadb else (8, 0, 1)
        return super().skip_locked(dialect) if dialect.server_version_info >= since else None

    def say(self, cursor: Any, steps: Sequence[Step]) -> list[Any]:
        for sql, rows in steps:
            _check_size(cursor.connection, sql, rows)
        with _overtaken_by_duplicates():
            return super().say(cursor, steps)

    @staticmethod
    def execute(driver: Any, sql: str, parameters: tuple[Any, ...]) -> int:
        _check_size(driver, sql, (parameters,))
        with _overtaken_by_duplicates():
            return Database.execute(driver, sql, parameters)

    def check_writers(self, connection: sa.Connection) -> None:
        # The locks of conversations are those of one server: on two, one sender's mails overlap.
        names = "'wsrep_on', 'wsrep_provider', 'group_replication_single_primary_mode'"
        rows = connection.exec_driver_sql(f"SHOW VARIABLES WHERE Variable_name IN ({names})")
        found = {str(name).lower(): str(value) for name, value in rows}
        galera = found.get("wsrep_on") == "ON" and found.get("wsrep_provider", "none") != "none"
        if galera or found.get("group_replication_single_primary_mode") == "OFF":
            kind = "a Galera cluster" if galera else "a MySQL group with several primaries"
            raise ConfigurationError(
                f"the server is a node of {kind}, and every node of it may write: the lock of a "
                "conversation would be one node's own. Use a database with one writable server, "
                "with replicas as you like"
            )

    def begin_moving(self, cursor: Any, lock: str, timeout: float) -> None:
        # Whoever waits for a row already keeps others from making one before it, and two that have
        # locked the same gap keep each other from making one in it.
        isolation = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"  # of the next one only
        win: Step = ("SELECT GET_LOCK(%s, %s)", [(lock, timeout)])
        if self.say(cursor, [win, (isolation, [()])])[0][0][0] != 1:
            raise StorageUnavailable(f"others were moving conversations for {timeout:g} s")

    def end_moving(self, cursor: Any, lock: str) -> None:
        cursor.execute("DO RELEASE_LOCK(%s)", (lock,))

    def after(
        self, key: Sequence[sa.Column[Any]], last: Sequence[sa.BindParameter[Any]]
    ) -> sa.ColumnElement[bool]:
        # For (a, b) > (x, y) it reads the whole table.
        (column, *key), (bound, *last) = key, last
        if not key:
            return column > bound
        return sa.or_(column > bound, sa.and_(column == bound, self.after(key, last)))

    def up_to(
        self, key: Sequence[sa.Column[Any]], last: Sequence[sa.BindParameter[Any]]
    ) -> sa.ColumnElement[bool]:
        (column, *key), (bound, *last) = key, last
        if not key:
            return column <= bound
        return sa.or_(column < bound, sa.and_(column == bound, self.up_to(key, last)))

    def pause(self, tables: Sequence[str]) -> Sequence[str]:
        return (f"LOCK TABLES {', '.join(f'{table} READ' for table in tables)}",)

    def is_conflict(self, error: BaseException) -> bool:
        return _error_number(error) in self._CONFLICTS

    def is_forbidden(self, error: DBAPIError) -> bool:
        return _error_number(error.orig) in self._FORBIDDEN

    def is_gone(self, error: BaseException) -> bool:
        return _error_number(error) in (*self._READ_ONLY, self._TOO_LATE)

    def is_misconfigured(self, error: BaseException) -> bool:
        return _error_number(error) in self._REFUSED

    def advice(self, error: BaseException) -> str:
        return CAME_TOO_LATE if _error_number(error) == self._TOO_LATE else ""

    @contextmanager
    def schema_lock(self, connection: sa.Connection) -> Iterator[None]:
        # CREATE TABLE commits, so that a transaction would hold nothing together here.
        if connection.exec_driver_sql("SELECT GET_LOCK('salmon_state schema', 60)").scalar() != 1:
            raise StorageUnavailable("another process has been changing the tables for too long")
        try:
            yield
        finally:
            connection.exec_driver_sql("SELECT RELEASE_LOCK('salmon_state schema')")


def _check_size(driver: Any, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Raises `StorageError` if the server does not take a statement that is so long."""
    for row in rows:
        if sum(len(each) for each in row if isinstance(each, (str, bytes))) < _TAKEN_BY_ALL:
            continue
        cursor = driver.cursor()
        size = len(cursor.mogrify(sql, row))
        cursor.execute("SELECT @@max_allowed_packet")
        limit = int(cursor.fetchone()[0])
        cursor.close()
        if size >= limit:  # the server would only close the connection
            raise StorageError(
                f"an entry that takes a statement of {size:,} bytes was not written: set "
                f"max_allowed_packet of the database server, which is {limit:,}, above that"
            )


@contextmanager
def _overtaken_by_duplicates() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if _error_number(error) == _DUPLICATE:
            raise Overtaken from error
        raise


def _error_number(error: object) -> object:
    arguments = getattr(error, "args", ())
    return arguments[0] if arguments else None


@lru_cache(maxsize=16)
def _text(tenths: int) -> str:
    """Returns a moment, given in tenths of a second since 1970, as the database writes it.

    Many statements of one moment share it, as making it would double what a deadline takes.
    """
    return str(datetime(1970, 1, 1) + timedelta(milliseconds=100 * tenths))
