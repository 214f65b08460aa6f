"""Stores that do in two steps what is to happen at one moment; the docstring says how."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.entries import (
    CHECK,
    EVERY,
    Entry,
    Kind,
    Page,
    Seen,
    Value,
    Want,
    Where,
    Write,
    holds,
)
from salmon_state.errors import Overtaken
from salmon_state.keys import Sender
from salmon_state.testing import ContractSuite, SharedSuite, ThreadSuite
from tests.testing.right_stores import TableStorage
from tests.testing.wrong_stores import CompareIsNotAtomic, blindly

# ---------------------------------------------------------------- beside another thread


class SweepsWhatItSaw(MemoryStorage):
    """Reads what is to be changed, and changes it whatever became of it."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        found = [entry for page in self._pages(kind, where) for entry in page.entries]
        return sum(self._commit(blindly(Write(*e[:3], value, e.at) for e in found)))


class RenamesByHand(MemoryStorage):
    """Renames as an application would: with `records` and `set`."""

    def rename(self, module: str, old: str, new: str) -> int:
        moved = list(self.records(module=module, state=old))
        for record in moved:
            self.set(module, record.sender, new)
        return len(moved)


class PurgesTheSameState(MemoryStorage):
    """Goes by the state, and takes one that was set again for one that is idle."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        changed = 0
        for page in self._pages(kind, where):
            for entry in page.entries:
                try:
                    changed += self._commit(
                        [Write(*entry[:3], value, entry.at, Seen(entry.value))]
                    )[0]
                except Overtaken:
                    continue
        return changed


class SweepsOnceOnly(MemoryStorage):
    """Gives a whole page up when one entry of it has changed."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        changed = 0
        for page in self._pages(kind, where):
            writes = [Write(*e[:3], value, e.at, Seen(e.value, e.at)) for e in page.entries]
            try:
                changed += sum(self._commit(writes))
            except Overtaken:
                continue
        return changed


class MovesWhatItSaw(MemoryStorage):
    """Reads which conversations a sender has, and moves those that are still there."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return [
            self._move(w) if w.name is EVERY else super(MovesWhatItSaw, self)._commit([w])[0]
            for w in writes
        ]

    def _move(self, write: Write) -> int:
        moved = 0
        for entry in self._load(write.sender, [(write.kind, EVERY)]):
            try:
                moved += super()._commit([write._replace(name=entry.name, expect=Seen())])[0]
            except Overtaken:
                continue
        return moved


class BringsBackWhatItSaw(MovesWhatItSaw):
    """Reads which conversations a sender has, and sets each of them."""

    def _move(self, write: Write) -> int:
        found = self._load(write.sender, [(write.kind, EVERY)])
        return sum(len(MemoryStorage._commit(self, [write._replace(name=e.name)])) for e in found)


class ReadsNameByName(MemoryStorage):
    """Reads which entries there are, and then each of them."""

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        names = {entry[:3]: None for entry in super()._load(sender, wants)}
        return [
            e
            for kind, _, name in names
            for e in super(ReadsNameByName, self)._load(sender, [(kind, name)])
        ]


class ReadsKindByKind(MemoryStorage):
    """Reads each of the wants at a moment of its own."""

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        return [e for want in wants for e in super(ReadsKindByKind, self)._load(sender, [want])]


class CommitsByFifties(MemoryStorage):
    """Checks everything first, and then makes a transaction of each fifty writes."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        checks = [w._replace(value=CHECK) for w in writes if w.name is not EVERY]
        super()._commit(checks)
        counts: list[int] = []
        rest = iter(blindly(writes))
        while part := list(itertools.islice(rest, 50)):
            counts += super()._commit(part)
        return counts


class CommitsStatesFirst(MemoryStorage):
    """Has two files, and writes one after the other."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        states = [write for write in writes if write.kind is Kind.STATE]
        others = [write for write in writes if write.kind is not Kind.STATE]
        return [*super()._commit(states), *super()._commit(others)]


class ClaimsWhatItSaw(MemoryStorage):
    """Moves what somebody else may just have taken."""

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        found = self._page(kind, Where(before=self._clock() + 1), None).entries[:limit]
        claimed = [entry._replace(at=until) for entry in found]
        self._commit(Write(*entry) for entry in claimed)
        return claimed


class ClaimsTheSameMail(MemoryStorage):
    """Expects of what it claims that it still says the same, which it does for the next, too."""

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        claimed = []
        for page in self._pages(kind, Where(before=self._clock() + 1)):
            for entry in page.entries[:limit]:
                self._commit([Write(*entry[:4], until, Seen(entry.value))])
                claimed.append(entry._replace(at=until))
        return claimed


class ClaimsAllOrNothing(MemoryStorage):
    """Takes nothing of all that is due when somebody else took one of them."""

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        found = self._page(kind, Where(before=self._clock() + 1), None).entries[:limit]
        try:
            self._commit([Write(*e[:4], until, Seen(at=e.at)) for e in found[::2]])
        except Overtaken:
            return []
        return [entry._replace(at=until) for entry in found[::2]]


class ListsByPosition(MemoryStorage):
    """Goes on at the position where a page ended, which is another entry's by then."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        found = [e for p in _all_pages(super()._page, kind, where) for e in p.entries]
        end = (after or 0) + 2
        return Page(found[end - 2 : end], end if end < len(found) else None)


def _all_pages(page: Any, kind: Kind, where: Where) -> Iterable[Page]:
    after = None
    while True:
        found = page(kind, where, after)
        yield found
        after = found.after
        if after is None:
            return


# ---------------------------------------------------------------- beside another store


