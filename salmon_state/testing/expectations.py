"""The part of the hooks' contract about one entry: what is found, and what is expected of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from salmon_state.entries import (
    ABSENT,
    ANYTHING,
    CHECK,
    EVER,
    EVERY,
    Condition,
    Entry,
    Kind,
    Seen,
    Want,
    Where,
    Write,
    in_order,
)
from salmon_state.errors import Overtaken, StorageError
from salmon_state.storage import StateStorage
from salmon_state.testing.keys import HOSTILE_KEYS, OTHER, SENDER, VALUES
from salmon_state.testing.suite import BESIDE, NOON, StoreSuite, everything, moment, write

__all__ = ["ExpectationTests"]

TIMES = (0, 1, 2**31, 2**32 + 1, NOON, 2**53 + 1, EVER)

# By the entry that is there: which expectations about it hold, and which do not.
SEEN = Entry(Kind.OUTGOING, SENDER, "one", b"value", NOON)
HOLD: dict[str, tuple[Condition, ...]] = {
    "there": (ANYTHING, Seen(), Seen(b"value"), Seen(at=NOON), Seen(b"value", NOON)),
    "not there": (ANYTHING, ABSENT),
}
FAIL: dict[str, tuple[Condition, ...]] = {
    "there": (
        *(ABSENT, Seen(b""), Seen(b"valuE"), Seen(b"value "), Seen(at=NOON + 1), Seen(at=None)),
        *(Seen(b"value", NOON - 1), Seen(b"other", NOON)),
    ),
    "not there": (Seen(), Seen(b"value"), Seen(at=NOON), Seen(b"value", NOON), Seen(at=None)),
}

LARGEST = 20_000_000


class ExpectationTests(StoreSuite):
    """One entry of any kind.

    Attributes:
        largest: The largest value, in bytes: a mail of 20 MB.
    """

    largest = LARGEST

    @pytest.mark.parametrize("kind", BESIDE, ids=lambda kind: kind.name)
    def test_what_is_written_is_found(self, store: StateStorage, kind: Kind) -> None:
        """Any bytes come back as they were, with their time, by every hook that reads."""
        entries = [Entry(kind, SENDER, f"n{i:02}", v, NOON + i) for i, v in enumerate(VALUES)]
        assert store._find(*entries[0][:3]) is None
        assert store._commit([Write(*entry) for entry in entries]) == [1] * len(entries)
        assert [store._find(*entry[:3]) for entry in entries] == list(VALUES)
        assert sorted(store._load(SENDER, [(kind, EVERY)])) == entries
        assert store._load(SENDER, [(kind, "n03")]) == [entries[3]]
        assert sorted(everything(store, kind)) == entries
        assert store._count(kind) == len(entries)
        assert store._commit([Write(*entries[0][:3], None), Write(kind, OTHER, "x", None)]) == [
            1,
            0,
        ]
        assert store._find(*entries[0][:3]) is None
        assert sorted(store._load(SENDER, [(kind, EVERY)])) == entries[1:]

    def test_what_comes_back_is_plain(self, store: StateStorage) -> None:
        """No view and no number of a driver's, which compares like the right one and is another."""
        store.set("app", SENDER, "ONE")
        store._commit([Write(Kind.OUTGOING, SENDER, "one", b"value", NOON)])
        found = store._load(SENDER, [(Kind.STATE, EVERY), (Kind.OUTGOING, "one")])
        found += everything(store, Kind.STATE) + everything(store, Kind.OUTGOING)
        found += store._claim(Kind.OUTGOING, NOON * 2, 1)
        assert {tuple(map(type, entry)) for entry in found} == {
            (Kind, str, str, str, int),
            (Kind, str, str, bytes, int),
        }
        assert type(store._find(Kind.OUTGOING, SENDER, "one")) is bytes

    @pytest.mark.parametrize("kind", [Kind.LEASE, Kind.CURSOR], ids=lambda kind: kind.name)
    def test_a_time_may_be_unknown(self, store: StateStorage, kind: Kind) -> None:
        """An entry that is not due need not have one."""
        write = Write(kind, SENDER, "", b"position")
        store._commit([write])
        assert store._load(SENDER, [(kind, "")]) == [Entry(*write[:4], None)]  # type: ignore[arg-type]
        assert store._count(kind) == 1

    def test_any_time_comes_back(self, store: StateStorage) -> None:
        """Every microsecond of 63 bits, and not only what a float or a clock of seconds has."""
        entries = [Entry(Kind.OUTGOING, SENDER, str(at), b"", at) for at in TIMES]
        write(store, (Write(*entry) for entry in entries))
        assert sorted(store._load(SENDER, [(Kind.OUTGOING, EVERY)]), key=moment) == entries
        assert everything(store, Kind.OUTGOING, Where(before=EVER)) == entries[:-1]
        for entry in entries:
            changed = Write(*entry[:3], b"seen", entry.at, Seen(b"", entry.at))
            assert store._commit([changed]) == [1], entry.at

    def test_an_hour_that_comes_twice(self, store: StateStorage) -> None:
        """Where clocks are put back in October, two moments look alike on them."""
        night = 1_698_537_600_000_000  # 2023-10-29 in UTC
        times = [night + minutes * 60_000_000 for minutes in (30, 90, 150)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
            time.tzset()
            for number, at in enumerate(times):
                store._commit([Write(Kind.OUTGOING, SENDER, str(number), b"", at)])
            found = everything(store, Kind.OUTGOING, Where(before=EVER))
        assert [entry.at for entry in found] == times

    def test_no_two_entries_meet(self, store: StateStorage) -> None:
        """Whatever is in a sender and a name, kinds included."""
        kinds = (Kind.OUTGOING, Kind.CONFIRMATION)
        entries = [
            Entry(kind, sender, name, f"{kind} {number}".encode(), NOON + number)
            for number, (name, sender) in enumerate(HOSTILE_KEYS)
            for kind in kinds
        ]
        write(store, (Write(*entry) for entry in entries))
        for entry in entries:
            assert store._find(*entry[:3]) == entry.value
        for entry in entries[::2]:
            assert store._load(entry.sender, [(entry.kind, entry.name)]) == [entry]
        for kind in kinds:
            expected = {entry[:3]: entry for entry in entries if entry.kind is kind}
            assert {entry[:3]: entry for entry in everything(store, kind)} == expected
        assert [store.get(*key) for key in HOSTILE_KEYS] == ["START"] * len(HOSTILE_KEYS)

    def test_no_kind_and_name_meet_others(self, store: StateStorage) -> None:
        """Kind 1 with a name of "0x" is not kind 10 with a name of "x"."""
        places = [(kind, SENDER, name) for kind in Kind for name in ("", "0", "00", "1", ":", "0:")]
        values = [str(n) if p[0] is Kind.STATE else b"%d" % n for n, p in enumerate(places)]
        entries = [Entry(*place, v, NOON) for place, v in zip(places, values, strict=True)]
        write(store, (Write(*entry) for entry in entries))
        assert [store._find(*place) for place in places] == values
        gone = Entry(Kind.OUTGOING, SENDER, "0", b"", NOON)
        assert store._commit([Write(*gone[:3], None)]) == [1]
        for kind in Kind:
            own = [entry for entry in entries if entry.kind is kind and entry[:3] != gone[:3]]
            assert sorted(store._load(SENDER, [(kind, EVERY)])) == sorted(own), kind.name
            assert sorted(everything(store, kind)) == sorted(own), kind.name

    def test_long_names_and_senders(self, store: StateStorage) -> None:
        """Five million characters, told apart by the last one, in a name as in a sender."""
        entries = [
            *(
                Entry(Kind.HANDLED, sender, "n", b"%d" % i, i)
                for i, sender in enumerate(self.long_texts)
            ),
            *(
                Entry(Kind.HANDLED, SENDER, name, b"%d" % i, i)
                for i, name in enumerate(self.long_texts)
            ),
        ]
        for entry in entries:
            store._commit([Write(*entry)])
        assert [store._find(*entry[:3]) for entry in entries] == [e.value for e in entries]
        assert {entry[:3] for entry in everything(store, Kind.HANDLED)} == {e[:3] for e in entries}

    def test_a_large_value(self, store: StateStorage) -> None:
        """A mail of 20 MB comes back, whatever bytes it has; or it is refused."""
        mebibytes = self.largest // 2**20  # where a last chunk would be empty
        body = bytes(range(256)) * (mebibytes * 2**12 or self.largest // 256)
        store._commit([Write(Kind.BODY, SENDER, "one", body, NOON)])
        found = store._find(Kind.BODY, SENDER, "one")
        assert (type(found), found == body) == (bytes, True)
        expect = Seen(at=NOON)
        store._commit([Write(Kind.BODY, SENDER, "one", body[::-1], NOON + 1, expect)])
        [entry] = store._load(SENDER, [(Kind.BODY, EVERY)])
        seen = type(entry.value), entry.value == body[::-1], entry.at
        assert seen == (bytes, True, NOON + 1)
        if "largest" in self.limits:
            with pytest.raises(StorageError):
                store._call(store._commit, [Write(Kind.BODY, SENDER, "two", bytes(LARGEST), NOON)])
            assert store._find(Kind.BODY, SENDER, "two") is None

    def test_wants_of_several_kinds(self, store: StateStorage) -> None:
        """One moment's entries, those asked for and no others."""
        store.set("app", SENDER, "POSTING")
        store.set("other", SENDER, "ASKING")
        writes = [
            Write(kind, s, n, b"x", NOON) for kind in BESIDE for s in (SENDER, OTHER) for n in "ab"
        ]
        write(store, writes)
        wants: list[Want] = [(Kind.STATE, EVERY), (Kind.HANDLED, "a"), (Kind.CONFIRMATION, EVERY)]
        found = {(entry.kind, entry.name, entry.value) for entry in store._load(SENDER, wants)}
        assert found == {
            *((Kind.STATE, "app", "POSTING"), (Kind.STATE, "other", "ASKING")),
            *((Kind.HANDLED, "a", b"x"),),
            *((Kind.CONFIRMATION, "a", b"x"), (Kind.CONFIRMATION, "b", b"x")),
        }

    # ---------------------------------------------------------------- expectations

    @pytest.mark.parametrize("value", [b"new", None, CHECK], ids=repr)
    @pytest.mark.parametrize("state", HOLD)
    def test_expectations_that_hold(self, store: StateStorage, state: str, value: Any) -> None:
        """The write is made, and says whether it wrote or removed something."""
        for expect in HOLD[state]:
            there = self._prepare(store, state)
            counts = store._commit([Write(*SEEN[:3], value, NOON + 9, expect)])
            assert counts == [_count(there, value)], expect
            assert store._load(SENDER, [(Kind.OUTGOING, EVERY)]) == _after(there, value), expect

    @pytest.mark.parametrize("value", [b"new", None, CHECK], ids=repr)
    @pytest.mark.parametrize("state", FAIL)
    def test_expectations_that_fail(self, store: StateStorage, state: str, value: Any) -> None:
        """`Overtaken`, and nothing of the whole commit is written, before it or after it."""
        for expect in FAIL[state]:
            there = self._prepare(store, state)
            writes = [
                Write(Kind.HANDLED, SENDER, "before", b"", NOON, ABSENT),
                Write(*SEEN[:3], value, NOON + 9, expect),
                Write(Kind.OUTGOING, SENDER, "two", b"after", NOON),
                Write(Kind.BODY, SENDER, "after", b"", NOON),
            ]
            with pytest.raises(Overtaken):
                store._commit(writes)
            wants: list[Want] = [(k, EVERY) for k in (Kind.HANDLED, Kind.OUTGOING, Kind.BODY)]
            assert store._load(SENDER, wants) == there, expect

    def test_expectations_of_long_values(self, store: StateStorage) -> None:
        """They are compared to the last byte."""
        long = b"a" * 100_000
        store._commit([Write(*SEEN[:3], long, NOON)])
        with pytest.raises(Overtaken):
            store._commit([Write(*SEEN[:3], b"new", NOON, Seen(long[:-1] + b"b"))])
        assert store._commit([Write(*SEEN[:3], b"new", NOON, Seen(long))]) == [1]

    def test_what_belongs_to_a_state_that_was_overtaken(self, store: StateStorage) -> None:
        """Nothing of any kind is written: no mail leaves, and none is known, without its state."""
        store._commit([Write(Kind.STATE, SENDER, "module", "ONE", NOON)])
        writes = [Write(Kind.STATE, SENDER, "module", "TWO", NOON, Seen("another"))]
        writes += [Write(kind, SENDER, "beside", b"", NOON) for kind in BESIDE]
        with pytest.raises(Overtaken):
            store._commit(in_order(writes))
        assert [store._load(SENDER, [(kind, EVERY)]) for kind in BESIDE] == [[]] * len(BESIDE)

    @pytest.mark.parametrize("made", [False, True], ids=["makes", "changes"])
    @pytest.mark.parametrize("state", HOLD)
    def test_one_write_beside_what_it_went_by(
        self, store: StateStorage, state: str, made: bool
    ) -> None:
        """What most mails do: it happens if everything holds, and not if any of it does not."""
        place = (Kind.BODY, SENDER, "mine")
        absent = Write(Kind.HANDLED, SENDER, "absent", CHECK, None, ABSENT)
        for expect in (*HOLD[state], *FAIL[state]):
            self._prepare(store, state)
            if made:
                store._commit([Write(*place, b"old", NOON)])
            written = Write(*place, b"new", NOON + 1, Seen(b"old") if made else ABSENT)
            writes = [absent, Write(*SEEN[:3], CHECK, None, expect), written]
            if expect in HOLD[state]:
                assert store._commit(writes) == [0, 0, 1], expect
                assert store._find(*place) == b"new", expect
            else:
                with pytest.raises(Overtaken):
                    store._commit(writes)
                assert store._find(*place) == (b"old" if made else None), expect

    def _prepare(self, store: StateStorage, state: str) -> list[Entry]:
        store._wipe()
        if state == "there":
            store._commit([Write(*SEEN)])
            return [SEEN]
        return []

    def test_a_check_writes_nothing(self, store: StateStorage) -> None:
        """Neither does it leave an entry behind where it expects none."""
        store._commit([Write(Kind.STATE, SENDER, "there", "ONE", NOON)])
        checks = [
            Write(Kind.STATE, SENDER, "absent", CHECK, None, ABSENT),
            Write(Kind.STATE, SENDER, "there", CHECK, None, Seen("ONE")),
            Write(Kind.HANDLED, SENDER, "absent", CHECK, None, ABSENT),
        ]
        assert store._commit(in_order(checks)) == [0, 0, 0]
        assert [tuple(record[:3]) for record in store] == [("there", SENDER, "ONE")]
        assert everything(store, Kind.HANDLED) == []


def _count(there: Sequence[Entry], value: object) -> int:
    if value is CHECK:
        return 0
    return len(there) if value is None else 1


def _after(there: list[Entry], value: Any) -> list[Entry]:
    if value is CHECK:
        return there
    return [] if value is None else [SEEN._replace(value=value, at=NOON + 9)]
