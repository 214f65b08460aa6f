"""Stores whose author took a short cut, which nearly always gets there; the docstring says which.

They came through all tests of the kit that there were before.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from unittest.mock import patch

from examples.file_store.salmon_state_files import FileStorage
from salmon_state import MemoryStorage
from salmon_state.backend import Backend, Lock, UnitOfWork
from salmon_state.entries import Kind, Page, Value, Where, Write, in_order
from salmon_state.errors import busy
from salmon_state.keys import Sender
from salmon_state.stores.encoding import encode_state
from salmon_state.testing import (
    ContractSuite,
    ConversationSuite,
    EntrySuite,
    SharedEntrySuite,
    ThreadSuite,
)


class RemembersTooLate(MemoryStorage):
    """Keeps what it has read, though somebody may have changed it and emptied the memory since."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.memory: dict[Any, Any] = {}

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        place = kind, sender, name
        if place not in self.memory:
            value = super()._find(kind, sender, name)
            self.remember(place, value)
            return value
        return self.memory[place]

    def remember(self, place: Any, value: Any) -> None:
        self.memory[place] = value

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        counts = super()._commit(writes)
        self.memory.clear()
        return counts


class WaitsAnew(MemoryStorage):
    """Begins to wait anew, and longer, whenever any sender's lock is given back."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.held: set[Sender] = set()
        self.freed = threading.Condition()

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        with self.freed:
            while sender in self.held:
                if not self.freed.wait(timeout):
                    raise busy(timeout)
                timeout *= 100
            self.held.add(sender)
        return Lock(lambda: self.give_back(sender))

    def give_back(self, sender: Sender) -> None:
        with self.freed:
            self.held.remove(sender)
            self.freed.notify_all()


class LosesLateLocks(MemoryStorage):
    """Has given all locks back when it is closed, and does not look for them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.held: dict[Sender, Lock] = {}

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        self.held[sender] = super()._lock(sender, timeout)
        return Lock(lambda: self.held.pop(sender).release())

    def _close(self) -> None:
        while self.held:
            self.held.popitem()[1].release()


class ProvesOne(MemoryStorage):
    """The base of those that prove one lock of several."""

    which = 0

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return Backend._lock(self, sender, timeout)

    def _begin(self) -> UnitOfWork:
        return _ProvingOne(self)


class _ProvingOne(UnitOfWork):
    _store: ProvesOne

    def commit(self, writes: Sequence[Write], *, failed: bool) -> None:
        proof = self._locks[self._store.which].proof if self._locks else None
        self._store._commit(in_order([*writes, proof] if proof else writes))


class ProvesTheLastLock(ProvesOne):
    """Proves the lock that was won last."""

    which = -1


class ProvesTheFirstLock(ProvesOne):
    """Proves the lock of its own sender."""


class RenamesOfAnyAge(MemoryStorage):
    """Goes by the time where it removes, as `purge` does; not where it changes."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        return super()._sweep(kind, where if value is None else where._replace(before=None), value)


class RenamesWhatIsWritten(MemoryStorage):
    """Writes states in ASCII, and looks for them as they are given."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        if isinstance(where.value, str) and encode_state(where.value) != where.value:
            return 0
        return super()._sweep(kind, where, value)


class CountsTimes(MemoryStorage):
    """``SELECT count(at)``."""

    def _count(self, kind: Kind) -> int:
        pages = self._pages(kind, Where())
        return sum(entry.at is not None for page in pages for entry in page.entries)


class UnpacksWhatLooksPacked(MemoryStorage):
    """Packs what is large, and tells it by how it begins."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(map(self.packed, writes))

    def packed(self, write: Write) -> Write:
        if isinstance(write.value, bytes) and len(write.value) > 10_000:
            return write._replace(value=zlib.compress(write.value))
        return write

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        value = super()._find(kind, sender, name)
        is_packed = isinstance(value, bytes) and value.startswith(b"x\x9c")
        return zlib.decompress(value) if is_packed else value


class StopsAtTheFirst(FileStorage):
    """After a crash takes a file that was renamed before it for a sign that all were."""

    def __init__(self, path: str, **options: Any) -> None:
        os.makedirs(path, exist_ok=True)
        super().__init__(path, **options)

    def _put_in_place(self, files: Mapping[str, object]) -> None:
        for name in files:
            if files[name] and not (self._path / f"{name}.new").exists():
                return
            super()._put_in_place({name: files[name]})


class ListsWhatIsUnderWay(StopsAtTheFirst):
    """Ends what died in the middle when a sender is looked up, and not when all are listed."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        with patch.object(self, "_finish_what_died"):
            return super()._page(kind, where, after)

    def _put_in_place(self, files: Mapping[str, object]) -> None:
        FileStorage._put_in_place(self, files)


IN_MEMORY = (
    (CountsTimes, ContractSuite, "test_unknown_times_stay_unknown"),
    (CountsTimes, EntrySuite, "test_a_time_may_be_unknown"),
    (UnpacksWhatLooksPacked, EntrySuite, "test_what_is_written_is_found"),
    (RemembersTooLate, ThreadSuite, "test_threads_meet[get]"),
    (WaitsAnew, ConversationSuite, "test_a_wait_is_as_long_as_was_said"),
    (LosesLateLocks, ConversationSuite, "test_a_lock_that_is_given_back_late"),
    (ProvesTheLastLock, ConversationSuite, "test_a_lease_that_somebody_took_over"),
    (ProvesTheFirstLock, ConversationSuite, "test_a_lease_that_somebody_took_over"),
    (RenamesOfAnyAge, EntrySuite, "test_a_sweep_goes_by_all_that_it_is_told"),
    (RenamesWhatIsWritten, ContractSuite, "test_any_text_is_a_state"),
)
ON_DISK = (
    (StopsAtTheFirst, SharedEntrySuite, "test_sigkill_between_the_files_of_a_commit"),
    (ListsWhatIsUnderWay, SharedEntrySuite, "test_sigkill_between_the_files_of_a_commit"),
)
