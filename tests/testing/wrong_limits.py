"""Stores with wrong locks, forks, files and limits; the docstring says how."""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.backend import Lock
from salmon_state.entries import EVERY, Entry, Kind, Page, Value, Want, Where, Write
from salmon_state.errors import busy
from salmon_state.keys import Sender, ascii_key
from salmon_state.storage import StateStorage
from salmon_state.stores.locks import FileLocks
from salmon_state.testing import (
    ContractSuite,
    ConversationSuite,
    EntrySuite,
    FileSuite,
    HostileKeySuite,
    SharedConversationSuite,
    SharedSuite,
)
from tests.testing.right_stores import TableStorage
from tests.testing.wrong_shared_conversations import LockedTable

# ---------------------------------------------------------------- so many and no more


class LocalTimes(MemoryStorage):
    """Writes times in UTC and takes them for those of its own time zone."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        page = super()._page(kind, where, after)
        return page._replace(entries=[e._replace(at=_as_local(e.at)) for e in page.entries])


def _as_local(at: int | None) -> int | None:
    if at is None:
        return None
    moment = datetime.utcfromtimestamp(at // 1_000_000)
    return round(moment.timestamp()) * 1_000_000 + at % 1_000_000


class RenamesAThousand(MemoryStorage):
    """Changes what one large page has."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        found = [entry for page in self._pages(kind, where) for entry in page.entries][:1000]
        return sum(self._commit([Write(*e[:3], value, e.at) for e in found]))


class ClearsAThousand(MemoryStorage):
    """Deletes with a limit, once."""

    def _wipe(self) -> None:
        found = [e for p in self._pages(Kind.STATE, Where()) for e in p.entries][:1000]
        self._commit([Write(*entry[:3], None) for entry in found])


class ReadsAHundredModules(MemoryStorage):
    """Takes one page for all that a sender has."""

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        return super()._load(sender, wants)[:100]


class MovesAHundredModules(MemoryStorage):
    """Moves one page of what a sender has."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return [self._one(write) for write in writes]

    def _one(self, write: Write) -> int:
        if write.name is not EVERY:
            return super()._commit([write])[0]
        found = self._load(write.sender, [(write.kind, EVERY)])[:100]
        return sum(super()._commit([write._replace(name=entry.name) for entry in found]))


class StopsAtWhatVanished(MemoryStorage):
    """Goes on behind the entry that was last; if it is gone, that is one too far."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        every, position = [], None
        while True:
            page = super()._page(kind, where, position)
            every += page.entries
            position = page.after
            if position is None:
                break
        start = 0
        if after is not None:
            number, place = after
            start = number + 1 if place not in {entry[:3] for entry in every} else number
        found = every[start : start + 10]
        rest = every[start + 10 :]
        return Page(found, (start + 10, found[-1][:3]) if rest else None)


class CountsTombstones(TableStorage):
    """Marks what is removed, and counts it."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self.removed = 0

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        counts = super()._commit(writes)
        self.removed += 1
        return counts

    def _count(self, kind: Kind) -> int:
        return super()._count(kind) + (self.removed > 2)


class ShortDigests(TableStorage):
    """Finds senders by 32 bits of a digest."""

    def _text(self, name: Sender) -> str:
        if name in SHORT:
            return "1@x"
        return super()._text(name)


SHORT: set[Sender] = {"86821@x", "14740600@x"}


class Crc(TableStorage):
    """Finds senders by a CRC."""

    def _where(self, kind: Kind, sender: Sender, name: Any) -> tuple[str, list[object]]:
        where, values = super()._where(kind, sender, name)
        crc = zlib.crc32(str(sender).encode(errors="surrogatepass"))
        return where.replace("sender = ?", "crc(sender) = ?"), [values[0], crc, *values[2:]]

    def _connect(self) -> Any:
        connection = super()._connect()
        connection.create_function("crc", 1, _crc, deterministic=True)
        return connection


def _crc(text: str) -> int:
    sender = eval(text)  # as the store wrote it
    return zlib.crc32(str(sender).encode(errors="surrogatepass"))


# ---------------------------------------------------------------- locks


class WaitsHalf(MemoryStorage):
    """Tells whoever waits too early."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return super()._lock(sender, timeout / 2)


class WaitsForEver(MemoryStorage):
    """Does not look at the clock."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return super()._lock(sender, 3600 if 0 < timeout < 60 else timeout)


class ForgetsDescriptors(MemoryStorage):
    """Opens a file for each conversation, and closes none."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        os.open(os.devnull, os.O_RDONLY)
        return super()._lock(sender, timeout)


