"""ShelveStorage: Python's shelve, for the processes of one machine."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from salmon_state.backend import Lock
from salmon_state.entries import (
    ANYTHING,
    CHECK,
    EVERY,
    Entry,
    Kind,
    Page,
    Value,
    Want,
    Where,
    Write,
    holds,
)
from salmon_state.errors import ConfigurationError, Overtaken, StorageError, StorageUnavailable
from salmon_state.findings import MANY, Finding, recommend_indexes
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.keys import Sender
from salmon_state.options import check_number, options_of, path_of
from salmon_state.storage import StateStorage
from salmon_state.stores.files import (
    OWNER_ONLY,
    beside,
    create_private_file,
    diagnose_files,
    resolve_path,
)
from salmon_state.stores.holders import diagnose_locks
from salmon_state.stores.locks import WRITERS, FileLocks, FileQueue
from salmon_state.stores.shelf.conversion import prepare_shelf
from salmon_state.stores.shelf.tables import Shelf, Table

__all__ = ["ShelveStorage"]

_LONGEST_TIMEOUT = 86_400


class ShelveStorage(StateStorage, Forkable):
    """Keeps the states in a shelf, for any number of threads and processes of one machine.

    It replaces Salmon's own store with one changed import. A shelf that Salmon left, with
    whichever flavour of dbm, is converted when the store is made: stop Salmon first. The old files
    are kept beside it as ``<path>.salmon-backup``, and a warning in the log says so. A shelf that
    this Python cannot read, or that has a damaged entry, is refused and left as it was.

    The file is what ``shelve.open`` of Python 3.13 makes (``dbm.sqlite3``), on every Python. It has
    an index of senders as well, which SQLite itself keeps up to date, whoever writes, and a second
    table for what is no state, which `shelve` and earlier versions do not look at. What a method
    wrote when it returns survives SIGKILL and power loss; a write cut short has not happened. All
    files (``<path>``, ``-wal``, ``-shm``, ``.lock``, ``.conversations``) are their owner's only;
    existing ones that are open to every user of the machine are made so, with a warning.
    While the store is open, nobody may remove or replace the file: every method then raises
    `StorageUnavailable` until the file is back or the process starts anew.

    `get`, `set`, `set_all` and entering a conversation look their entries up in an index; so do
    `records`, `rename` and `purge` of a module, and `records` of a sender. Otherwise these three
    read the whole shelf, in pages, unless it has `indexes`. `rename` and `purge` happen wholly or
    not at all, and block other writers meanwhile: 1 s for 100,000 entries.

    Args:
        path: The file; relative to the working directory of this moment.
        timeout: How many seconds to wait for other threads and processes that are writing before
            `StorageUnavailable` is raised; more than 0, at most a day.
        indexes: Whether to make indexes of the states and of their times, unless they are there,
            for ``records(state=…)``, `rename` and `purge`, which look at all entries otherwise: at
            a million conversations 1 ms instead of 6,000 for a state that nobody is in. To make
            them takes four seconds for so many, in which others cannot write. From then on SQLite
            keeps them up to date, whoever writes, `shelve` and earlier versions too, and every
            store uses them; a `set` or a conversation takes 1.3 times as long. SQLite's
            ``DROP INDEX States`` and ``DROP INDEX Times`` give them up.
        protect: As for `StateStorage`.

    Raises:
        ConfigurationError: The path or the timeout cannot work, or what is there is no shelf that
            this Python can read; the message says what to do.
        StorageError: An entry of a shelf to be converted is damaged.
        StorageUnavailable: The shelf is locked or cannot be read now.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float = 5.0,
        indexes: bool = False,
        protect: bool = False,
    ) -> None:
        super().__init__(protect=protect)
        check_number("timeout", timeout, most=_LONGEST_TIMEOUT)
        self._timeout = float(timeout)
        # The target of a symbolic link, so that everybody locks and replaces the same file.
        self._path = resolve_path(os.path.realpath(resolve_path(path)))
        self._lock_path = beside(self._path, ".lock")
        self._senders = FileLocks(beside(self._path, ".conversations"))
        create_private_file(self._lock_path)
        self._using = threading.RLock()
        self._writing = FileLock(self._lock_path, mode=OWNER_ONLY)
        self._writers = FileQueue(self._lock_path)
        self._shelf: Shelf | None = None
        _watch.add(self)
        try:
            self._prepare(indexes=indexes)
        except BaseException:
            self._close()
            raise

    @classmethod
    def from_url(cls, url: str, **options: Any) -> ShelveStorage:
        """Makes the store for ``shelve:///run/states`` or ``shelve:////var/lib/app/states``."""
        return cls(path_of(url, options_of(cls) or ()), **options)

    # ---------------------------------------------------------------- the file

    def _prepare(self, *, indexes: bool) -> None:
        with self._using:  # no fork before the file is in order
            try:
                with self._locked(self._timeout):
                    prepare_shelf(self._path, self._timeout)
                    self._identity = _identity(self._path)
                    self._shelf = Shelf(self._path, self._timeout)
                    if indexes:
                        self._shelf.create_indexes()
            except (OSError, sqlite3.Error, UnicodeError, MemoryError) as error:
                wrapped = self._explain(error)
                if isinstance(wrapped, StorageUnavailable):
                    raise wrapped from error
                raise ConfigurationError(str(wrapped)) from error

    def _open(self) -> Shelf:
        """Keeps other threads off until `_using` is released, and returns the file.

        It takes no lock between processes: each statement of SQLite reads one committed state, and
        in WAL mode a writer does not keep it waiting.
        """
        if not self._using.acquire(timeout=self._timeout):
            raise StorageUnavailable(f"{self._path}: other threads used it for {self._timeout:g} s")
        try:
            if self._closed:
                self._check_open()
            # SQLite would go on with a file that no longer has a name, and its states would be
            # lost when the process ends.
            if _identity(self._path) != self._identity:
                raise StorageUnavailable(
                    f"{self._path} was removed or replaced while it was in use; "
                    "put it back, or start the process anew to go on with what is there now"
                )
            if self._shelf is None:
                self._shelf = Shelf(self._path, self._timeout)
            return self._shelf
        except BaseException:
            self._using.release()
            raise

    @contextmanager
    def _opened(self) -> Iterator[Shelf]:
        shelf = self._open()
        try:
            yield shelf
        finally:
            self._using.release()

    @contextmanager
    def _transaction(self) -> Iterator[Shelf]:
        deadline = time.monotonic() + self._timeout
        with self._opened() as shelf:
            if shelf.in_transaction:
                with shelf.transaction():
                    yield shelf
                return
            remaining = max(0.0, deadline - time.monotonic())
            # The transaction alone would do between stores; the lock also keeps a conversion off.
            with self._locked(remaining), shelf.transaction():
                yield shelf

    def _locked(self, timeout: float) -> AbstractContextManager[object]:
        """Wins the lock of those who write, in the order in which they came.

        Raises:
            StorageUnavailable: It was not won in time.
        """
        lock = self._writers.in_turn(WRITERS, self._try_writing, timeout)
        if lock is None:
            raise StorageUnavailable(
                f"{self._path}: another process kept it locked for {self._timeout:g} s"
            )
        return lock

    def _try_writing(self) -> AbstractContextManager[object] | None:
        try:
            return self._writing.acquire(0)
        except Timeout:
            return None

    # ---------------------------------------------------------------- hooks

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        shelf = self._open()
        try:
            entry = shelf.table(kind).find(kind, sender, name)
            return None if entry is None else entry.value
        finally:
            self._using.release()

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        with self._opened() as shelf:
            if len(wants) == 1:
                return _wanted(shelf, sender, *wants[0])
            with shelf.transaction("BEGIN"):  # all of one moment
                return [entry for want in wants for entry in _wanted(shelf, sender, *want)]

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        with self._opened() as shelf:
            return shelf.table(kind).page(kind, where, after)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        with self._transaction() as shelf:
            return [self._make(shelf.table(write.kind), write) for write in writes]

    def _make(self, table: Table, write: Write) -> int:
        kind, sender, name, value, at, expect = write
        if name is EVERY:
            entries = (e for page in self._pages(kind, Where(sender=sender)) for e in page.entries)
            return sum(self._make(table, Write(*entry[:3], value, at)) for entry in entries)
        if expect is not ANYTHING and not holds(expect, table.find(kind, sender, name)):
            raise Overtaken
        if value is CHECK:
            return 0
        if value is None:
            return table.remove(kind, sender, name)
        table.put(Entry(kind, sender, name, value, at))
        return 1

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        if kind is not Kind.STATE:  # what expires may do so in steps
            return super()._sweep(kind, where, value)
        with self._transaction():
            return super()._sweep(kind, where, value)

    def _wipe(self) -> None:
        with self._transaction() as shelf:
            shelf.execute("DELETE FROM Dict")
            shelf.execute("DELETE FROM Entries")

    def _count(self, kind: Kind) -> int:
        with self._opened() as shelf:
            return shelf.table(kind).count(kind)

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return Lock(self._senders.acquire(sender, timeout))

    def _ping(self) -> None:
        self._page(Kind.STATE, Where(sender=None), None)

    def _examine(self) -> Iterable[str]:
        with self._opened() as shelf:
            found = shelf.execute("PRAGMA integrity_check").fetchall()
        return [f"SQLite: {text}" for (text,) in found if text != "ok"]

    def _pause(self, seconds: float) -> AbstractContextManager[object]:
        return self._transaction()

    def _diagnose(self) -> Iterator[Finding]:
        yield from diagnose_files(self._path)
        yield from diagnose_locks(beside(self._path, ".conversations"))
        with self._opened() as shelf:
            number = 0 if shelf.has("States") else shelf.states.count(Kind.STATE)
        if number >= MANY:
            yield recommend_indexes(f"{number:,} conversations")

    def _close(self) -> None:
        with self._using:
            self._let_go()
        self._senders.close()
        self._writers.close()

    def _let_go(self) -> None:
        shelf, self._shelf = self._shelf, None
        if shelf is not None:
            shelf.close()

    def before_fork(self) -> None:
        """Closes the file, which is opened again on demand; waits for who is using it.

        SQLite's manual forbids a child to use or to close a connection that it has inherited. That
        is not enough: while it has one, a new connection of the child to the same file counts on
        locks that ``fork`` does not pass on. When the parent closes, it takes itself for the last
        one and removes the write-ahead log under the child, whose committed states are lost with
        it; the test ``test_bare_sqlite_loses_what_a_child_commits`` shows it.
        """
        self._using.acquire()
        with suppress(sqlite3.Error):
            self._let_go()

    def after_fork(self, *, child: bool) -> None:
        """Lets others use the file again."""
        self._writing = FileLock(self._lock_path, mode=OWNER_ONLY)  # it refuses to be inherited
        self._using.release()

    def _place(self) -> str:
        return str(self._path)

    def _explain(self, error: Exception) -> StorageError:
        garbled = isinstance(error, UnicodeError) or "not decode to UTF-8" in str(error)
        if isinstance(error, sqlite3.OperationalError) and not garbled:
            return StorageUnavailable(f"{self._path}: {error}")
        if isinstance(error, sqlite3.DatabaseError) or garbled:
            return StorageError(
                f"the shelf {self._path} (dbm.sqlite3) is damaged: {error}; restore a copy of it"
            )
        return super()._explain(error)


def _wanted(shelf: Shelf, sender: Sender, kind: Kind, name: Any) -> list[Entry]:
    if name is EVERY:
        return shelf.table(kind).load(kind, sender)
    entry = shelf.table(kind).find(kind, sender, name)
    return [] if entry is None else [entry]


_watch = ForkWatch()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
