"""A SQLite connection that gets its turn, and that notices when its file is gone.

SQLite itself waits for another writer by trying again after up to 0.1 s each time. Among writers
that never pause, such a try mostly finds the next one at it: of 32 that wrote without end, some
were still refused after 5 s while others had written 500 times. Short pauses of random length
give everybody a turn.

And in WAL mode it goes on writing into a file that somebody has removed or replaced meanwhile,
which nobody will find again.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from typing import Any

__all__ = ["FileReplaced", "PatientConnection", "fetch_one"]

_LONGEST_PAUSE = 0.002


class FileReplaced(sqlite3.OperationalError):
    """The file of a connection is no longer the one at its path."""


class PatientConnection(sqlite3.Connection):
    """Tries a statement again, for some time, as long as the database is locked.

    A statement that begins a transaction, or is one by itself, has done nothing when it finds the
    database locked; inside a transaction that has begun to write none does.
    """

    _path = ""
    _patience = 0.0
    _identity: object = None

    def settle(self, path: str, patience: float) -> None:
        """Says which file it is, and for how many seconds to try."""
        self._path, self._patience = path, patience
        self._identity = _identify(path)

    def cursor(self, factory: Any = None) -> Any:
        """Returns a cursor whose ``execute`` is patient."""
        return super().cursor(factory or _PatientCursor)

    def check_file(self) -> None:
        """Raises `FileReplaced` if what is written now would be lost."""
        if _identify(self._path) != self._identity:
            raise FileReplaced(f"{self._path!r} was removed or replaced")


class _PatientCursor(sqlite3.Cursor):
    connection: PatientConnection

    def execute(self, sql: str, parameters: Any = ()) -> _PatientCursor:
        if not sql.startswith("SELECT"):  # it would double what finding a row costs
            self.connection.check_file()
        try:
            return super().execute(sql, parameters)
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
        return self._execute_later(sql, parameters)

    def _execute_later(self, sql: str, parameters: Any) -> _PatientCursor:
        deadline = time.monotonic() + self.connection._patience
        while True:
            time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - no secret
            try:
                return super().execute(sql, parameters)
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise


def fetch_one(driver: Any, sql: str, parameters: tuple[Any, ...]) -> Any:
    """Returns the first row of a query, or ``None``; a fifth quicker than with a cursor of ours."""
    try:
        return driver.execute(sql, parameters).fetchone()
    except sqlite3.OperationalError as error:
        if not _is_busy(error):
            raise
    return driver.cursor().execute(sql, parameters).fetchone()


def _identify(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return "database is locked" in str(error)  # the error code is there from Python 3.11 on only