class LocksItsOwnHandle(TableStorage):
    """Keeps threads apart that have the same object, and nobody else."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self.own = threading.RLock()

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        with self.own:
            for write in writes:
                if write.name is not EVERY:
                    found = self._load(write.sender, [(write.kind, write.name)])
                    if not holds(write.expect, found[0] if found else None):
                        raise Overtaken
            return super()._commit(blindly(writes))


class RenamesAfterAnotherLook(TableStorage):
    """Looks at each entry again, and then writes it."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        changed = 0
        for page in self._pages(kind, where):
            for entry in page.entries:
                found = self._load(entry.sender, [(kind, entry.name)])
                if found and where.matches(found[0]):
                    self._commit([Write(*entry[:3], value, entry.at)])
                    changed += 1
        return changed


class SweepsBeforeOthers(TableStorage):
    """Keeps out others who sweep, but not those who set."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self.sweeping = threading.Lock()

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        with self.sweeping:
            found = [entry for page in self._pages(kind, where) for entry in page.entries]
            return sum(self._commit(blindly(Write(*e[:3], value, e.at) for e in found)))


class ReadsUncommitted(TableStorage):
    """Reads and writes each entry in a transaction of its own."""

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        return [e for want in wants for e in super(ReadsUncommitted, self)._load(sender, [want])]


class DefersItsTransaction(TableStorage):
    """Begins to keep others out with its first write: what it read before may have changed."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        with closing(self._connect()) as connection:
            for write in writes:
                if write.name is not EVERY:
                    found = self._select(connection, *write[:3])
                    if not holds(write.expect, found[0] if found else None):
                        raise Overtaken
            connection.execute("BEGIN IMMEDIATE")
            counts = [self._write(connection, write) for write in blindly(writes)]
            connection.execute("COMMIT")
            return counts


class CommitsEachByItself(TableStorage):
    """Leaves out BEGIN, so that each statement is a transaction."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        with closing(self._connect()) as connection:
            return [self._write(connection, write) for write in writes]


class ClaimsInTwoSteps(TableStorage):
    """Selects in one transaction and updates in another."""

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        found = self._page(kind, Where(before=self._clock() + 1), None).entries[:limit]
        self._commit([Write(*entry[:4], until) for entry in found])
        return [entry._replace(at=until) for entry in found]


class PagesByOffsetInATable(TableStorage):
    """LIMIT and OFFSET."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        with closing(self._connect()) as connection:
            rows = connection.execute(
                "SELECT sender, name FROM entries WHERE name = ? ORDER BY sender",
                [self._text(str(where.name))],
            ).fetchall()
        return self._chosen(kind, where, rows, after or 0)

    def _chosen(self, kind: Kind, where: Where, rows: Any, start: int) -> Page:
        entries: list[Entry] = []
        with closing(sqlite3.connect(self.path)) as connection:
            for sender, name in rows[start : start + 2]:
                found = connection.execute(
                    "SELECT * FROM entries WHERE kind = ? AND sender = ? AND name = ?",
                    [kind, sender, name],
                )
                entries += [self._entry(row) for row in found]
        entries = [entry for entry in entries if where.matches(entry)]
        return Page(entries, start + 2 if start + 2 < len(rows) else None)


THREADS, STORES = "test_threads_meet", "test_stores_meet"

IN_MEMORY = (
    (SweepsWhatItSaw, ThreadSuite, f"{THREADS}[rename]"),
    (SweepsWhatItSaw, ThreadSuite, f"{THREADS}[purge]"),
    (SweepsWhatItSaw, ThreadSuite, f"{THREADS}[expiry]"),
    (RenamesByHand, ThreadSuite, f"{THREADS}[rename]"),
    (PurgesTheSameState, ThreadSuite, f"{THREADS}[purge]"),
    (SweepsOnceOnly, ThreadSuite, f"{THREADS}[rename]"),
    (MovesWhatItSaw, ThreadSuite, f"{THREADS}[set_all]"),
    (BringsBackWhatItSaw, ThreadSuite, f"{THREADS}[set_all and a removal]"),
    (CompareIsNotAtomic, ThreadSuite, f"{THREADS}[compare_and_set]"),
    (ReadsNameByName, ThreadSuite, f"{THREADS}[snapshot]"),
    (ReadsKindByKind, ThreadSuite, f"{THREADS}[load]"),
    (CommitsByFifties, ThreadSuite, f"{THREADS}[commit]"),
    (CommitsStatesFirst, ThreadSuite, f"{THREADS}[commit]"),
    (ClaimsWhatItSaw, ThreadSuite, f"{THREADS}[claim]"),
    (ClaimsTheSameMail, ThreadSuite, f"{THREADS}[claim]"),
    (ClaimsAllOrNothing, ThreadSuite, f"{THREADS}[claim]"),
    (ListsByPosition, ThreadSuite, f"{THREADS}[records]"),
    (ListsByPosition, ContractSuite, "test_states_may_change_while_iterating"),
)

ON_DISK = (
    (LocksItsOwnHandle, SharedSuite, f"{STORES}[compare_and_set]"),
    (RenamesAfterAnotherLook, SharedSuite, f"{STORES}[rename]"),
    (SweepsBeforeOthers, SharedSuite, f"{STORES}[rename]"),
    (SweepsBeforeOthers, SharedSuite, f"{STORES}[purge]"),
    (SweepsBeforeOthers, SharedSuite, f"{STORES}[expiry]"),
    (ReadsUncommitted, SharedSuite, f"{STORES}[load]"),
    (DefersItsTransaction, SharedSuite, f"{STORES}[compare_and_set]"),
    (CommitsEachByItself, SharedSuite, f"{STORES}[commit]"),
    (ClaimsInTwoSteps, SharedSuite, f"{STORES}[claim]"),
    (PagesByOffsetInATable, SharedSuite, f"{STORES}[records]"),
)
