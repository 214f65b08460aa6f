"""Stores that tidy themselves up, and spoil something for others; the docstring says what.

They came through all tests of the kit that there were before.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.backend import Backend
from salmon_state.entries import Entry, Kind, Page, Place, Want, Where, Write
from salmon_state.keys import Sender
from salmon_state.testing import EntrySuite, FileSuite, SharedEntrySuite, SharedSuite
from tests.testing.right_stores import TableStorage


class Tidying(Backend):
    """The base of those that tidy up after so many changes."""

    changes = 0

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        counts = super()._commit(writes)
        self.changes += sum(counts)
        if self.changes > 1000:
            self.changes = 0
            self.tidy()
        return counts

    def tidy(self) -> None:
        raise NotImplementedError


class WritesZeros(Tidying, MemoryStorage):
    """Writes all entries anew, with a time of 0 where it is unknown."""

    def tidy(self) -> None:
        for page in self._pages(Kind.STATE, Where()):
            super()._commit(Write(*e[:4], 0) for e in page.entries if e.at is None)


class NumbersAnew(Tidying, MemoryStorage):
    """Lists by numbers, and gives each entry another one when some are no longer used."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.numbers: dict[Any, int] = {}  # by place

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        for write in writes:
            self.numbers.setdefault(write[:3], len(self.numbers))
        return super()._commit(writes)

    def tidy(self) -> None:
        places = [place for place in self.numbers if self._find(*place) is not None]
        self.numbers = {place: number for number, place in enumerate(places)}

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        first = 0 if after is None else after
        places = [p for p, number in self.numbers.items() if number >= first and p[0] is kind]
        found = (e for place in places[:100] for e in self._load(place[1], [(kind, place[2])]))
        rest = places[100:]
        return Page(list(filter(where.matches, found)), self.numbers[rest[0]] if rest else None)


class LeavesTheOldOneOpen(Tidying, MemoryStorage):
    """Opens what it has written anew, and does not close what it had."""

    def tidy(self) -> None:
        os.open(os.devnull, os.O_RDONLY)


class LeavesTheModeToSQLite(Tidying, TableStorage):
    """Writes its file anew, and the new one is open to every user."""

    def tidy(self) -> None:
        with closing(self._connect()) as connection:
            connection.execute("VACUUM INTO ?", [f"{self.path}.new"])
        os.replace(f"{self.path}.new", self.path)


class ReadsTheOldFile(LeavesTheModeToSQLite):
    """Goes on with the file that it has open, which another one has replaced."""

    reading: sqlite3.Connection | None = None

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        if self.reading is None:
            self.reading = self._connect()
        return [e for kind, name in wants for e in self._select(self.reading, kind, sender, name)]


class BeginsWithItsParents(TableStorage):
    """What a child reads first is what its parent had read."""

    forked = False

    def __init__(self, path: str, **options: Any) -> None:
        self.memory: dict[Place, Any] = {}
        super().__init__(path, **options)

    def after_fork(self, *, child: bool) -> None:
        super().after_fork(child=child)
        self.forked = child

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        place = kind, sender, name
        if self.forked:
            self.forked = False
            return self.memory[place]
        self.memory[place] = super()._find(kind, sender, name)
        return self.memory[place]


class RaisesWhenItIsDone(TableStorage):
    """Has committed when it finds that it cannot write down that it has."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        counts = super()._commit(writes)
        with open(f"{self.path}.log", "a", encoding="ascii") as log:
            print(counts, file=log)
        return counts


IN_MEMORY = (
    (WritesZeros, EntrySuite, "test_churn_touches_nothing_else"),
    (NumbersAnew, EntrySuite, "test_churn_beside_whoever_lists"),
    (LeavesTheOldOneOpen, EntrySuite, "test_churn_leaves_nothing_open"),
)
ON_DISK = (
    (LeavesTheModeToSQLite, FileSuite, "test_nobody_else_reads_its_files"),
    (ReadsTheOldFile, SharedSuite, "test_churn_of_another_store"),
    (BeginsWithItsParents, SharedSuite, "test_churn_before_a_childs_first_call"),
    (RaisesWhenItIsDone, SharedEntrySuite, "test_a_file_that_cannot_be_changed"),
)
