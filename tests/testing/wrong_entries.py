"""Stores whose hooks are wrong about entries of all kinds; the docstring says how."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.entries import (
    ABSENT,
    ANYTHING,
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
)
from salmon_state.keys import Sender
from tests.testing.right_stores import TableStorage
from tests.testing.wrong_stores import blindly

# ---------------------------------------------------------------- one entry


class DecodesValues(MemoryStorage):
    """As a column of type TEXT."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(
            w._replace(value=w.value.decode(errors="replace").encode())
            if isinstance(w.value, bytes)
            else w
            for w in writes
        )


class KindsMeet(MemoryStorage):
    """Has one place for what waits to be sent and for what waits to be confirmed."""

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        return super()._find(Kind.OUTGOING if kind is Kind.CONFIRMATION else kind, sender, name)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(
            w._replace(kind=Kind.OUTGOING) if w.kind is Kind.CONFIRMATION else w for w in writes
        )


class CutsNames(MemoryStorage):
    """As a buffer that was big enough so far."""

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        return super()._find(kind, sender, name[:1_000_000])

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(
            w if w.name is EVERY else w._replace(name=w.name[:1_000_000]) for w in writes
        )


class CutsValues(MemoryStorage):
    """As MEDIUMBLOB."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(
            w._replace(value=w.value[: 2**24 - 1]) if isinstance(w.value, bytes) else w
            for w in writes
        )


class MixesWants(MemoryStorage):
    """Gives every name that is wanted in every kind that is."""

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        names = {name for _, name in wants}
        return super()._load(sender, [(kind, name) for kind, _ in wants for name in names])


# ---------------------------------------------------------------- expectations


class Expects(MemoryStorage):
    """The base of those that take an expectation for another one."""

    def expected(self, write: Write) -> Any:
        return write.expect

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(write._replace(expect=self.expected(write)) for write in writes)


class ComparesTimeAlways(Expects):
    """Takes a time that nobody asked about for the unknown one."""

    def expected(self, write: Write) -> Any:
        expect = write.expect
        compares = isinstance(expect, Seen) and expect.at is ANYTHING
        return expect._replace(at=None) if compares else expect  # type: ignore[union-attr]


class ComparesNoValue(Expects):
    """Goes by the time alone."""

    def expected(self, write: Write) -> Any:
        return Seen(at=write.expect.at) if isinstance(write.expect, Seen) else write.expect


class ComparesNoTime(Expects):
    """Goes by the value alone."""

    def expected(self, write: Write) -> Any:
        return Seen(write.expect.value) if isinstance(write.expect, Seen) else write.expect


class ComparesNoUnknownTime(Expects):
    """As ``at = NULL``, which it leaves out."""

    def expected(self, write: Write) -> Any:
        expect = write.expect
        if isinstance(expect, Seen) and expect.at is None:
            return expect._replace(at=ANYTHING)
        return expect


class OverwritesWhatIsThere(Expects):
    """As INSERT OR REPLACE."""

    def expected(self, write: Write) -> Any:
        return ANYTHING if write.expect is ABSENT else write.expect


class WritesWhatIsGone(Expects):
    """As an UPSERT, where it should be an UPDATE."""

    def expected(self, write: Write) -> Any:
        there = self._load(write.sender, [(write.kind, write.name)])
        return write.expect if there else ANYTHING


class IgnoresChecks(Expects):
    """Where nothing is to be written it looks at nothing."""

    def expected(self, write: Write) -> Any:
        return ANYTHING if write.value is CHECK else write.expect


class ChecksOneThing(MemoryStorage):
    """Looks at the first of several things that a commit went by."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        left_out = [write for write in writes if write.value is CHECK][1:]
        kept = [write for write in writes if write not in left_out]
        return [0] * len(left_out) + super()._commit(kept)


class ChecksByWriting(MemoryStorage):
    """Asks whether there is an entry by inserting one, and leaves it there."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        counts = super()._commit(writes)
        super()._commit(
            write._replace(value="CHECKED", at=0)
            for write in writes
            if write.value is CHECK and write.expect is ABSENT
        )
        return counts


class ChecksAfterMoving(MemoryStorage):
    """Makes the writes of every entry before it looks at what they expect."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        moves = super()._commit(write for write in writes if write.name is EVERY)
        return moves + super()._commit(write for write in writes if write.name is not EVERY)


# ---------------------------------------------------------------- several at once


class CommitsSenderBySender(MemoryStorage):
    """As a store that cannot do more, but does not say so."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        parts = itertools.groupby(writes, lambda write: write.sender)
        return [c for _, part in parts for c in super(CommitsSenderBySender, self)._commit(part)]


class CommitsInBatches(MemoryStorage):
    """A hundred in each transaction."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        counts: list[int] = []
        writes = iter(writes)
        while part := list(itertools.islice(writes, 100)):
            counts += super()._commit(part)
        return counts


