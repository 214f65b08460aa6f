"""Stores that take something at its word; the docstring says what."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from salmon_state.backend import Lock
from salmon_state.entries import CHECK, Entry, Write
from salmon_state.errors import busy
from salmon_state.keys import Sender
from salmon_state.stores.locks import FileLocks
from salmon_state.testing import (
    ContractSuite,
    ConversationSuite,
    EntrySuite,
    FileSuite,
    SharedConversationSuite,
)
from tests.testing.right_stores import TableStorage
from tests.testing.wrong_shared_conversations import LockedTable


class GivesViews(TableStorage):
    """Gives values as some drivers do: they compare like bytes, and are none."""

    def _entry(self, row: Any) -> Entry:
        entry = super()._entry(row)
        view: Any = memoryview(entry.value) if isinstance(entry.value, bytes) else entry.value
        return entry._replace(value=view)


class GivesFloats(TableStorage):
    """Gives times as a column of another type does."""

    def _entry(self, row: Any) -> Entry:
        entry = super()._entry(row)
        moment: Any = None if entry.at is None else float(entry.at)
        return entry._replace(at=moment)


class GivesNumbers(TableStorage):
    """Has a column that takes for a number what looks like one."""

    def _entry(self, row: Any) -> Entry:
        entry = super()._entry(row)
        is_number = isinstance(entry.value, str) and entry.value.isascii() and entry.value.isdigit()
        return entry._replace(value=str(int(entry.value))) if is_number else entry


class ChecksBefore(TableStorage):
    """Takes what held a moment ago for what holds."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        parts: tuple[list[Write], list[Write]] = ([], [])
        for write in writes:
            parts[write.value is CHECK].append(write)
        checked = super()._commit(parts[True])
        return checked + super()._commit(parts[False])


class ShortLockNames(LockedTable):
    """Locks senders by 32 bits of a digest."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return super()._lock(str(zlib.crc32(ascii(sender).encode())), timeout)


class LeavesThreads(LockedTable):
    """Starts a thread for each lock that has nothing to end it."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return super()._lock(sender, timeout)


class LocksOfTheProcess(TableStorage):
    """Has record locks, which are those of the process, whatever opened the file in it."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self.descriptor = os.open(f"{path}.locks", os.O_RDWR | os.O_CREAT)

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        deadline = time.monotonic() + timeout
        byte = hash(ascii(sender)) % 2**62 if sender is None else zlib.crc32(sender.encode())
        while True:
            with suppress(BlockingIOError):
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                return Lock(lambda: fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, byte))
            if time.monotonic() > deadline:
                raise busy(timeout)
            time.sleep(0.01)


class LosesLocksOnClose(LocksOfTheProcess):
    """The same between its threads, but closing the file once more gives all of them back."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        mine = self.path, sender
        if _taken.setdefault(mine, self) is not self:
            raise busy(timeout)
        lock = super()._lock(sender, timeout)

        def release() -> None:
            _taken.pop(mine)
            lock.release()

        return Lock(release)

    def _close(self) -> None:
        os.close(self.descriptor)


_taken: dict[tuple[str, Sender], object] = {}


class OneLockFileInADirectory(LockedTable):
    """Has its locks in a file of a name that is always the same."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._locks = FileLocks(Path(self.path).with_name("locks"))


class WritesItsPathIntoAURL(TableStorage):
    """Has a path in which some characters mean something else."""

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{self.path}?mode=rwc", uri=True, timeout=self.timeout, isolation_level=None
        )


_ALONE = "test_stores_in_one_process_lock_each_other_out"

ON_DISK = (
    (GivesViews, EntrySuite, "test_what_comes_back_is_plain"),
    (GivesNumbers, ContractSuite, "test_any_text_is_a_state"),
    (ChecksBefore, EntrySuite, "test_a_check_holds_until_the_commit"),
    (GivesFloats, EntrySuite, "test_what_comes_back_is_plain"),
    (ShortLockNames, ConversationSuite, "test_senders_do_not_wait_for_each_other"),
    (LeavesThreads, ConversationSuite, "test_conversations_leave_nothing_behind"),
    (LocksOfTheProcess, SharedConversationSuite, _ALONE),
    (LosesLocksOnClose, SharedConversationSuite, _ALONE),
    (OneLockFileInADirectory, FileSuite, "test_two_places_are_two_stores"),
    (WritesItsPathIntoAURL, FileSuite, "test_the_working_directory_may_change"),
)
