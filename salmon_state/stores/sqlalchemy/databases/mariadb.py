"""MariaDB and MySQL: their sessions, their errors, and a lock around CREATE TABLE."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import Insert

from salmon_state.errors import ConfigurationError, StorageUnavailable
from salmon_state.stores.sqlalchemy.databases.base import Database

__all__ = ["MariaDB"]


class MariaDB(Database):
    """A MariaDB or MySQL server, by PyMySQL or mysqlclient."""

    names = ("mysql", "mariadb")
    drivers = ("pymysql", "mysqldb")
    extra = "mysql"
    begin = "START TRANSACTION"

    # Error numbers: https://mariadb.com/kb/en/mariadb-error-code-reference/
    _CONFLICTS = (1205, 1213, 1020)
    _FORBIDDEN = (1142, 1143, 1227, 1044)
    _READ_ONLY = (1290, 1792)
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
        connection = dialect.connect(*arguments, **options)
        cursor = connection.cursor()
        # No gap locks, with which two inserts can deadlock; and a server that gives up before its
        # client does, so that nothing happens after the client was told that it did not. What
        # MySQL does not know is in a comment.
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        seconds = max(1, round(timeout))
        cursor.execute(
            f"SET SESSION innodb_lock_wait_timeout = {max(1, seconds - 1)}, "
            f"lock_wait_timeout = {max(1, seconds - 1)} "
            f"/*M! , max_statement_time = {seconds * 0.8} */"
        )
        cursor.close()
        return connection

    def upsert(self, table: sa.Table) -> Insert:
        insert = mysql.insert(table)
        changed = {name: insert.inserted[name] for name in ("state", "updated_at")}
        return insert.on_duplicate_key_update(changed)

    def insert_missing(self, table: sa.Table) -> Insert:
        return mysql.insert(table).prefix_with("IGNORE")

    def begin_moving(self, cursor: Any, lock: str, timeout: float) -> None:
        # Whoever waits for a row already keeps others from making one before it, and two that have
        # locked the same gap keep each other from making one in it.
        cursor.execute("SELECT GET_LOCK(%s, %s)", (lock, timeout))
        if cursor.fetchone()[0] != 1:
            raise StorageUnavailable(f"others were moving conversations for {timeout:g} s")
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # of the next one only

    def end_moving(self, cursor: Any, lock: str) -> None:
        cursor.execute("DO RELEASE_LOCK(%s)", (lock,))

    def after(self, key: Iterable[Any], last: tuple[Any, Any]) -> sa.ColumnElement[bool]:
        # For (a, b) > (x, y) it reads the whole table.
        (a, b), (x, y) = key, last
        return sa.or_(a > x, sa.and_(a == x, b > y))

    def truncate(self, table: str) -> tuple[str, ...]:
        return (
            "SET @salmon_state = @@lock_wait_timeout",
            # Not at all, or MySQL's least of 1 s: if we gave up first, it might happen later.
            "SET SESSION lock_wait_timeout = 0",
            f"TRUNCATE TABLE {table}",
            "SET SESSION lock_wait_timeout = @salmon_state",
        )

    def is_conflict(self, error: BaseException) -> bool:
        return _error_number(error) in self._CONFLICTS

    def is_forbidden(self, error: DBAPIError) -> bool:
        return _error_number(error.orig) in self._FORBIDDEN

    def is_gone(self, error: BaseException) -> bool:
        return _error_number(error) in self._READ_ONLY

    def is_misconfigured(self, error: BaseException) -> bool:
        return _error_number(error) in self._REFUSED

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

    @contextmanager
    def schema_lock(self, connection: sa.Connection) -> Iterator[None]:
        # CREATE TABLE commits, so that a transaction would hold nothing together here.
        if connection.exec_driver_sql("SELECT GET_LOCK('salmon_state schema', 60)").scalar() != 1:
            raise StorageUnavailable("another process has been changing the tables for too long")
        try:
            yield
        finally:
            connection.exec_driver_sql("SELECT RELEASE_LOCK('salmon_state schema')")


def _error_number(error: object) -> object:
    arguments = getattr(error, "args", ())
    return arguments[0] if arguments else None