class WritesWhatCame(MemoryStorage):
    """Commits what an iterator gave before it failed."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        given: list[Write] = []
        try:
            given.extend(writes)
        finally:
            counts = super()._commit(given)
        return counts


class CollectsWrites(TableStorage):
    """Makes one large statement of all that it is given."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(
            [w._replace(value=w.value[:-1] + w.value[-1:]) if w.value else w for w in writes]  # type: ignore[index, operator]
        )


class FindsStatesOnly(MemoryStorage):
    """What it lists of other kinds, it does not find."""

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        return super()._find(kind, sender, name) if kind is Kind.STATE else None


class ListsWhatItKnows(MemoryStorage):
    """Leaves out the kinds that came later than it."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        return Page([], None) if kind is Kind.CURSOR else super()._page(kind, where, after)


class ForgetsMarks(MemoryStorage):
    """Keeps what its author thought worth keeping."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(w for w in writes if w.kind is not Kind.HANDLED)


class MarksFirst(MemoryStorage):
    """Has which mails were handled in a place of its own, and writes there first."""

    kinds: tuple[Kind, ...] = (Kind.HANDLED,)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        for write in writes:
            if write.kind in self.kinds and len(writes) > 1:
                super()._commit([write])
        others = [w for w in writes if w.kind not in self.kinds or len(writes) == 1]
        super()._commit(others)
        return [1] * len(writes)


class RecordsFirst(MarksFirst):
    """Has an outbox outside of the commit."""

    kinds = (Kind.OUTGOING, Kind.BODY)


class WipesStates(MemoryStorage):
    """Knows of no other kinds."""

    def _wipe(self) -> None:
        for kind, sender, name, *_ in [*self._page(Kind.STATE, Where(), None).entries]:
            self._commit([Write(kind, sender, name, None)])


# ---------------------------------------------------------------- pages


class GivesTheMoment(MemoryStorage):
    """Takes before for not after."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        if where.before is not None:
            where = where._replace(before=where.before + 1)
        return super()._page(kind, where, after)


class DueByKey(MemoryStorage):
    """Lists what is due in the order in which it came."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        page = super()._page(kind, where._replace(before=None), after)
        return page._replace(entries=[entry for entry in page.entries if where.matches(entry)])


class SkipsTies(MemoryStorage):
    """Remembers the time where a page ended, and not which of those with that time."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        page = super()._page(kind, where, after)
        if where.before is None or page.after is None:
            return page
        at: Any = page.entries[-1].at
        return page._replace(after=(at + 1, False, "", ""))


class PagesByOffset(MemoryStorage):
    """As LIMIT 100 OFFSET 200, which skips as many as were removed."""

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        found: list[Entry] = []
        position = None
        while True:
            page = super()._page(kind, where, position)
            found += page.entries
            position = page.after
            if position is None:
                break
        end = (after or 0) + 100
        return Page(found[end - 100 : end], end if end < len(found) else None)


# ---------------------------------------------------------------- sweeps and claims


class SweepsOnePage(MemoryStorage):
    """Forgets to ask for the next page."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        found = self._page(kind, where, None).entries
        return sum(self._commit(Write(*entry[:3], value, entry.at) for entry in found))


class SweepsTouch(MemoryStorage):
    """What it changes is as if it were new."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        found = [entry for page in self._pages(kind, where) for entry in page.entries]
        return sum(self._commit(Write(*e[:3], value, self._clock()) for e in found))


class ClaimsNothing(MemoryStorage):
    """Gives what is due to whoever asks, and moves nothing."""

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        found = self._page(kind, Where(before=self._clock() + 1), None).entries
        return [entry._replace(at=until) for entry in found[:limit]]


class ClaimsForTwo(TableStorage):
    """Moves what somebody else may just have taken."""

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        found = self._page(kind, Where(before=self._clock() + 1), None).entries[:limit]
        time.sleep(0.001)
        claimed = [entry._replace(at=until) for entry in found]
        self._commit(Write(*entry) for entry in claimed)
        return claimed


class ClaimsForEver(TableStorage):
    """Takes whatever is due, and what its taker was not done with is never due again."""

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        claimed = super()._claim(kind, 2**62, 1_000_000)[:limit]
        return [entry._replace(at=until) for entry in claimed]

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(
            w._replace(expect=ANYTHING) if w.value is None else w for w in writes
        )


class CommitsKindByKind(TableStorage):
    """Has a transaction for each table."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        counts = []
        for write in writes:
            counts += super()._commit([write])
            time.sleep(0.001)
        return counts


class CommitsFileByFile(TableStorage):
    """Has a file for each sender, and nothing that tells of the others when it has died."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        counts = []
        for _, its in itertools.groupby(writes, lambda write: write.sender):
            counts += super()._commit(list(its))
            time.sleep(0.001)
        return counts


class SweepsTheRenewed(TableStorage):
    """Removes what it has seen, whatever became of it."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        found = [entry for page in self._pages(kind, where) for entry in page.entries]
        return sum(self._commit(blindly(Write(*entry[:3], value) for entry in found)))
