"""Stores in memory that list wrongly, or tell the wrong time; the docstring says how."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.errors import StorageError
from salmon_state.storage import Change, Record
from tests.testing.right_stores import TableStorage


class IsFalseWhenEmpty(MemoryStorage):
    """As a container, so that ``storage or default`` takes the default."""

    def __bool__(self) -> bool:
        return len(self) > 0


class CountsWrites(MemoryStorage):
    """Its length is the number of sets."""

    writes = 0

    def _write(self, changes: Iterable[Change]) -> None:
        self.writes += 1
        super()._write(changes)

    def _count(self) -> int:
        return self.writes


class YieldsTwice(MemoryStorage):
    """As a SCAN of Redis."""

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        for record in super()._scan(module, sender, state):
            yield from (record, record)


class MissesOne(MemoryStorage):
    """As a page that begins one too far."""

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        yield from itertools.islice(super()._scan(module, sender, state), 1, None)


class StopsAtAHundred(MemoryStorage):
    """Forgets to ask for the next page."""

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        yield from itertools.islice(super()._scan(module, sender, state), 100)


class LoadsEverything(TableStorage):
    """As fetchall()."""

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        yield from list(super()._scan(module, sender, state))


class BreaksWhileIterating(MemoryStorage):
    """Walks over a dict that changes."""

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        size = self._count()
        for record in super()._scan(module, sender, state):
            if self._count() != size:
                raise RuntimeError("dictionary changed size during iteration")
            yield record


class LocksWhileIterating(MemoryStorage):
    """Whoever leaves an iteration in the middle locks everybody out."""

    iterating = False

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        self.iterating = True
        yield from super()._scan(module, sender, state)
        self.iterating = False

    def _write(self, changes: Iterable[Change]) -> None:
        if self.iterating:
            raise StorageError("locked")
        super()._write(changes)


class GivesAList(MemoryStorage):
    """Gives a list, which is no iterator."""

    def records(self, **filters: Any) -> Any:
        return list(super().records(**filters))


class FiltersLoosely(MemoryStorage):
    """As ``lower(sender) = lower(?)``."""

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        for record in super()._scan(module, None, state):
            if sender is None or (record.sender or "").lower() == sender.lower():
                yield record


class IgnoresAFilter(MemoryStorage):
    """Filters by state only if no module is given."""

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        return super()._scan(module, sender, None if module else state)


class FiltersByNobody(MemoryStorage):
    """Takes a sender of '' for no filter."""

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        return super()._scan(module, sender or None, state)


class TakesAnyFilter(MemoryStorage):
    """Answers a nonsensical filter with nothing."""

    def records(self, **filters: Any) -> Iterator[Record]:
        if all(value is None or (isinstance(value, str) and value) for value in filters.values()):
            return super().records(**filters)
        return iter(())


class RoundsTimes(MemoryStorage):
    """As a DATETIME without fractions."""

    def _write(self, changes: Iterable[Change]) -> None:
        super()._write(
            change._replace(updated_at=change.updated_at and change.updated_at // 10**6 * 10**6)
            for change in changes
        )


class KeepsTheFirstTime(MemoryStorage):
    """`updated_at` is when the conversation began."""

    def _write(self, changes: Iterable[Change]) -> None:
        for change in changes:
            began = self._updated_at.get(repr([change.module, change.sender]))
            super()._write((change._replace(updated_at=began or change.updated_at),))


class InventsTimes(MemoryStorage):
    """What has no time is taken to be from now."""

    def _write(self, changes: Iterable[Change]) -> None:
        super()._write(
            change._replace(updated_at=change.updated_at or self._clock()) for change in changes
        )


class ZeroForUnknown(MemoryStorage):
    """What has no time is taken to be from 1970, and purged."""

    def _write(self, changes: Iterable[Change]) -> None:
        super()._write(change._replace(updated_at=change.updated_at or 0) for change in changes)


class ClockRunsSlow(MemoryStorage):
    """Its clock is an hour late, as one in local time."""

    _clock = staticmethod(lambda: time.time_ns() // 1000 - 3_600_000_000)
