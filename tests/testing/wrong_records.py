"""Stores in memory that list wrongly, or tell the wrong time; the docstring says how."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.entries import EVERY, Kind, Page, Where, Write
from salmon_state.errors import StorageError
from salmon_state.storage import Record
from tests.testing.right_stores import TableStorage


class IsFalseWhenEmpty(MemoryStorage):
    """As a container, so that ``storage or default`` takes the default."""

    def __bool__(self) -> bool:
        return len(self) > 0


class CountsWrites(MemoryStorage):
    """Its length is the number of sets."""

    writes = 0

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        self.writes += 1
        return super()._commit(writes)

    def _count(self, kind: Kind) -> int:
        return self.writes


class YieldsTwice(MemoryStorage):
    """As a SCAN of Redis."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        page = super()._page(kind, where, after)
        return page._replace(entries=[entry for entry in page.entries for _ in range(2)])


class MissesOne(MemoryStorage):
    """As a page that begins one too far."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        page = super()._page(kind, where, after)
        return page if after else page._replace(entries=page.entries[1:])


class StopsAtAHundred(MemoryStorage):
    """Forgets to ask for the next page."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        return super()._page(kind, where, after)._replace(after=None)


class LoadsEverything(TableStorage):
    """As fetchall()."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        entries = []
        while True:
            page = super()._page(kind, where, after)
            entries += page.entries
            after = page.after
            if after is None:
                return Page(entries, None)


class BreaksWhileIterating(MemoryStorage):
    """Walks over a dict that changes."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        size, after = after or (self._count(kind), None)
        if self._count(kind) != size:
            raise RuntimeError("dictionary changed size during iteration")
        page = super()._page(kind, where, after)
        return page if page.after is None else page._replace(after=(size, page.after))


class LocksWhileIterating(MemoryStorage):
    """Whoever leaves an iteration in the middle locks everybody out."""

    iterating = False

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        self.iterating = after != "end"
        if not self.iterating:
            return Page([], None)
        page = super()._page(kind, where, after)
        return page._replace(after=page.after or "end")

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        if self.iterating:
            raise StorageError("locked")
        return super()._commit(writes)


class GivesAList(MemoryStorage):
    """Gives a list, which is no iterator."""

    def records(self, **filters: Any) -> Any:
        return list(super().records(**filters))


class FiltersLoosely(MemoryStorage):
    """As ``lower(sender) = lower(?)``."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        page = super()._page(kind, where._replace(sender=EVERY), after)
        if not isinstance(where.sender, str):
            return page
        wanted = where.sender.lower()
        found = [entry for entry in page.entries if (entry.sender or "").lower() == wanted]
        return page._replace(entries=found)


class IgnoresAFilter(MemoryStorage):
    """Filters by state only if no module is given."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        if where.name is not EVERY:
            where = where._replace(value=None)
        return super()._page(kind, where, after)


class FiltersByNobody(MemoryStorage):
    """Takes a sender of '' for no filter."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        if where.sender == "":
            where = where._replace(sender=EVERY)
        return super()._page(kind, where, after)


class TakesAnyFilter(MemoryStorage):
    """Answers a nonsensical filter with nothing."""

    def records(self, **filters: Any) -> Iterator[Record]:
        if all(value is None or (isinstance(value, str) and value) for value in filters.values()):
            return super().records(**filters)
        return iter(())


class RoundsTimes(MemoryStorage):
    """As a DATETIME without fractions."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(w._replace(at=w.at and w.at // 10**6 * 10**6) for w in writes)


class KeepsTheFirstTime(MemoryStorage):
    """`updated_at` is when the conversation began."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(w._replace(at=self._first_time(w)) for w in writes)

    def _first_time(self, write: Write) -> int | None:
        for entry in self._load(write.sender, [(write.kind, write.name)]):
            return entry.at
        return write.at


class InventsTimes(MemoryStorage):
    """What has no time is taken to be from now."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(write._replace(at=write.at or self._clock()) for write in writes)


class ZeroForUnknown(MemoryStorage):
    """What has no time is taken to be from 1970, and purged."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(write._replace(at=write.at or 0) for write in writes)


class ClockRunsSlow(MemoryStorage):
    """Its clock is an hour late, as one in local time."""

    _clock = staticmethod(lambda: time.time_ns() // 1000 - 3_600_000_000)
