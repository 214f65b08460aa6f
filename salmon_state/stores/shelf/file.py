"""The file of a shelf: that of Python 3.13's ``dbm.sqlite3``, on every Python.

``dbm.gnu``, ``dbm.ndbm`` and ``dbm.dumb`` were rejected: a SIGKILL in mid-write damages each of
them, and which one a Python has is a matter of luck. SQLite is in all of them and survives it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ShelfFile", "database_tables", "is_database"]


class ShelfFile:
    """An SQLite file. Not safe under threads.

    What is written outside `transaction` is durable when the call returns, and what is written
    inside when it ends: it survives SIGKILL and power loss.

    Args:
        path: An existing file, empty or an SQLite database. It is never created here: a file that
            somebody removes must not come back empty.
        timeout: Seconds to wait for a lock of another process.
        journal: SQLite's journal mode; ``DELETE`` for a file that will be renamed.

    Raises:
        sqlite3.Error: As every method; ``OperationalError`` if it cannot be used now.

    Attributes:
        execute: That of the connection.
    """

    def __init__(self, path: Path, timeout: float, *, journal: str = "WAL") -> None:
        self.path = path
        self._connection = _connect(path, timeout)
        self.execute = self._connection.execute
        try:
            self.execute("PRAGMA synchronous = FULL")
            self.execute("PRAGMA trusted_schema = OFF")
            self.execute(f"PRAGMA journal_mode = {journal}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def page(self, sql: str, values: Any) -> tuple[list[Any], bool]:
        """Returns the first rows of a query, and whether there may be more.

        At most 500, and no more than 1 MiB if more than one: a sender may have megabytes. The last
        column says how long a row is. Between two pages nothing is open, which would keep SQLite
        from emptying its WAL.
        """
        rows: list[Any] = []
        length = 0
        with closing(self.execute(f"{sql} LIMIT {_PAGE}", values)) as cursor:
            for row in cursor:
                rows.append(row)
                length += row[-1]
                if length > _PAGE_BYTES:
                    return rows, True
        return rows, len(rows) == _PAGE

    def has(self, name: str) -> bool:
        """Returns whether there is a table or an index of this name now."""
        found = self.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,))
        return found.fetchone() is not None

    @property
    def in_transaction(self) -> bool:
        """Whether a `transaction` is open."""
        return self._connection.in_transaction

    @contextmanager
    def transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
        """Makes all that is read and written inside one step: wholly done at the end, or not.

        Inside another one, it is done when that is.
        """
        commit, undo = "COMMIT", ["ROLLBACK"]
        if self.in_transaction:
            begin, commit = "SAVEPOINT inside", "RELEASE inside"
            undo = ["ROLLBACK TO inside", commit]
        self.execute(begin)
        try:
            yield
            self.execute(commit)
        except BaseException:
            for statement in undo:
                if self.in_transaction:  # SQLite itself rolls back some errors
                    self.execute(statement)
            raise

    def copy_to(self, path: Path) -> None:
        """Copies the whole file into an existing empty one."""
        with closing(_connect(path, 0)) as copy:
            self._connection.backup(copy)


_PAGE = 500
_PAGE_BYTES = 1 << 20


def is_database(path: Path) -> bool:
    """Returns whether a file, which exists and is not empty, is an SQLite database."""
    try:
        return database_tables(path, 0) is not None
    except sqlite3.OperationalError:
        return True  # locked, for one; whoever goes on to use it meets the error again


def database_tables(path: Path, timeout: float) -> set[str] | None:
    """Returns the names of the tables in a file; ``None`` if it is no SQLite database.

    SQLite is asked. To open a file that this process already has open as a database and to close
    it again would drop all of SQLite's locks on it, by the rules of POSIX.

    Raises:
        sqlite3.OperationalError: It cannot be read now.
    """
    try:
        with closing(_connect(path, timeout)) as connection:
            return {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return None


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(
        uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
    )
