"""Stores on disk that break one promise each; the docstring says which."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from salmon_state.entries import EVERY, Entry, Kind, Page, Place, Where, Write, change, holds
from salmon_state.errors import Overtaken, StorageUnavailable
from salmon_state.keys import Sender, ascii_key
from tests.testing.right_stores import TableStorage
from tests.testing.wrong_stores import blindly


class ForgetsOnReopen(TableStorage):
    """As a dict with a file name."""

    def __init__(self, path: str, **options: Any) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path)
        super().__init__(path, **options)


class WritesWhenClosed(TableStorage):
    """Keeps in memory what it acknowledges, until it is closed."""

    def __init__(self, path: str, **options: Any) -> None:
        self.waiting: dict[Any, Write] = {}
        super().__init__(path, **options)

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        write = self.waiting.get((kind, sender, name))
        return super()._find(kind, sender, name) if write is None else write.value

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        new = {write[:3]: write for write in writes}
        self.waiting.update(new)
        return [1] * len(new)

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        self.flush()
        return super()._page(kind, where, after)

    def flush(self) -> None:
        super()._commit(list(self.waiting.values()))
        self.waiting.clear()

    def _close(self) -> None:
        self.flush()


class WritesAfterClose(TableStorage):
    """Refuses, but only after it has done what it was asked to do."""

    def set(self, module: str, sender: Sender, state: str) -> None:
        stored = None if state == "START" else state
        self._commit((Write(Kind.STATE, sender, module, stored, self._clock()),))
        self._check_open()


class ForgetsTimes(TableStorage):
    """Knows times only as long as it is open."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._execute("UPDATE entries SET at = NULL")


class InventsTimesOnReopen(TableStorage):
    """What has no time gets one when the store is opened."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._execute("UPDATE entries SET at = 1 WHERE at IS NULL")


class WritesOnGet(TableStorage):
    """Leaves an entry behind that only the next one finds."""

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        state = super()._find(kind, sender, name)
        if state is None:
            self._commit((Write(kind, sender, name, "START"),))
        return state


class LeavesFilesOpen(TableStorage):
    """Every time it is opened, one more file stays open."""

    left: list[sqlite3.Connection] = []  # noqa: RUF012 - this is what is wrong with it

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        connection = sqlite3.connect(path)
        list(connection.execute("SELECT count(*) FROM entries"))
        self.left.append(connection)


class KeysByRepr(TableStorage):
    """Its keys depend on the Unicode tables of the Python that wrote them."""

    def _text(self, name: Sender) -> str:
        return repr(name)


class ReadsStale(TableStorage):
    """Remembers what it has read once."""

    def __init__(self, path: str, **options: Any) -> None:
        self.cache: dict[object, Any] = {}
        super().__init__(path, **options)

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        place = (kind, sender, name)
        if place not in self.cache:
            self.cache[place] = super()._find(kind, sender, name)
        return self.cache[place]

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        counts = super()._commit(writes)
        self.cache.update({write[:3]: write.value for write in writes})
        return counts


class IsPerProcess(TableStorage):
    """Each process has a place of its own."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(f"{path}.{os.getpid()}", **options)


class ComparesInTwoSteps(TableStorage):
    """Looks, and then leaps."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        for write in writes:
            found = self._load(write.sender, [(write.kind, write.name)])
            if not holds(write.expect, found[0] if found else None):
                raise Overtaken
        time.sleep(0.01)
        return super()._commit(blindly(writes))


class MovesInTwoSteps(TableStorage):
    """Looks which conversations a sender has, and then moves each of them."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return [
            self._move(w) if w.name is EVERY else super(MovesInTwoSteps, self)._commit([w])[0]
            for w in writes
        ]

    def _move(self, write: Write) -> int:
        found = self._load(write.sender, [(write.kind, EVERY)])
        time.sleep(0.005)
        return sum(super()._commit(write._replace(name=entry.name) for entry in found))


class WritesAllBack(TableStorage):
    """As a pickled dict: reads everything, changes one thing, writes everything."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        found = [entry for page in self._pages(Kind.STATE, Where()) for entry in page.entries]
        entries: dict[Place, Entry] = {entry[:3]: entry for entry in found}
        counts = [change(entries, write) for write in writes]
        time.sleep(0.001)
        self._wipe()
        super()._commit(Write(*entry) for entry in entries.values())
        return counts


class LocksForever(TableStorage):
    """The lock of a conversation is a file that nobody removes for a process that died."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return [self._one(write) for write in writes]

    def _one(self, write: Write) -> int:
        with self.lock(zlib.crc32(ascii_key(str(write.name), write.sender).encode())):
            return super()._commit((write,))[0]

    @contextmanager
    def lock(self, name: int) -> Iterator[None]:
        path = f"{self.path}.{name}.lock"
        for _ in range(10_000):
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
                break
        else:
            raise StorageUnavailable("somebody holds the lock")
        time.sleep(0.001)
        yield
        os.unlink(path)


class TearsWhenKilled(TableStorage):
    """Removes the old state in one transaction and writes the new one in another."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return [self._one(write) for write in writes]

    def _one(self, write: Write) -> int:
        super()._commit((write._replace(value=None),))
        time.sleep(0.005)
        return super()._commit((write,))[0]


class LeavesAThread(TableStorage):
    """Has a thread that looks after it now and then, and does not end it."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class ClosesForOneThread(TableStorage):
    """Has a file open for each thread, and closes that of the one that closes it."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self.own = threading.local()

    def _connect(self) -> sqlite3.Connection:
        if not hasattr(self.own, "descriptor"):
            self.own.descriptor = os.open(self.path, os.O_RDONLY)
        return super()._connect()

    def _close(self) -> None:
        os.close(self.own.descriptor)
