"""Stores that are wrong where one seldom looks; the docstring says where.

They came through all tests of the kit that there were before, or most of the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from salmon_state import MemoryStorage, StorageUnavailable
from salmon_state.entries import CHECK, EVERY, STATE, Entry, Kind, Page, Value, Where, Write
from salmon_state.errors import Overtaken
from salmon_state.keys import Sender
from salmon_state.testing import (
    ContractSuite,
    EntrySuite,
    HostileKeySuite,
    ThreadSuite,
)
from tests.testing.wrong_keys import AltersSenders
from tests.testing.wrong_stores import blindly

# ---------------------------------------------------------------- names and values


class EscapesSurrogates(AltersSenders):
    """Takes text for bytes that were no text, and so these bytes for what they spell."""

    def alter(self, sender: str) -> str:
        try:
            return sender.encode(errors="surrogateescape").decode(errors="surrogateescape")
        except UnicodeEncodeError:
            return sender


class JoinsKindAndName(MemoryStorage):
    """Has one text for both."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.joined: dict[Any, Any] = {}

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return [self.write_one(write) for write in writes]

    def write_one(self, write: Write) -> int:
        key = write.sender, f"{int(write.kind)}{write.name}"
        other = self.joined.setdefault(key, write)
        self.joined[key] = write
        if other[:3] != write[:3]:
            super()._commit([other._replace(value=None)])
        return super()._commit([write])[0]


class PutsPartsTogether(MemoryStorage):
    """Gives a value that had to be read in parts as what it was put together in."""

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        value = super()._find(kind, sender, name)
        return bytearray(value) if isinstance(value, bytes) and len(value) > 2**20 else value


class KeepsWhatItRead(MemoryStorage):
    """Forgets at each commit what it has read; but not when it is cleared."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.found: dict[Any, Any] = {}

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        return self.found.setdefault((kind, sender, name), super()._find(kind, sender, name))

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        self.found = {}
        return super()._commit(writes)


# ---------------------------------------------------------------- commits


class UndoesForwards(MemoryStorage):
    """Puts back what there was, the first change first."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        undo: list[Write] = []
        counts: list[int] = []
        try:
            for write in writes:
                found = self._load(write.sender, [(write.kind, write.name)])
                undo += [Write(*entry) for entry in found]
                if not found and write.name is not EVERY:
                    undo.append(Write(*write[:3], None))
                counts += super()._commit([write])
        except BaseException:
            for write in undo:
                super()._commit([write])
            raise
        return counts


class InterruptsAreErrors(MemoryStorage):
    """Says of whatever ended a commit that the store is away."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        try:
            return super()._commit(writes)
        except (Overtaken, ValueError):
            raise
        except BaseException as error:
            raise StorageUnavailable(f"{error!r}") from error


class CountsTheChanges(MemoryStorage):
    """Compares the number of changes, which begins anew with an entry that is made anew."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.changes: dict[Any, int] = {}

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        while True:
            before = self.numbers(writes)
            super()._commit([w._replace(value=CHECK) for w in writes if w.name is not EVERY])
            after = {w[:3]: n + 1 if w.value else 0 for w, n in zip(writes, before, strict=True)}
            made = blindly(writes)
            with self._writing:
                if self.numbers(writes) == before:
                    self.changes.update(after)
                    return super()._commit(made)

    def numbers(self, writes: Iterable[Write]) -> list[int]:
        return [self.changes.get(write[:3], 0) for write in writes]


class TakesOffTheListLater(MemoryStorage):
    """Removes an entry, and then its name from the list of all."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.unlisted: set[Any] = set()

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        self.unlisted -= {write[:3] for write in writes if write.value is not None}
        counts = super()._commit(writes)
        self.unlist(write[:3] for write in writes if write.value is None)
        return counts

    def unlist(self, places: Iterable[Any]) -> None:
        self.unlisted.update(places)

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        page = super()._page(kind, where, after)
        return page._replace(entries=[e for e in page.entries if e[:3] not in self.unlisted])


class WritesSenderBySender(MemoryStorage):
    """Asks whether all expectations hold, and then replaces a file for each sender."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        super()._commit([w._replace(value=CHECK) for w in writes if w.name is not EVERY])
        counts = [(w, n) for s in {w.sender for w in writes} for w, n in self.of(s, writes)]
        return [dict(counts)[write] for write in writes]

    def of(self, sender: Sender, writes: Iterable[Write]) -> list[tuple[Write, int]]:
        its = [write for write in writes if write.sender == sender]
        return list(zip(its, super()._commit(blindly(its)), strict=True))


class ForgetsTheKind(MemoryStorage):
    """The base of those that do to all kinds of one name what is to be done to one."""

    def others(self, entries: Iterable[Any]) -> list[Entry]:
        kinds = [kind for kind in Kind if kind is not STATE]
        places = [entry[:3] for entry in entries]
        return [
            e
            for own, s, n in places
            for k in kinds
            if k is not own
            for e in self._load(s, [(k, n)])
        ]


class RemovesAllKinds(ForgetsTheKind):
    """``DELETE … WHERE sender = ? AND name = ?``."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        counts = super()._commit(writes)
        gone = [w for w in writes if w.value is None and w.name is not EVERY]
        super()._commit(Write(*entry[:3], None) for entry in self.others(gone))
        return counts


class ClaimsAllKinds(ForgetsTheKind):
    """``UPDATE … WHERE sender = ? AND name = ?``."""

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        claimed = super()._claim(kind, until, limit)
        self._commit(Write(*e[:4], until) for e in self.others(claimed))
        return claimed


class SweepsWhateverItSays(MemoryStorage):
    """Compares states, and no bytes."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        return super()._sweep(kind, where if kind is STATE else where._replace(value=None), value)


