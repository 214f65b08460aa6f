"""The part of the hooks' contract about many entries: pages, sweeps and claims."""

from __future__ import annotations

import pytest

from salmon_state.entries import ABSENT, Entry, Kind, Seen, Where, Write
from salmon_state.errors import Overtaken
from salmon_state.storage import StateStorage
from salmon_state.testing.keys import HOSTILE_KEYS, OTHER, SENDER
from salmon_state.testing.suite import (
    BESIDE,
    NOON,
    StoreSuite,
    everything,
    moment,
    outgoing,
    write,
)

__all__ = ["PageTests"]


class PageTests(StoreSuite):
    """Listing entries, changing those that match, and taking those that are due."""

    def test_pages_filter(self, store: StateStorage) -> None:
        """Each filter alone and all together, exactly."""
        entries = [
            Entry(Kind.OUTGOING, sender, name, value, NOON + number)
            for number, (sender, name, value) in enumerate(
                (s, n, v) for s in (SENDER, OTHER, None) for n in ("a", "A", "a ") for v in (b"1",)
            )
        ]
        write(store, (Write(*entry) for entry in entries))
        write(store, [Write(Kind.BODY, SENDER, "a", b"1", NOON)])
        for where in (
            *(
                Where(),
                Where(sender=SENDER),
                Where(sender=None),
                Where(name="a"),
                Where(value=b"1"),
            ),
            *(Where(value=b"2"), Where(before=NOON + 4), Where(before=NOON), Where(sender="")),
            *(Where(name=""), Where(value=b""), Where(before=0)),
            Where(sender=OTHER, name="A", value=b"1", before=NOON + 5),
        ):
            expected = [entry for entry in entries if where.matches(entry)]
            assert sorted(everything(store, Kind.OUTGOING, where), key=moment) == expected, where

    def test_due_entries_come_in_the_order_of_their_time(self, store: StateStorage) -> None:
        """Those that have waited for longest first, over many pages."""
        times = [NOON + (number * 7919) % 2500 for number in range(2500)]
        writes = [
            Write(Kind.OUTGOING, f"{number % 50}@x", f"{number}", b"%d" % (at % 2), at)
            for number, at in enumerate(times)
        ]
        write(store, writes)
        for value, some in ((None, 1), (b"0", 2)):
            found = everything(store, Kind.OUTGOING, Where(value=value, before=NOON + 2000))
            assert [entry.at for entry in found] == [*range(NOON, NOON + 2000, some)], value
        assert len(everything(store, Kind.OUTGOING)) == 2500

    def test_many_with_the_same_time(self, store: StateStorage) -> None:
        """None is left out where a page ends among them."""
        write(store, [w for n in range(50) for w in outgoing(f"{n}@x", 50)])
        found = everything(store, Kind.OUTGOING, Where(before=NOON + 1))
        assert len(found) == 2500

    @pytest.mark.parametrize("where", [Where(), Where(before=NOON + 1)], ids=["key", "time"])
    def test_null_senders_fill_pages(self, store: StateStorage, where: Where) -> None:
        """``None`` and an empty text are two, also where a page ends between them."""
        pairs = [(sender, f"{number:03}") for number in range(510) for sender in (None, "")]
        # One more, and no page of any size ends between two pairs in both kinds.
        for kind, places in ((Kind.OUTGOING, pairs), (Kind.BODY, [(None, ""), *pairs])):
            write(store, [Write(kind, sender, name, b"", NOON) for sender, name in places])
            found = {(entry.sender, entry.name) for entry in everything(store, kind, where)}
            assert found == set(places)

    @pytest.mark.parametrize("where", [Where(), Where(before=NOON + 1)], ids=["key", "time"])
    @pytest.mark.parametrize("first", [0, -1], ids=["all", "last"])
    def test_what_vanishes_hides_nothing(
        self, store: StateStorage, first: int, where: Where
    ) -> None:
        """Whoever removes what was just given, or the last of it, still gets all the others."""
        write(store, [w for n in range(30) for w in outgoing(f"{n}@x", 50)])
        given = removed = 0
        for page in store._pages(Kind.OUTGOING, where):
            given += len(page.entries)
            removed += len(page.entries[first:])
            write(store, [Write(*entry[:3], None) for entry in page.entries[first:]])
        assert (given, store._count(Kind.OUTGOING)) == (1500, 1500 - removed)

    @pytest.mark.parametrize("where", [Where(), Where(before=NOON + 9)], ids=["key", "time"])
    def test_large_values_fill_pages(self, store: StateStorage, where: Where) -> None:
        """None is left out where a page ends because of its bytes, nor is one claimed twice."""
        store._clock = lambda: NOON + 9
        sizes = {str(number): 400_000 * (1 + number % 3) for number in range(7)}
        places = [(name, OTHER if size > 1_000_000 else SENDER) for name, size in sizes.items()]
        for number, (name, sender) in enumerate(places):
            value = b"%d" % (number % 10) * sizes[name]
            write(store, [Write(Kind.OUTGOING, sender, name, value, NOON + number % 4)])
        found = everything(store, Kind.OUTGOING, where)
        assert {entry.name: len(entry.value) for entry in found} == sizes
        claimed: list[Entry] = []
        while taken := store._claim(Kind.OUTGOING, NOON + 100, 5):
            claimed += taken
        assert sorted(entry.name for entry in claimed) == sorted(sizes)

    @pytest.mark.parametrize("kind", [kind for kind in BESIDE if kind.due], ids=lambda k: k.name)
    def test_what_moves_is_where_its_time_is(self, store: StateStorage, kind: Kind) -> None:
        """Written anew, put off, hurried, or removed and made again: each comes once, in order."""
        names = [f"{number:02}" for number in range(20)]
        for step in (1, -1, 1, 7):
            times = {name: NOON + step * int(name) % 20 for name in names}
            write(store, [Write(kind, SENDER, name, b"x", at) for name, at in times.items()])
        for name in names[::4]:
            write(store, [Write(kind, SENDER, name, None)])
        write(store, [Write(kind, SENDER, name, b"y", NOON + 50) for name in names[::8]])
        for number, name in enumerate(names[::4]):
            times[name] = NOON + 50
            if number % 2:
                del times[name]
        found = everything(store, kind, Where(before=NOON + 60))
        assert {entry.name: entry.at for entry in found} == times
        assert [entry.at for entry in found] == sorted(times.values())
        few = everything(store, kind, Where(before=NOON + 5))
        assert sorted(e.name for e in few) == sorted(n for n, at in times.items() if at < NOON + 5)

    # ---------------------------------------------------------------- sweeps and claims

    @pytest.mark.parametrize("value", [b"changed", None], ids=repr)
    def test_a_sweep_by_what_is_empty(self, store: StateStorage, value: bytes | None) -> None:
        """An empty name, value or sender, and a time of 0, are filters like any other."""
        entries = [Entry(Kind.OUTGOING, SENDER, name, b"1", NOON) for name in ("a", "b")]
        write(store, (Write(*entry) for entry in entries))
        empty = (Where(name=""), Where(value=b""), Where(sender=""), Where(sender=None))
        for where in (*empty, Where(before=0)):
            assert store._sweep(Kind.OUTGOING, where, value) == 0, where
        assert sorted(everything(store, Kind.OUTGOING)) == entries
        matching = [(None, "a", b"1"), ("", "a", b"1"), (OTHER, "", b"1"), (OTHER, "a", b"")]
        write(store, (Write(Kind.OUTGOING, *each, 0) for each in matching))
        for where in empty:
            assert store._sweep(Kind.OUTGOING, where, value) == 1, where
        assert store._count(Kind.OUTGOING) == len(entries) + (0 if value is None else 4)

    def test_a_sweep_of_other_kinds(self, store: StateStorage) -> None:
        """What expires is removed, in all pages, and only that."""
        write(store, [w for n in range(50) for w in outgoing(f"{n}@x", 50, at=NOON + n)])
        beside = [Entry(Kind.BODY, f"{n}@x", name, b"", NOON) for n in (0, 41, 49) for name in "12"]
        write(store, (Write(*entry) for entry in beside))
        assert store._sweep(Kind.OUTGOING, Where(before=NOON + 40), None) == 2000
        assert {entry.at for entry in everything(store, Kind.OUTGOING)} == set(
            range(NOON + 40, NOON + 50)
        )
        assert store._sweep(Kind.OUTGOING, Where(name="1"), b"changed") == 10
        changed = [e for e in everything(store, Kind.OUTGOING) if e.value == b"changed"]
        assert {(e.name, e.at) for e in changed} == {("1", NOON + n) for n in range(40, 50)}
        assert store._sweep(Kind.OUTGOING, Where(sender="41@x", name="2"), None) == 1
        assert store._sweep(Kind.OUTGOING, Where(value=b"changed"), None) == 10
        assert store._count(Kind.OUTGOING) == 500 - 11
        assert sorted(everything(store, Kind.BODY)) == beside

    @pytest.mark.parametrize("value", [None, b"new"], ids=["removes", "changes"])
    def test_a_sweep_goes_by_all_that_it_is_told(
        self, store: StateStorage, value: bytes | None
    ) -> None:
        """What differs in one thing alone, be it the time, stays as it is."""
        values, times = (b"1", b"2", b"1", b"2"), (NOON, NOON, NOON + 1, NOON + 1)
        entries = [
            Entry(Kind.OUTGOING, f"{i}@x", name, values[(i + j) % 4], times[(i + j) % 4])
            for i in range(4)
            for j, name in enumerate("abcd")
        ]
        everybody = Where(value=b"1", before=NOON + 1)
        hers = everybody._replace(sender="0@x")
        for where in (everybody, hers, everybody._replace(name="a"), hers._replace(name="a")):
            store._wipe()
            write(store, (Write(*entry) for entry in entries))
            found = [entry for entry in entries if where.matches(entry)]
            kept = [entry for entry in entries if entry not in found]
            changed = [] if value is None else [entry._replace(value=value) for entry in found]
            assert store._sweep(Kind.OUTGOING, where, value) == len(found), where
            assert sorted(everything(store, Kind.OUTGOING)) == sorted(kept + changed), where

    def test_claims(self, store: StateStorage) -> None:
        """Those due longest first, each once, and again when the claim has ended."""
        store._clock = lambda: NOON + 100
        write(store, [w for n in range(20) for w in outgoing(f"{n}@x", 10, at=NOON + 10 * n)])
        first = store._claim(Kind.OUTGOING, NOON + 1000, 60)
        assert len(first) == 60
        assert {entry.at for entry in first} == {NOON + 1000}
        assert [entry.sender for entry in first] == [f"{n}@x" for n in range(6) for _ in range(10)]
        second = store._claim(Kind.OUTGOING, NOON + 2000, 1000)
        assert [entry.sender for entry in second] == [
            f"{n}@x" for n in range(6, 11) for _ in range(10)
        ]
        assert store._claim(Kind.OUTGOING, NOON + 2000, 1000) == []
        done = [Write(*e[:3], None, None, Seen(at=NOON + 1000)) for e in first[:50]]
        for each in done:
            store._commit([each])
        store._clock = lambda: NOON + 1500
        again = store._claim(Kind.OUTGOING, NOON + 3000, 1000)
        assert len(again) == 10 + 90
        with pytest.raises(Overtaken):  # the first taker was too slow
            store._commit([Write(*first[55][:3], None, None, Seen(at=NOON + 1000))])

    def test_a_claim_leaves_the_rest(self, store: StateStorage) -> None:
        """Of those with the same time as well, which are the next one's at once."""
        store._clock = lambda: NOON
        write(store, [w for sender in (SENDER, OTHER, None) for w in outgoing(sender, 5)])
        claims = [store._claim(Kind.OUTGOING, NOON + 9, limit) for limit in (2, 7, 9)]
        assert [len(claimed) for claimed in claims] == [2, 7, 6]
        assert len({entry[:3] for claimed in claims for entry in claimed}) == 15

    def test_a_claim_goes_by_the_last_time(self, store: StateStorage) -> None:
        """What was put off is not due, what was hurried is; and what was removed is gone."""
        store._clock = lambda: NOON
        mails = outgoing(SENDER, 5, at=NOON - 1) + outgoing(OTHER, 1, at=NOON + 1)
        bodies = [Entry(Kind.BODY, *mail[1:4], NOON) for mail in mails]  # type: ignore[arg-type]
        write(store, [*mails, *(Write(*body) for body in bodies)])
        later, sooner, gone = Seen(at=NOON - 1), Seen(at=NOON + 1), Seen(at=NOON - 1)
        store._commit([Write(Kind.OUTGOING, SENDER, "1", b"value", NOON + 1, later)])
        store._commit([Write(Kind.OUTGOING, OTHER, "0", b"value", NOON - 2, sooner)])
        store._commit([Write(Kind.OUTGOING, SENDER, "2", None, None, gone)])
        store._commit([Write(Kind.OUTGOING, SENDER, "3", None, None, gone)])
        store._commit([Write(Kind.OUTGOING, SENDER, "3", b"anew", NOON + 1, ABSENT)])
        claimed = [(e.sender, e.name) for e in store._claim(Kind.OUTGOING, NOON + 9, 9)]
        assert (claimed[0], sorted(claimed[1:])) == ((OTHER, "0"), [(SENDER, "0"), (SENDER, "4")])
        store._clock = lambda: NOON + 1
        claimed = [(e.sender, e.name) for e in store._claim(Kind.OUTGOING, NOON + 9, 9)]
        assert sorted(claimed) == [(SENDER, "1"), (SENDER, "3")]
        assert sorted(everything(store, Kind.BODY)) == sorted(bodies)

    def test_claims_of_hostile_keys(self, store: StateStorage) -> None:
        """Each of them is claimed if it is due, and nothing that only looks like it."""
        store._clock = lambda: NOON
        entries = [
            Entry(Kind.OUTGOING, sender, name, b"", NOON + number % 2)
            for number, (name, sender) in enumerate(HOSTILE_KEYS)
        ]
        write(store, (Write(*entry) for entry in entries))
        claimed: list[Entry] = []
        while found := store._claim(Kind.OUTGOING, NOON + 9, 1000):
            claimed += found
        expected = {entry[:3]: entry._replace(at=NOON + 9) for entry in entries[::2]}
        assert len(claimed) == len(expected)
        assert {entry[:3]: entry for entry in claimed} == expected
        there = {entry[:3]: entry for entry in everything(store, Kind.OUTGOING)}
        assert there == {**{entry[:3]: entry for entry in entries}, **expected}

    def test_a_check_of_what_is_whole(self, store: StateStorage) -> None:
        """Nothing is found wrong, in whatever was written."""
        write(store, [w for n in range(30) for w in outgoing(f"{n}@x", 50)])
        states = [
            Write(Kind.STATE, sender, module, "POSTING", NOON) for module, sender in HOSTILE_KEYS
        ]
        write(store, states)
        assert list(store.check()) == []

    def test_a_wipe_removes_every_kind(self, store: StateStorage) -> None:
        """Nothing of anybody is left."""
        writes = [Write(kind, s, "n", b"x", NOON) for kind in BESIDE for s in (SENDER, None)]
        write(store, [*writes, Write(Kind.STATE, SENDER, "app", "POSTING", NOON)])
        store.clear()
        assert [everything(store, kind) for kind in Kind] == [[]] * len(Kind)
