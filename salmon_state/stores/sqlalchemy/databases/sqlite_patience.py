"""A SQLite connection that gets its turn, keeps it briefly, and notices when its file is gone.

SQLite itself waits for another writer by trying again after up to 0.1 s each time. Among writers
that never pause, such a try mostly finds the next one at it: of 32 that wrote without end, some
were still refused after 5 s while others had written 500 times. Pauses of random length let one
write twice as often as another; in a queue everybody gets the same.

Such a queue is looked at in pauses, in which nobody may be writing: eight threads of one process
did a fifth of what one did. So they take turns in memory, where the next one is woken at once, and
only the one whose turn it is waits for other processes.

With ``synchronous = FULL`` SQLite waits for the disk at the end of a commit, and has its lock for
writers meanwhile: others could only wait too. With ``NORMAL`` it leaves that out, and whoever has
committed does it without the lock, beside others who do the same: eight threads commit as often as
the disk can take it, two processes twice as often as before. What is on the disk then is all of
the WAL up to that commit, and so everything that somebody could have read before it. All else that
``NORMAL`` means is done at checkpoints (https://www.sqlite.org/pragma.html#pragma_synchronous). So
a commit is durable when it returns, as before; but others may read it a moment earlier. A receiver
brings the commits of several mails to the disk at a time (`salmon_state.stores.disk`).

And in WAL mode it goes on with a file that somebody has removed or replaced meanwhile: what it
writes nobody will find again, and what it reads is old. Each write looks whether the file is still
there when it begins; what follows in its transaction, and a read, of which a look would take a
quarter, does if none did in the last 0.05 s.
"""

from __future__ import annotations

import math
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from salmon_state.errors import ConversationBusy
from salmon_state.stores.disk import has_read, sync
from salmon_state.stores.locks import READERS, WRITERS, FileQueue
from salmon_state.stores.sqlalchemy.database import Database
from salmon_state.stores.sqlalchemy.databases.sqlite_log import Log
from salmon_state.thread_locks import ThreadLocks

__all__ = [
    "CannotOpenNow",
    "FileReplaced",
    "PatientConnection",
    "execute",
    "fetch_all",
    "fetch_one",
]

CANNOT_OPEN = "unable to open database file"
"""What SQLite says for every reason."""
_LOCKED = "database is locked"
NO_DESCRIPTORS = "are there descriptors left (ulimit -n)?"


_SEEN = 0.05
"""For so many seconds a file is taken for the one that was there when it was looked at."""

_READING = ("SELECT", "PRAGMA")
"""How a statement begins that waits for no other writer: so whoever connects waits for none."""
_UNDONE = (*_READING, "ROLLBACK")
"""How one begins of which nothing is to last."""

_turns = ThreadLocks()
"""Of each file: which thread of this process writes."""


class CannotOpenNow(sqlite3.OperationalError):
    """A file that could be opened by its rights, and is not: it may be well a minute later."""


class FileReplaced(sqlite3.OperationalError):
    """The file of a connection is no longer the one at its path."""


class PatientConnection(sqlite3.Connection):
    """Waits with a statement, for some time and in turn, as long as the database is locked.

    A statement that begins a transaction, or is one by itself, has done nothing when it finds the
    database locked; inside a transaction that has begun to write none does.
    """

    _path = ""
    _patience = 0.0
    _identity: object = None
    _queue: FileQueue
    _end_turn: Callable[[], None] | None = None
    _until = 0.0
    """For how long whoever has the turn waits for other processes."""
    look_after = 0.0
    """When what begins no write looks at the file again; a moment of ``time.monotonic``."""
    wal: Log | None = None
    """Where commits are until a checkpoint; ``None`` if SQLite itself brings them to the disk."""

    def settle(self, path: str, patience: float, queue: Path) -> None:
        """Says which file it is, for how many seconds to wait, and in which file that is done."""
        self._path, self._patience = path, patience
        self._identity = _identify(path)
        self._queue = FileQueue(queue)

    def cursor(self, factory: Any = None) -> Any:
        """Returns a cursor whose ``execute`` is patient."""
        return super().cursor(factory or _PatientCursor)

    if sys.version_info < (3, 11):  # there this would be done by a cursor of `cursor`

        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            """Runs a statement without patience, as later versions do."""
            return sqlite3.Cursor(self).execute(*arguments)

    def sync_by_hand(self) -> None:
        """Takes it over from SQLite to bring each commit to the disk; in WAL mode.

        Raises:
            OSError: There is no descriptor left.
        """
        self.execute("SELECT 1 FROM sqlite_master").fetchone()
        # It is open now, so that it stays until this is closed.
        self.wal = Log(self._path, self._patience)
        self.execute("PRAGMA synchronous = NORMAL")

    def sync(self) -> None:
        """Returns when what was committed is on the disk, unless SQLite has seen to that.

        Or it is put off, see `salmon_state.stores.disk`.

        Raises:
            sqlite3.OperationalError: The disk fails; what was committed may be there or not.
        """
        if self.wal is not None:
            try:
                sync(self.wal)
            except OSError as error:
                raise sqlite3.OperationalError(f"a commit is not on the disk: {error}") from error

    def close(self) -> None:
        """Closes the file, and that of the queue."""
        super().close()
        self.wal = None
        self._give_turn_on()
        self._queue.close()

    def commit(self) -> None:
        """Ends the transaction, if there is one, and makes it last."""
        super().commit()
        self.end_turn()
        self.sync()

    def rollback(self) -> None:
        """Ends the transaction, if there is one."""
        super().rollback()
        self.end_turn()

    def take_turn(self) -> None:
        """Waits until no other thread of this process writes.

        Raises:
            sqlite3.OperationalError: Others did all the time.
        """
        if self._end_turn is None:
            self._until = time.monotonic() + self._patience
            try:
                self._end_turn = _turns.acquire(self._path, self._patience)
            except ConversationBusy:
                raise sqlite3.OperationalError(_LOCKED) from None

    def end_turn(self) -> None:
        """Lets the next thread write, unless a transaction was begun."""
        if self._end_turn is not None and not self.in_transaction:
            self._give_turn_on()

    def _give_turn_on(self) -> None:
        end, self._end_turn = self._end_turn, None
        if end is not None:
            end()

    def check_file(self) -> None:
        """Raises `FileReplaced` if what is written now would be lost, and what is read is old."""
        self.look_after = time.monotonic() + _SEEN
        if _identify(self._path) != self._identity:
            raise FileReplaced(f"{self._path!r} was removed or replaced")