class SweepsAnyCase(MemoryStorage):
    """``WHERE name LIKE ?``."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        everybody = self._pages(kind, where._replace(name=EVERY))
        names = {entry.name for page in everybody for entry in page.entries}
        alike = [name for name in names if name.lower() == str(where.name).lower()]
        return sum(MemoryStorage._sweep(self, kind, where._replace(name=n), value) for n in alike)


class ClaimsAnyCase(MemoryStorage):
    """Moves the time of whoever has the same sender but for its case."""

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        claimed = super()._claim(kind, until, limit)
        taken = {(str(entry.sender).lower(), entry.name) for entry in claimed}
        others = [e for page in self._pages(kind, Where()) for e in page.entries]
        alike = [e for e in others if (str(e.sender).lower(), e.name) in taken]
        self._commit(Write(*entry[:4], until) for entry in alike)
        return claimed


class SweepsUnlessEmpty(MemoryStorage):
    """``if where.name:``."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        return super()._sweep(kind, where._replace(name=where.name or EVERY), value)


# ---------------------------------------------------------------- pages and claims


class EndsWhereFewMatch(MemoryStorage):
    """Takes a page of what is due for the last one if it is not full of what matches."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        page = super()._page(kind, where, after)
        full = where.before is None or len(page.entries) == 100
        return page if full else page._replace(after=None)


class NullSendersSortAlike(MemoryStorage):
    """Goes on behind a sender and a name, and has one place in its order for None and ''."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        found = [e for p in self.every(kind, where) for e in p.entries]
        found.sort(key=_order)
        rest = [entry for entry in found if after is None or _order(entry) > after]
        return Page(rest[:100], _order(rest[99]) if len(rest) > 100 else None)

    def every(self, kind: Kind, where: Where) -> Iterable[Page]:
        page = super()._page(kind, where, None)
        yield page
        while page.after is not None:
            page = super()._page(kind, where, page.after)
            yield page


def _order(entry: Entry) -> tuple[str, str]:
    return entry.sender or "", entry.name


class ClaimsByTheOldTime(MemoryStorage):
    """Looks at a list of all times that there were, and whether the entry is there."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.times: list[Any] = []

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        self.times += [(w.at, w[:3]) for w in writes if w.kind.due and w.value is not None]
        return super()._commit(writes)

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        times = sorted(t for t in self.times if t[0] <= self._clock() and t[1][0] is kind)
        places = dict.fromkeys(place for _, place in times)
        found = [e for _, sender, name in places for e in self._load(sender, [(kind, name)])]
        claimed = [entry._replace(at=until) for entry in found[:limit]]
        self._commit(Write(*entry) for entry in claimed)
        return claimed


class BringsBackWhatIsGone(MemoryStorage):
    """Takes only what nobody has put off; what was removed, nobody has put off."""

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        pages = self._pages(kind, Where(before=self._clock() + 1))
        found = [entry for page in pages for entry in page.entries][:limit]
        return [later for entry in found for later in self.claim(entry, until)]

    def claim(self, entry: Entry, until: int) -> list[Entry]:
        later = entry._replace(at=until)
        writes = [Write(*later)]
        with self._writing:
            now = self._load(entry.sender, [(entry.kind, entry.name)])
            if now and now[0].at != entry.at:
                return []
            self._commit(writes)
            return [later]


THREADS = "test_threads_meet"

IN_MEMORY = (
    (EscapesSurrogates, HostileKeySuite, "test_no_two_keys_meet"),
    (JoinsKindAndName, EntrySuite, "test_no_kind_and_name_meet_others"),
    (PutsPartsTogether, EntrySuite, "test_a_large_value"),
    (KeepsWhatItRead, ContractSuite, "test_what_was_read_is_read_again"),
    (UndoesForwards, EntrySuite, "test_every_entry_of_a_sender"),
    (InterruptsAreErrors, EntrySuite, "test_an_iterator_that_fails"),
    (CountsTheChanges, ThreadSuite, f"{THREADS}[what is made anew]"),
    (TakesOffTheListLater, ThreadSuite, f"{THREADS}[removal]"),
    (WritesSenderBySender, ThreadSuite, f"{THREADS}[senders]"),
    (RemovesAllKinds, EntrySuite, "test_no_kind_and_name_meet_others"),
    (ClaimsAllKinds, EntrySuite, "test_a_claim_goes_by_the_last_time"),
    (SweepsWhateverItSays, EntrySuite, "test_a_sweep_of_other_kinds"),
    (SweepsAnyCase, HostileKeySuite, "test_a_sweep_matches_nothing_else"),
    (ClaimsAnyCase, EntrySuite, "test_claims_of_hostile_keys"),
    (SweepsUnlessEmpty, EntrySuite, "test_a_sweep_by_what_is_empty"),
    (EndsWhereFewMatch, EntrySuite, "test_due_entries_come_in_the_order_of_their_time"),
    (NullSendersSortAlike, EntrySuite, "test_null_senders_fill_pages"),
    (ClaimsByTheOldTime, EntrySuite, "test_a_claim_goes_by_the_last_time"),
    (BringsBackWhatIsGone, ThreadSuite, f"{THREADS}[claim and a change]"),
)

ON_DISK = ()
