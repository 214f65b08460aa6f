"""Stores that are right but for a detail that their author did not think of; the docstring says it.

Nearly all of them came through all tests of the kit that there were before.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, ClassVar

from salmon_state import MemoryStorage
from salmon_state.backend import Lock
from salmon_state.entries import ANYTHING, EVERY, Entry, Kind, Page, Seen, Value, Want, Where, Write
from salmon_state.errors import StorageError
from salmon_state.findings import Finding
from salmon_state.keys import Sender
from salmon_state.testing import (
    ContractSuite,
    ConversationSuite,
    EntrySuite,
    HostileKeySuite,
    ThreadSuite,
)


class Changing(MemoryStorage):
    """The base of those that write something else than they are asked to."""

    def changed(self, write: Write) -> Write:
        return write

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit([self.changed(write) for write in writes])


# ---------------------------------------------------------------- values and times


class StripsValues(Changing):
    """As lines of a text file."""

    def changed(self, write: Write) -> Write:
        value = write.value
        return write._replace(value=value.rstrip()) if isinstance(value, bytes) else write


class LosesTheLastChunk(Changing):
    """Takes a chunk that is full for one that is followed by another."""

    def changed(self, write: Write) -> Write:
        value, size = write.value, 65_536
        if isinstance(value, bytes) and value and len(value) % size == 0:
            return write._replace(value=value[:-size])
        return write


class FloatTimes(Changing):
    """As the numbers of JavaScript and Lua."""

    def changed(self, write: Write) -> Write:
        return write if write.at is None else write._replace(at=int(float(write.at)))


class WallClockTimes(Changing):
    """Writes what a clock on the wall shows."""

    def changed(self, write: Write) -> Write:
        if write.at is None:
            return write
        seconds, rest = divmod(write.at, 1_000_000)
        shown = datetime.fromtimestamp(seconds).replace(fold=0)
        return write._replace(at=round(shown.timestamp()) * 1_000_000 + rest)


class ComparesTheBeginning(Changing):
    """Has an index over the first thousand bytes."""

    def changed(self, write: Write) -> Write:
        expect = write.expect
        if write.name is EVERY or not isinstance(expect, Seen) or expect.value is None:
            return write
        for entry in self._load(write.sender, [(write.kind, write.name)]):
            if entry.value[:1000] == expect.value[:1000]:
                return write._replace(expect=expect._replace(value=entry.value))
        return write


class HasRoomForSome(MemoryStorage):
    """Makes one statement of a commit, with as many variables as a statement may have."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        if 6 * len(writes) > 65_535:
            raise StorageError("too many variables")
        return super()._commit(writes)


# ---------------------------------------------------------------- names and senders


class NamesTheMark(Changing):
    """Says EVERY to its server by a name that nobody will have."""

    def changed(self, write: Write) -> Write:
        if write.name != "EVERY":
            return write
        return write._replace(name=EVERY, expect=ANYTHING)


class LoadsByPattern(MemoryStorage):
    """Asks for EVERY as ``*``."""

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        return super()._load(sender, [(k, EVERY if name == "*" else name) for k, name in wants])


class LoadsLoosely(MemoryStorage):
    """The base of those that find too many of a sender's entries."""

    def is_wanted(self, name: str, wanted: str) -> bool:
        return name == wanted

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        found = super()._load(sender, [(kind, EVERY) for kind, _ in wants])
        return [
            entry
            for kind, name in wants
            for entry in found
            if entry.kind is kind and (name is EVERY or self.is_wanted(entry.name, name))
        ]


class LoadsByPrefix(LoadsLoosely):
    """Begins at a key, and does not look where the next one begins."""

    def is_wanted(self, name: str, wanted: str) -> bool:
        return name.startswith(wanted)


class LoadsAnyCase(LoadsLoosely):
    """As a column with a collation."""

    def is_wanted(self, name: str, wanted: str) -> bool:
        return name.lower() == wanted.lower()


class MovesByShortDigest(MemoryStorage):
    """Finds all that a sender has by 32 bits of a digest."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        counts = super()._commit(writes)
        moves = {_crc(write.sender): write for write in writes if write.name is EVERY}
        for kind in {write.kind for write in moves.values()}:
            others = [e for page in self._pages(kind, Where()) for e in page.entries]
            for entry in others:
                if _crc(entry.sender) in moves:
                    move = moves[_crc(entry.sender)]
                    super()._commit([Write(*entry[:3], move.value, move.at)])
        return counts


def _crc(sender: Sender) -> int:
    return zlib.crc32(ascii(sender).encode())


# ---------------------------------------------------------------- pages


class RepeatsTies(MemoryStorage):
    """Goes on where a page ended, with all that has this time."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        if where.before is None:
            return super()._page(kind, where, after)
        found = [e for e in self._all(kind, where) if after is None or (e.at or 0) >= after]
        return Page(found[:100], found[99].at if len(found) > 100 else None)

    def _all(self, kind: Kind, where: Where) -> Iterator[Entry]:
        after = None
        while True:
            page = super()._page(kind, where, after)
            yield from page.entries
            after = page.after
            if after is None:
                return


