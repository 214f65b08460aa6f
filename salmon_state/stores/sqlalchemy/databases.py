"""What each database needs that the others do not: connecting, upserts, errors, locks."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import Insert

from salmon_state.errors import ConfigurationError, StorageUnavailable
from salmon_state.stores.files import create_private_file, resolve_path
from salmon_state.stores.locks import FileLocks
from salmon_state.stores.sqlalchemy.sqlite_patience import (
    FileReplaced,
    PatientConnection,
    fetch_one,
)

__all__ = ["Database"]


class Database:
    """One kind of database; the methods' defaults are what most of them share."""

    names: ClassVar[tuple[str, ...]] = ()
    """The names of SQLAlchemy's dialects."""
    driver: ClassVar[str] = ""
    """The usual driver."""
    extra: ClassVar[str] = ""
    """The extra that installs it."""
    begin: ClassVar[str] = "BEGIN"
    """Starts a transaction that writes."""
    inheritable: ClassVar[bool] = True
    """Whether a forked child may have its parent's connections, as long as it leaves them alone."""
    has_locks: ClassVar[bool] = True
    """Whether it has locks by name, on which conversations can be built."""

    @staticmethod
    def of(dialect: sa.Dialect) -> Database:
        """Returns the database that a dialect of SQLAlchemy is for."""
        return Database.named(dialect.name)

    @staticmethod
    def named(name: str) -> Database:
        """Returns the database that SQLAlchemy calls by this name.

        Raises:
            ConfigurationError: It is none of those that a store can use.
        """
        for kind in (SQLite, PostgreSQL, MariaDB):
            if name in kind.names:
                return kind()
        raise ConfigurationError(
            f"no states can be kept in {name!r}: known: sqlite, postgresql, mysql, mariadb"
        )

    def prepare_url(self, url: sa.URL) -> sa.URL:
        """Returns the URL to connect to; checks what can be checked without connecting."""
        return url

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
    def fetch_one(driver: Any, sql: str, parameters: tuple[Any, ...]) -> Any:
        """Returns the first row of a query, or ``None``."""
        cursor = driver.cursor()
        cursor.execute(sql, parameters)
        row = cursor.fetchone()
        cursor.close()
        return row

    def upsert(self, table: sa.Table) -> Insert:
        """Returns the statement that inserts a row or replaces its state and time."""
        raise NotImplementedError

    def insert_missing(self, table: sa.Table) -> Insert:
        """Returns the statement that inserts a row unless there is one."""
        raise NotImplementedError

    def truncate(self, table: str) -> tuple[str, ...]:
        """Returns the statements that empty a table at once, or none if DELETE is as fast."""
        return ()

    def file_locks(self, url: sa.URL) -> FileLocks | None:
        """Returns the locks of conversations where the database has none of its own."""
        return None

    def is_conflict(self, error: BaseException) -> bool:
        """Returns whether the database chose this transaction to fail so that another may go on."""
        return False

    def is_forbidden(self, error: DBAPIError) -> bool:
        """Returns whether the user lacks a right."""
        return False

    def is_gone(self, error: BaseException) -> bool:
        """Returns whether the connection is of no more use, although SQLAlchemy thinks it is."""
        return False

    def check_rights(self, connection: sa.Connection, table: sa.Table) -> None:
        """Raises the driver's error if the user may not read and write; changes nothing.

        Otherwise a mail server would start, and refuse every mail that changes a state.
        """
        nothing = sa.select(*table.c).where(sa.false())
        for statement in (
            self.upsert(table).from_select([column.name for column in table.c], nothing),
            table.delete().where(sa.false()),
        ):
            connection.execute(statement)

    def is_misconfigured(self, error: BaseException) -> bool:
        """Returns whether connecting cannot work until somebody changes the URL or the server."""
        return False

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


