"""SQLite: a file, its rights, and the locks that it has not."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from salmon_state.errors import ConfigurationError, StorageError
from salmon_state.stores.files import beside, create_private_file, make_private, resolve_path
from salmon_state.stores.locks import FileLocks
from salmon_state.stores.sqlalchemy.database import Database, Step
from salmon_state.stores.sqlalchemy.databases.sqlite_patience import (
    CANNOT_OPEN,
    NO_DESCRIPTORS,
    CannotOpenNow,
    FileReplaced,
    PatientConnection,
    execute,
    fetch_all,
    fetch_one,
)
from salmon_state.stores.sqlalchemy.diagnosis.sqlite import diagnose_sqlite
from salmon_state.stores.sqlalchemy.work import SQLWork

__all__ = ["SQLite"]

_EACH_STATEMENT = "before_cursor_execute"


class SQLiteWork(SQLWork):
    """The lock is one of the operating system, on a file beside the database.

    A transaction of SQLite's would keep everybody else from writing while a handler runs. It is
    begun at the end, or by the first statement of a handler that is no SELECT: reading, before a
    mail is sent on to a thousand others, takes nothing from anybody.
    """

    def _share(self, connection: sa.Connection) -> None:
        sa.event.listen(connection, _EACH_STATEMENT, self._before_statement)

    def _unshare(self, connection: sa.Connection) -> None:
        sa.event.remove(connection, _EACH_STATEMENT, self._before_statement)
        super()._unshare(connection)

    def _before_statement(
        self, connection: sa.Connection, cursor: Any, statement: str, *_: object
    ) -> None:
        if self._in_transaction or statement[:7].upper() == "SELECT ":
            return
        try:
            cursor.execute(self._database.begin)
        except self._pool.driver_error as error:
            self._store._raise(error)
        self._in_transaction = True

    @property
    def given_up(self) -> bool:
        return (
            self._loan is not None and self._in_transaction and not self._loan.driver.in_transaction
        )


class SQLite(Database):
    """A file, shared by the processes of one machine."""

    names = ("sqlite",)
    work = SQLiteWork
    drivers = ("pysqlite",)
    begin = "BEGIN IMMEDIATE"  # a transaction that only then wants to write may find it cannot
    inheritable = False
    remote = False
    for_share = ""  # whoever has begun to write is alone
    has_locks = False
    one_writer = True

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
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"{str(path)!r} is no UTF-8, in which SQLite has the names of files: give another "
                "path"
            ) from None
        create_private_file(path)  # SQLite gives its -wal and -shm files the mode of this one
        for suffix in ("-wal", "-shm"):
            make_private(beside(path, suffix))
        return url.set(database=str(path))

    def options(self, driver: Any) -> Mapping[str, type]:
        # As SQLAlchemy has them. It ignores all others, so that a misspelt one does nothing.
        return {
            "timeout": float,
            "isolation_level": str,
            "detect_types": int,
            "check_same_thread": bool,
            "cached_statements": int,
            "uri": bool,
        }

    def connect_arguments(self, url: sa.URL, timeout: float) -> dict[str, Any]:
        return {"timeout": 0, "check_same_thread": False}  # see PatientConnection

    def connect(
        self, dialect: sa.Dialect, arguments: Sequence[Any], options: dict[str, Any], timeout: float
    ) -> Any:
        path, *rest = arguments
        # mode=rw: SQLite would make a new file, readable by others, if ours had been removed.
        uri = f"{Path(path).as_uri()}?mode=rw"
        connection: Any = None
        try:
            connection = sqlite3.connect(uri, *rest, uri=True, factory=PatientConnection, **options)
            connection.settle(path, timeout, _queue_file(path))
            connection.isolation_level = None
            cursor = connection.cursor()
            # WAL: readers and the writer do not wait for each other. FULL: every commit reaches
            # the disk before it returns (https://www.sqlite.org/pragma.html#pragma_synchronous).
            mode = cursor.execute("PRAGMA journal_mode").fetchone()
            if mode != ("wal",):
                mode = cursor.execute("PRAGMA journal_mode = WAL").fetchone()
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.close()
            if mode == ("wal",):  # as everywhere but on some network's disks
                connection.sync_by_hand()
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, OSError) or CANNOT_OPEN in str(error):
                raise _explained(path) from error
            raise
        return connection

    insert = staticmethod(sqlite.insert)
    diagnose = staticmethod(diagnose_sqlite)
    fetch_one = staticmethod(fetch_one)
    fetch_all = staticmethod(fetch_all)
    execute = staticmethod(execute)

    def say(self, cursor: Any, steps: Sequence[Step]) -> list[Any]:
        driver = cursor.connection
        results: list[Any] = []
        for sql, rows in steps:
            if sql == self.begin:
                results.append(execute(driver, sql, ()))
                continue
            # In a transaction that writes nobody has to wait: not with our cursor, for its speed.
            done = driver.execute(sql, rows[0]) if len(rows) == 1 else driver.executemany(sql, rows)
            results.append(done.fetchall() if sql.startswith("SELECT") else done.rowcount)
        return results

    def skip_locked(self, dialect: sa.Dialect) -> str:
        return ""  # whoever has begun to write is alone

    def check_rights(self, connection: sa.Connection, table: sa.Table) -> None:
        """Does nothing: the rights are those of the file, which `prepare_url` has checked."""

    def file_locks(self, connection: sa.Connection, schema: str | None) -> FileLocks | None:
        # Not from the URL, which an engine's creator may ignore.
        for _, name, path in connection.exec_driver_sql("PRAGMA database_list"):
            if name == (schema or "main") and path:
                return FileLocks(_queue_file(path))
        return None  # an application's own engine, with a database in memory

    def is_gone(self, error: BaseException) -> bool:
        return isinstance(error, FileReplaced)

    def is_misconfigured(self, error: BaseException) -> bool:
        if isinstance(error, CannotOpenNow):
            return False
        found = re.search(f"{CANNOT_OPEN}|unknown database", str(error))
        return bool(found) or self.is_damaged(error)

    def examine(self, driver: Any) -> list[str]:
        found = driver.execute("PRAGMA integrity_check").fetchall()
        return [f"SQLite: {text}" for (text,) in found if text != "ok"]

    def is_damaged(self, error: BaseException) -> bool:
        # Python 3.10 drops the words if they quote what is no UTF-8.
        words = "malformed|not a database|file is encrypted|not decode to UTF-8|^$"
        return isinstance(error, sqlite3.DatabaseError) and bool(re.search(words, str(error)))


def _explained(path: str) -> sqlite3.OperationalError:
    """Returns why SQLite cannot open a file; it says the same words for every reason.

    The file is not opened to find out: to close it again would drop SQLite's locks on it.
    """
    try:
        resolve_path(path)
    except ConfigurationError as error:
        return sqlite3.OperationalError(f"{CANNOT_OPEN}: {error}")
    except StorageError as error:
        return CannotOpenNow(error.detail)
    if not os.path.exists(path):
        return CannotOpenNow(
            f"{path!r} was removed while it was in use; put it back, or start the process anew "
            "to begin with an empty one"
        )
    return CannotOpenNow(f"{path!r} cannot be opened now: {NO_DESCRIPTORS}")


def _queue_file(path: str) -> Path:
    """Returns the file of the locks and queues of a database.

    Whoever comes by a symbolic link must meet whoever does not.
    """
    return Path(os.path.realpath(path) + ".conversations")