class StopsWhereNothingMatches(MemoryStorage):
    """Takes a page without a match for the last one."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        page = super()._page(kind, Where(before=where.before), after)
        found = [entry for entry in page.entries if where.matches(entry)]
        return Page(found, page.after if found else None)


class LeavesCursorsOpen(MemoryStorage):
    """Closes what it lists with on the last page."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        cursor, position = after or (os.open(os.devnull, os.O_RDONLY), None)
        page = super()._page(kind, where, position)
        if page.after is None:
            os.close(cursor)
            return page
        return page._replace(after=(cursor, page.after))


class SweepsWhateverIsCalledSo(MemoryStorage):
    """Sweeps the first page by all that it is asked for, and the others by time alone."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        found = self._page(kind, where, None)
        rest = [] if found.after is None else [e for p in self._pages(kind, Where()) for e in p[0]]
        chosen = {entry[:3]: entry for entry in (*found.entries, *rest)}
        return sum(self._commit(Write(*place, value, e.at) for place, e in chosen.items()))


class SweepsEverybodys(MemoryStorage):
    """Has nothing to find one sender's entries by."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        return super()._sweep(kind, where._replace(sender=EVERY), value)


# ---------------------------------------------------------------- the store itself


class GivesAllLocksBack(MemoryStorage):
    """Unlocks whatever the process has locked."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.held: list[Lock] = []

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        self.held.append(super()._lock(sender, timeout))
        return Lock(self.give_back)

    def give_back(self) -> None:
        while self.held:
            self.held.pop().release()


class TellsThePassword(MemoryStorage):
    """Says where it is as it was told."""

    options: ClassVar = {"url": "mine://anna:secret@host/states"}

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(**options)
        self.url = url

    def _place(self) -> str:
        return self.url


class CannotBeDiagnosed(MemoryStorage):
    """Has a hook that nobody has ever called."""

    def _diagnose(self) -> Iterable[Finding]:
        raise KeyError("leases")


class OpensForEachThread(MemoryStorage):
    """Has a connection for each thread, and does not know when one ends."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.own = threading.local()

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        if not hasattr(self.own, "connection"):
            self.own.connection = os.open(os.devnull, os.O_RDONLY)
        return super()._commit(writes)


class PausesNobody(MemoryStorage):
    """Locks out whoever else wants to pause."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pausing = threading.Lock()

    @contextmanager
    def _pause(self, seconds: float) -> Iterator[None]:
        with self.pausing:
            yield


IN_MEMORY = (
    (StripsValues, EntrySuite, "test_what_is_written_is_found"),
    (LosesTheLastChunk, EntrySuite, "test_a_large_value"),
    (FloatTimes, EntrySuite, "test_any_time_comes_back"),
    (WallClockTimes, EntrySuite, "test_an_hour_that_comes_twice"),
    (HasRoomForSome, EntrySuite, "test_many_in_one_commit"),
    (ComparesTheBeginning, EntrySuite, "test_expectations_of_long_values"),
    (ComparesTheBeginning, ContractSuite, "test_long_states"),
    (NamesTheMark, EntrySuite, "test_no_two_entries_meet"),
    (NamesTheMark, HostileKeySuite, "test_no_two_keys_meet"),
    (LoadsByPattern, EntrySuite, "test_no_two_entries_meet"),
    (LoadsByPrefix, EntrySuite, "test_no_two_entries_meet"),
    (LoadsAnyCase, EntrySuite, "test_no_two_entries_meet"),
    (MovesByShortDigest, HostileKeySuite, "test_short_digests"),
    (RepeatsTies, EntrySuite, "test_many_with_the_same_time"),
    (StopsWhereNothingMatches, ContractSuite, "test_many_records"),
    (LeavesCursorsOpen, ContractSuite, "test_many_records"),
    (SweepsWhateverIsCalledSo, EntrySuite, "test_a_sweep_of_other_kinds"),
    (SweepsEverybodys, EntrySuite, "test_a_sweep_of_other_kinds"),
    (GivesAllLocksBack, ConversationSuite, "test_the_lock_of_another_thread_stays"),
    (TellsThePassword, ContractSuite, "test_repr"),
    (CannotBeDiagnosed, ContractSuite, "test_diagnose"),
    (OpensForEachThread, ThreadSuite, "test_threads_leave_nothing_behind"),
    (PausesNobody, ThreadSuite, "test_a_pause"),
)
ON_DISK = ()
