"""Stores that look in the wrong place: in a page, in an index, in a file that is no longer there.

They came through all tests of the kit that there were before.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.entries import STATE, Entry, Kind, Page, Where, Write
from salmon_state.keys import Sender
from salmon_state.testing import EntrySuite, FileSuite
from tests.testing.right_stores import TableStorage

_LARGE = 1_000_000


class LosesOneBehindALargePage(MemoryStorage):
    """Ends a page of a megabyte, and begins the next one behind the entry that was too much."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        found: list[Entry] = []
        page = super()._page(kind, where, None)
        found += page.entries
        while page.after is not None:
            page = super()._page(kind, where, page.after)
            found += page.entries
        start = end = after or 0
        size = 0
        while end < len(found) and size < _LARGE:
            size += len(found[end].value)
            end += 1
        lost = 1 if size >= _LARGE else 0
        return Page(found[start:end], end + lost if end + lost < len(found) else None)


class KeepsOldTimes(MemoryStorage):
    """Finds what is due by each time that it has ever had."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.times: defaultdict[Kind, set[tuple[int, Sender, str]]] = defaultdict(set)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        counts = super()._commit(writes)
        for write in writes:
            if write.at is not None and isinstance(write.name, str):
                self.times[write.kind].add((write.at, write.sender, write.name))
        return counts

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        if not kind.due or where.before is None:
            return super()._page(kind, where, after)
        found: list[Entry] = []
        for _, sender, name in sorted(self.times[kind], key=str):
            found += self._load(sender, ((kind, name),))
        return Page([entry for entry in found if where.matches(entry)], None)


class KeepsTimesOfWhatIsGone(KeepsOldTimes):
    """Removes an entry, and not what finds it by its time."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        for write in writes:
            if write.value is not None:
                times = self.times[write.kind]
                known = [each for each in times if each[1:] == (write.sender, write.name)]
                if self._find(write.kind, write.sender, str(write.name)) is not None:
                    times.difference_update(known)
        return super()._commit(writes)


class RemembersWhatItFound(MemoryStorage):
    """Asks once for what is no state."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.found: dict[tuple[Kind, Sender, str], Any] = {}

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        if kind is STATE:
            return super()._find(kind, sender, name)
        return self.found.setdefault((kind, sender, name), super()._find(kind, sender, name))


class _Kept(sqlite3.Connection):
    def close(self) -> None:
        pass


class WritesToTheOldFile(TableStorage):
    """Opens its file once, and goes on with it when there is another one at its path."""

    connection: sqlite3.Connection | None = None

    def _connect(self) -> sqlite3.Connection:
        if self.connection is None:
            self.connection = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, factory=_Kept
            )
            self.connection.execute("PRAGMA journal_mode = MEMORY")
        return self.connection

    def _close(self) -> None:
        if self.connection is not None:
            sqlite3.Connection.close(self.connection)
        super()._close()


IN_MEMORY = (
    (LosesOneBehindALargePage, EntrySuite, "test_large_values_fill_pages[key]"),
    (LosesOneBehindALargePage, EntrySuite, "test_large_values_fill_pages[time]"),
    (KeepsOldTimes, EntrySuite, "test_what_moves_is_where_its_time_is[OUTGOING]"),
    (KeepsTimesOfWhatIsGone, EntrySuite, "test_what_moves_is_where_its_time_is[OUTGOING]"),
    (RemembersWhatItFound, EntrySuite, "test_what_is_written_is_found[OUTGOING]"),
)
ON_DISK = ((WritesToTheOldFile, FileSuite, "test_a_backup_moved_into_place"),)