class SQLite(Database):
    """A file, shared by the processes of one machine."""

    names = ("sqlite",)
    driver = "pysqlite"
    begin = "BEGIN IMMEDIATE"  # a transaction that only then wants to write may find it cannot
    inheritable = False
    has_locks = False

    def prepare_url(self, url: sa.URL) -> sa.URL:
        """Resolves the path, once, and creates the file for its owner only."""
        database = url.database or ":memory:"
        if database == ":memory:":
            raise ConfigurationError(
                "an SQLite database in memory is not shared and forgets: use memory://, or give a "
                "path: sqlite:///run/states.db"
            )
        if database.startswith("file:") or "uri" in url.query:
            raise ConfigurationError(
                "SQLite's file: URIs are not supported: give a path, sqlite:///run/states.db"
            )
        if url.host or url.username or url.port:
            raise ConfigurationError(
                "an SQLite database has a path and no host or user: sqlite:///run/states.db"
            )
        path = resolve_path(database)
        create_private_file(path)  # SQLite gives its -wal and -shm files the mode of this one
        return url.set(database=str(path))

    def connect_arguments(self, url: sa.URL, timeout: float) -> dict[str, Any]:
        return {"timeout": 0, "check_same_thread": False}  # see PatientConnection

    def connect(
        self, dialect: sa.Dialect, arguments: Sequence[Any], options: dict[str, Any], timeout: float
    ) -> Any:
        path, *rest = arguments
        # mode=rw: SQLite would make a new file, readable by others, if ours had been removed.
        uri = f"file://{quote(path)}?mode=rw"
        connection = sqlite3.connect(uri, *rest, uri=True, factory=PatientConnection, **options)
        try:
            connection.settle(path, timeout)
            connection.isolation_level = None
            cursor = connection.cursor()
            # WAL: readers and the writer do not wait for each other. FULL: every commit reaches
            # the disk before it returns (https://www.sqlite.org/pragma.html#pragma_synchronous).
            if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                cursor.execute("PRAGMA journal_mode = WAL").fetchone()
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.close()
        except BaseException:
            connection.close()
            raise
        return connection

    fetch_one = staticmethod(fetch_one)

    def upsert(self, table: sa.Table) -> Insert:
        insert = sqlite.insert(table)
        changed = {name: insert.excluded[name] for name in ("state", "updated_at")}
        return insert.on_conflict_do_update(index_elements=table.primary_key, set_=changed)

    def insert_missing(self, table: sa.Table) -> Insert:
        return sqlite.insert(table).on_conflict_do_nothing(index_elements=table.primary_key)

    def check_rights(self, connection: sa.Connection, table: sa.Table) -> None:
        """Does nothing: the rights are those of the file, which `prepare_url` has checked."""

    def file_locks(self, url: sa.URL) -> FileLocks | None:
        if not url.database or url.database == ":memory:":  # an application's own engine
            return None
        return FileLocks(Path(os.path.abspath(f"{url.database}.conversations")))

    def is_gone(self, error: BaseException) -> bool:
        return isinstance(error, FileReplaced)

    def is_misconfigured(self, error: BaseException) -> bool:
        return "unable to open database file" in str(error) or self.is_damaged(error)

    def is_damaged(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.DatabaseError) and bool(
            re.search("malformed|not a database|file is encrypted", str(error))
        )