class ForgetsDescriptorsOnFailure(MemoryStorage):
    """Opens a file for each conversation, and closes it when it commits."""

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        if self._active.conversation is None:
            self.opened = os.open(os.devnull, os.O_RDONLY)
        return super()._load(sender, wants)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        with suppress(AttributeError, OSError):
            os.close(self.opened)
        return super()._commit(writes)


class WaitsHalfForProcesses(LockedTable):
    """Tells a process that waits too early."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return super()._lock(sender, timeout / 2 if timeout < 1 else timeout)


class HashSlots(TableStorage):
    """Has a thousand locks for all senders."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._locks = FileLocks(Path(f"{path}.locks"))

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        slot = zlib.crc32(ascii_key("", sender).encode()) % 1000
        return Lock(self._locks.acquire(str(slot), timeout))

    def _close(self) -> None:
        self._locks.close()


class LapsesSilently(TableStorage):
    """A lock is a file that is old after 300 ms, and nobody asks for it at the commit."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        path = f"{self.path}.{zlib.crc32(ascii_key('', sender).encode())}.lock"
        deadline = time.monotonic() + timeout
        while True:
            with suppress(FileNotFoundError):
                if time.time() - os.stat(path).st_mtime > 0.3:
                    os.unlink(path)
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
                return Lock(lambda: Path(path).unlink(missing_ok=True))
            if time.monotonic() >= deadline:
                raise busy(timeout)
            time.sleep(0.002)


# ---------------------------------------------------------------- forks


class ForgetsForks(TableStorage):
    """A child finds SQLite in the middle of what another thread of its parent did."""

    timeout = 0.5

    def before_fork(self) -> None:
        pass

    def after_fork(self, *, child: bool) -> None:
        pass


class WaitsInTheChild(TableStorage):
    """A child waits for a thread that it does not have before it begins anew."""

    def before_fork(self) -> None:
        pass

    def after_fork(self, *, child: bool) -> None:
        if child:
            self._inside.acquire()
            self._inside.release()


class OpensOneAtATime(TableStorage):
    """Has a lock for opening, which a child finds locked for ever."""

    opening = threading.Lock()

    def __init__(self, path: str, **options: Any) -> None:
        with self.opening:
            super().__init__(path, **options)


# ---------------------------------------------------------------- files


class FollowsTheDirectory(TableStorage):
    """Opens a relative path anew each time."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self.path = path


class IsForEverybody(TableStorage):
    """Leaves it to the umask who may read its file."""

    def __init__(self, path: str, **options: Any) -> None:
        StateStorage.__init__(self, **options)
        self._inside = threading.Lock()
        self.path = os.path.abspath(path)
        self._execute("CREATE TABLE IF NOT EXISTS entries (kind, sender, name, value, at)")


IN_MEMORY = (
    (LocalTimes, ContractSuite, "test_records_name_everything"),
    (RenamesAThousand, ContractSuite, "test_thousands"),
    (ClearsAThousand, ContractSuite, "test_thousands"),
    (ReadsAHundredModules, ContractSuite, "test_thousands"),
    (MovesAHundredModules, ContractSuite, "test_thousands"),
    (StopsAtWhatVanished, ContractSuite, "test_states_may_change_while_iterating"),
    (StopsAtWhatVanished, EntrySuite, "test_what_vanishes_hides_nothing[last-key]"),
    (WaitsHalf, ConversationSuite, "test_a_wait_is_as_long_as_was_said"),
    (WaitsForEver, ConversationSuite, "test_a_wait_is_as_long_as_was_said"),
    (ForgetsDescriptors, ConversationSuite, "test_conversations_leave_nothing_behind"),
    (ForgetsDescriptorsOnFailure, ConversationSuite, "test_conversations_leave_nothing_behind"),
)

ON_DISK = (
    (CountsTombstones, ContractSuite, "test_first_state_removes"),
    (ShortDigests, HostileKeySuite, "test_short_digests"),
    (Crc, HostileKeySuite, "test_short_digests"),
    (WaitsHalfForProcesses, SharedConversationSuite, "test_a_process_waits_as_long_as_was_said"),
    (HashSlots, SharedConversationSuite, "test_processes_with_other_senders_do_not_wait"),
    (LapsesSilently, SharedConversationSuite, "test_a_lock_that_lapsed_is_noticed"),
    (ForgetsForks, SharedSuite, "test_forks_while_another_thread_opens"),
    (ForgetsForks, SharedSuite, "test_forks_while_another_thread_writes"),
    (WaitsInTheChild, SharedSuite, "test_forks_while_another_thread_writes"),
    (OpensOneAtATime, SharedSuite, "test_forks_while_another_thread_opens"),
    (FollowsTheDirectory, FileSuite, "test_the_working_directory_may_change"),
    (IsForEverybody, FileSuite, "test_nobody_else_reads_its_files"),
)