class _PatientCursor(sqlite3.Cursor):
    connection: PatientConnection

    def execute(self, sql: str, parameters: Any = ()) -> _PatientCursor:
        try:
            done = self._wait(sql, parameters)
        except sqlite3.OperationalError as error:
            raise _explained(error) from error
        if not (self.connection.in_transaction or sql.startswith(_UNDONE)):
            self.connection.sync()
        return done

    def _wait(self, sql: str, parameters: Any) -> _PatientCursor:
        connection = self.connection
        reading, within = sql.startswith(_READING), connection.in_transaction
        if not (reading or within) or time.monotonic() > connection.look_after:
            connection.check_file()
        if within:  # those who wait do so for this one
            try:
                return super().execute(sql, parameters)
            finally:
                connection.end_turn()
        if reading:
            patience = connection._patience
            return self._try(sql, parameters) or self._in_turn(READERS, sql, parameters, patience)
        connection.take_turn()
        try:
            patience = connection._until - time.monotonic()
            return self._in_turn(WRITERS, sql, parameters, patience)
        finally:
            connection.end_turn()

    def _in_turn(self, queue: int, sql: str, parameters: Any, patience: float) -> _PatientCursor:
        attempt = partial(self._try, sql, parameters)
        done = self.connection._queue.in_turn(queue, attempt, patience)
        return done or super().execute(sql, parameters)

    def _try(self, sql: str, parameters: Any) -> _PatientCursor | None:
        try:
            return super().execute(sql, parameters)
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
        return None


def fetch_one(driver: Any, sql: str, parameters: tuple[Any, ...]) -> Any:
    """Returns the first row of a query, or ``None``; a fifth quicker than with a cursor of ours."""
    if time.monotonic() > getattr(driver, "look_after", math.inf):  # inf: somebody else's engine
        driver.check_file()
    try:
        return driver.execute(sql, parameters).fetchone()
    except sqlite3.OperationalError as error:
        if not _is_busy(error):
            raise
    return driver.cursor().execute(sql, parameters).fetchone()


def fetch_all(driver: Any, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
    """Returns all rows of a query, as quickly."""
    if time.monotonic() > getattr(driver, "look_after", math.inf):
        driver.check_file()
    rows: list[Any]
    try:
        rows = driver.execute(sql, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if not _is_busy(error):
            raise
        rows = driver.cursor().execute(sql, parameters).fetchall()
    has_read(getattr(driver, "wal", None))
    return rows


def execute(driver: Any, sql: str, parameters: tuple[Any, ...]) -> int:
    """Runs a statement that commits itself, and returns how many rows it changed."""
    if not isinstance(driver, PatientConnection):  # somebody else's engine
        return Database.execute(driver, sql, parameters)
    driver.take_turn()
    try:
        count = _at_once(driver, sql, parameters)
        if count is None:
            return Database.execute(driver, sql, parameters)  # its cursor waits, and syncs
    finally:
        driver.end_turn()
    if not driver.in_transaction:  # or it was a BEGIN
        driver.sync()
    return count


def _at_once(driver: PatientConnection, sql: str, parameters: tuple[Any, ...]) -> int | None:
    """Does the same for whoever has the turn, or returns ``None`` if other processes write."""
    if not driver._queue.may_try(WRITERS):
        return None
    driver.check_file()
    try:
        return driver.execute(sql, parameters).rowcount
    except sqlite3.OperationalError as error:
        if not _is_busy(error):
            raise _explained(error) from error
    return None


def _explained(error: sqlite3.OperationalError) -> sqlite3.OperationalError:
    """Returns what is to be raised for an error."""
    if CANNOT_OPEN not in str(error):
        return error
    # The database is open; it is the files beside it.
    return CannotOpenNow(f"{error}: {NO_DESCRIPTORS}")


def _identify(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return _LOCKED in str(error)  # the error code is there from Python 3.11 on only
