"""ShelveStorage: Python's shelve, for the processes of one machine."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from salmon_state.errors import ConfigurationError, StorageError, StorageUnavailable
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.options import options_of
from salmon_state.registry import path_of
from salmon_state.storage import (
    Change,
    Record,
    Sender,
    StateStorage,
    ascii_key,
    from_microseconds,
    parse_key,
    to_microseconds,
)
from salmon_state.stores.files import OWNER_ONLY, create_private_file, resolve_path
from salmon_state.stores.locks import FileLocks
from salmon_state.stores.queues import WRITERS, FileQueue
from salmon_state.stores.shelf_conversion import damaged, prepare_shelf
from salmon_state.stores.shelf_file import ShelfFile, StringShelf, unpickle_string

__all__ = ["ShelveStorage"]

_VALUE = re.compile(r"(-|-?[0-9]{1,18}) (.+)", flags=re.DOTALL)
_LONGEST_TIMEOUT = 86_400.0


class ShelveStorage(StateStorage, Forkable):
    """Keeps the states in a shelf, for any number of threads and processes of one machine.

    It replaces Salmon's own store with one changed import. A shelf that Salmon left, with
    whichever flavour of dbm, is converted when the store is made: stop Salmon first. The old files
    are kept beside it as ``<path>.salmon-backup``, and a warning in the log says so. A shelf that
    this Python cannot read, or that has a damaged entry, is refused and left as it was.

    The file is what ``shelve.open`` of Python 3.13 makes (``dbm.sqlite3``), on every Python. It has
    an index of senders as well, which SQLite itself keeps up to date, whoever writes. What a method
    wrote when it returns survives SIGKILL and power loss; a write cut short has not happened. All
    files (``<path>``, ``-wal``, ``-shm``, ``.lock``, ``.conversations``) are their owner's only;
    existing ones that are open to every user of the machine are made so, with a warning.
    While the store is open, nobody may remove or replace the file: every method then raises
    `StorageUnavailable` until the file is back or the process starts anew.

    `get`, `set`, `set_all` and entering a conversation look their entries up in an index; so do
    `records`, `rename` and `purge` of a module, and `records` of a sender. Otherwise these three
    read the whole shelf, in pages. `rename` and `purge` happen wholly or not at all, and block
    other writers meanwhile: 1 s for 100,000 entries.

    Args:
        path: The file; relative to the working directory of this moment.
        protect: As for `StateStorage`.
        timeout: How many seconds to wait for other threads and processes that are writing before
            `StorageUnavailable` is raised; more than 0, at most a day.

    Raises:
        ConfigurationError: The path or the timeout cannot work, or what is there is no shelf that
            this Python can read; the message says what to do.
        StorageError: An entry of a shelf to be converted is damaged.
        StorageUnavailable: The shelf is locked or cannot be read now.
    """

    _locks_processes = True

    def __init__(
        self, path: str | os.PathLike[str], *, protect: bool = False, timeout: float = 5.0
    ) -> None:
        super().__init__(protect=protect)
        self._timeout = _checked_timeout(timeout)
        # The target of a symbolic link, so that everybody locks and replaces the same file.
        self._path = resolve_path(os.path.realpath(resolve_path(path)))
        self._lock_path = self._path.with_name(f"{self._path.name}.lock")
        self._senders = FileLocks(self._path.with_name(f"{self._path.name}.conversations"))
        create_private_file(self._lock_path)
        self._using = threading.RLock()
        self._writing = FileLock(self._lock_path, mode=OWNER_ONLY)
        self._writers = FileQueue(self._lock_path)
        self._shelf: StringShelf | None = None
        _watch.add(self)
        try:
            self._prepare()
        except BaseException:
            self._close()
            raise

    @classmethod
    def from_url(cls, url: str, **options: Any) -> ShelveStorage:
        """Makes the store for ``shelve:///run/states`` or ``shelve:////var/lib/app/states``."""
        return cls(path_of(url, options_of(cls) or ()), **options)

    # ---------------------------------------------------------------- the file

    def _prepare(self) -> None:
        with self._using:  # no fork before the file is in order
            try:
                with self._locked(self._timeout):
                    prepare_shelf(self._path, self._timeout)
                    self._identity = _identity(self._path)
                    self._shelf = self._open()
            except (OSError, sqlite3.Error, UnicodeError, MemoryError) as error:
                wrapped = self._wrap(error)
                if isinstance(wrapped, StorageUnavailable):
                    raise wrapped from error
                raise ConfigurationError(str(wrapped)) from error

    def _open(self) -> StringShelf:
        return StringShelf(ShelfFile(self._path, self._timeout))

    @contextmanager
    def _opened(self) -> Iterator[StringShelf]:
        """Lends the shelf to one thread.

        It takes no lock between processes: each statement of SQLite reads one committed state, and
        in WAL mode a writer does not keep it waiting.
        """
        if not self._using.acquire(timeout=self._timeout):
            raise StorageUnavailable(f"{self._path}: other threads used it for {self._timeout:g} s")
        try:
            if self._closed:
                self._refuse_closed()
            # SQLite would go on with a file that no longer has a name, and its states would be
            # lost when the process ends.
            if _identity(self._path) != self._identity:
                raise StorageUnavailable(
                    f"{self._path} was removed or replaced while it was in use; "
                    "put it back, or start the process anew to go on with what is there now"
                )
            if self._shelf is None:
                self._shelf = self._open()
            yield self._shelf
        finally:
            self._using.release()

    @contextmanager
    def _exclusive(self) -> Iterator[StringShelf]:
        deadline = time.monotonic() + self._timeout
        with self._opened() as shelf:
            if shelf.dict.in_transaction:
                yield shelf
                return
            remaining = max(0.0, deadline - time.monotonic())
            # The transaction alone would do between stores; the lock also keeps a conversion off.
            with self._locked(remaining), shelf.dict.transaction():
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

    def _read(self, module: str, sender: Sender) -> str | None:
        key = ascii_key(module, sender)
        with self._opened() as shelf:
            try:
                return _parse(shelf[key])[0]
            except KeyError:
                return None
            except ValueError as error:
                raise damaged(self._path, key, error) from None

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        records = (self._record(key, value) for key, value in self._rows_of(sender))
        return {record.module: record.state for record in records if record.sender == sender}

    def _rows_of(self, sender: Sender) -> list[tuple[bytes, bytes]]:
        with self._opened() as shelf:
            return shelf.dict.rows_of(sender)

    def _write(self, changes: Iterable[Change]) -> None:
        with self._exclusive() as shelf:
            for module, sender, state, updated_at in changes:
                key = ascii_key(module, sender)
                if state is not None:
                    shelf[key] = f"{'-' if updated_at is None else updated_at} {state}"
                else:
                    with suppress(KeyError):
                        del shelf[key]

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        for key, value in self._rows(module) if sender is None else self._rows_of(sender):
            record = self._record(key, value)
            if (
                module in (None, record.module)
                and sender in (None, record.sender)
                and state in (None, record.state)
            ):
                yield record

    def _rows(self, module: str | None) -> Iterator[tuple[bytes, bytes]]:
        """Yields the entries of a module, or all: in the order of the keys, a page at a time."""
        start = None if module is None else f"[{module!a}, ".encode("ascii")
        after = start
        while True:
            with self._opened() as shelf:  # not while the consumer works on the records
                rows = shelf.dict.page(after)
            if not rows:
                return
            for key, value in rows:
                if start is not None and not key.startswith(start):
                    return
                yield key, value
            after = rows[-1][0]

    def _record(self, key: bytes, value: bytes) -> Record:
        try:
            module, sender = parse_key(str(key, "ascii"))
            state, updated_at = _parse(unpickle_string(value))
            return Record(module, sender, state, from_microseconds(updated_at))
        except (StorageError, ValueError, TypeError, OverflowError) as error:
            raise damaged(self._path, key, error) from None

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        return self._senders.acquire(sender, timeout)

    def _wipe(self) -> None:
        with self._exclusive() as shelf:
            shelf.dict.clear()

    def _rename(self, module: str, old: str, new: str | None) -> int:
        renamed = 0
        with self._exclusive():
            for record in self._scan(module, None, old):
                updated_at = to_microseconds(record.updated_at)
                self._write((Change(module, record.sender, new, updated_at),))
                renamed += 1
        return renamed

    def _purge(self, before: int, module: str | None, state: str | None) -> int:
        purged = 0
        with self._exclusive():
            for record in self._scan(module, None, state):
                updated_at = to_microseconds(record.updated_at)
                if updated_at is not None and updated_at < before:
                    self._write((Change(record.module, record.sender, None, None),))
                    purged += 1
        return purged

    def _count(self) -> int:
        with self._opened() as shelf:
            return len(shelf)

    def _ping(self) -> None:
        with self._opened() as shelf:
            shelf.dict.page()

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

    def _wrap(self, error: Exception) -> StorageError:
        garbled = isinstance(error, UnicodeError) or "not decode to UTF-8" in str(error)
        if isinstance(error, sqlite3.OperationalError) and not garbled:
            return StorageUnavailable(f"{self._path}: {error}")
        if isinstance(error, sqlite3.DatabaseError) or garbled:
            return StorageError(
                f"the shelf {self._path} (dbm.sqlite3) is damaged: {error}; restore a copy of it"
            )
        return super()._wrap(error)


_watch = ForkWatch()


def _checked_timeout(timeout: float) -> float:
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if is_number and 0 < timeout <= _LONGEST_TIMEOUT:
        return float(timeout)
    raise ConfigurationError(
        f"timeout must be a number of seconds above 0 and at most {_LONGEST_TIMEOUT:g}, "
        f"got {timeout!r}"
    )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _parse(text: str) -> tuple[str, int | None]:
    """Returns the state and its time in a value; see `ShelveStorage._write`."""
    match = _VALUE.fullmatch(text)
    if match is None:
        raise ValueError("its value is not '<microseconds since 1970, or -> <state>'")
    return match[2], None if match[1] == "-" else int(match[1])