class PostgreSQL(Database):
    """A PostgreSQL server, by psycopg 3 or psycopg2."""

    names = ("postgresql",)
    driver = "psycopg"
    extra = "postgresql"

    # SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
    _CONFLICTS = ("40001", "40P01", "55P03")
    _FORBIDDEN = ("42501", "25006")
    _MISSING = ("3F000",)
    # libpq reports a refused login as text only.
    _REFUSED = re.compile(
        "authentication failed|no password supplied|(role|database) .* does not exist|"
        "permission denied for database|no pg_hba.conf entry|is not permitted to log in|"
        "invalid connection option|invalid [a-z_ ]*value"
    )

    def connect_arguments(self, url: sa.URL, timeout: float) -> dict[str, Any]:
        # libpq takes whole seconds and turns 1 into 2.
        return {"connect_timeout": max(2, round(timeout)), "application_name": "salmon-state"}

    def upsert(self, table: sa.Table) -> Insert:
        insert = postgresql.insert(table)
        changed = {name: insert.excluded[name] for name in ("state", "updated_at")}
        return insert.on_conflict_do_update(index_elements=table.primary_key, set_=changed)

    def insert_missing(self, table: sa.Table) -> Insert:
        return postgresql.insert(table).on_conflict_do_nothing(index_elements=table.primary_key)

    def connect(
        self, dialect: sa.Dialect, arguments: Sequence[Any], options: dict[str, Any], timeout: float
    ) -> Any:
        if dialect.driver != "psycopg":
            return dialect.connect(*arguments, **options)
        # Here and not above: only whoever uses PostgreSQL has the driver.
        from salmon_state.stores.sqlalchemy.psycopg_timeout import BoundedConnection

        connection = BoundedConnection.connect(*arguments, **options)
        connection.statement_timeout = timeout
        # Whatever the default is: with a stricter one, writers of the same row fail each other.
        connection.autocommit = True
        connection.execute(
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
            prepare=False,
        ).close()
        return connection

    def truncate(self, table: str) -> tuple[str, ...]:
        return ("SET LOCAL lock_timeout = '1s'", f"TRUNCATE TABLE {table}")

    def is_conflict(self, error: BaseException) -> bool:
        return _sqlstate(error) in self._CONFLICTS

    def is_forbidden(self, error: DBAPIError) -> bool:
        return _sqlstate(error.orig) in self._FORBIDDEN

    def is_misconfigured(self, error: BaseException) -> bool:
        return _sqlstate(error) in self._MISSING or bool(self._REFUSED.search(str(error)))

    def _lock_schema(self, connection: sa.Connection) -> None:
        # IF NOT EXISTS is no help: two at once still collide in the catalogue.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7957125123961775)")


class MariaDB(Database):
    """A MariaDB or MySQL server, by PyMySQL or mysqlclient."""

    names = ("mysql", "mariadb")
    driver = "pymysql"
    extra = "mysql"
    begin = "START TRANSACTION"

    # Error numbers: https://mariadb.com/kb/en/mariadb-error-code-reference/
    _CONFLICTS = (1205, 1213, 1020)
    _FORBIDDEN = (1142, 1143, 1227, 1290, 1792, 1044)
    _REFUSED = (1044, 1045, 1049, 1130, 1698, 2061)

    def connect_arguments(self, url: sa.URL, timeout: float) -> dict[str, Any]:
        seconds = max(1, round(timeout))
        arguments = {"connect_timeout": seconds}
        if url.get_driver_name() in ("pymysql", "mysqldb"):
            arguments |= {"read_timeout": seconds, "write_timeout": seconds}
        return arguments

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

    def truncate(self, table: str) -> tuple[str, ...]:
        return (f"TRUNCATE TABLE {table}",)

    def is_conflict(self, error: BaseException) -> bool:
        return _error_number(error) in self._CONFLICTS

    def is_forbidden(self, error: DBAPIError) -> bool:
        return _error_number(error.orig) in self._FORBIDDEN

    def is_misconfigured(self, error: BaseException) -> bool:
        return _error_number(error) in self._REFUSED

    @contextmanager
    def schema_lock(self, connection: sa.Connection) -> Iterator[None]:
        # CREATE TABLE commits, so that a transaction would hold nothing together here.
        if connection.exec_driver_sql("SELECT GET_LOCK('salmon_state schema', 60)").scalar() != 1:
            raise StorageUnavailable("another process has been changing the tables for too long")
        try:
            yield
        finally:
            connection.exec_driver_sql("SELECT RELEASE_LOCK('salmon_state schema')")


def _sqlstate(error: object) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def _error_number(error: object) -> object:
    arguments = getattr(error, "args", ())
    return arguments[0] if arguments else None
