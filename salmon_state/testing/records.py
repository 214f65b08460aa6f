"""The part of the contract about listing conversations: records, iter, len and bool."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.errors import StorageUnavailable
from salmon_state.storage import Record, StateStorage
from salmon_state.testing.descriptors import open_files
from salmon_state.testing.keys import MODULE, SENDER
from salmon_state.testing.states import BAD_STATES
from salmon_state.testing.suite import NOON, StoreSuite, contents, fill, set_clock

__all__ = ["RecordTests"]

NOON_AS_DATETIME = datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)


class RecordTests(StoreSuite):
    """Listing the conversations.

    Attributes:
        records: How many there are, of 5 MB.
    """

    records = 5_000

    def test_an_empty_store(self, store: StateStorage) -> None:
        """There is nothing in it, and it is still true."""
        assert list(store.records()) == []
        assert list(store) == []
        assert len(store) == 0
        assert bool(store) is True

    def test_records_name_everything(self, store: StateStorage) -> None:
        """A record has the module, the sender, the state and the time of the set in UTC."""
        set_clock(store, NOON + 123_456)
        store.set(MODULE, SENDER, "CONFIRMING")
        (record,) = store.records()
        assert type(record) is Record
        moment = NOON_AS_DATETIME + timedelta(microseconds=123_456)
        assert record.updated_at is not None
        assert tuple(record) == (MODULE, SENDER, "CONFIRMING", moment)
        assert record.updated_at.utcoffset() == timedelta(0)

    def test_updated_at_is_the_last_set(self, store: StateStorage) -> None:
        """Every set counts, also one of the same state, and compare_and_set when it happens."""
        seen = []
        changes: tuple[Callable[[], object], ...] = (
            lambda: store.set(MODULE, SENDER, "POSTING"),
            lambda: store.set(MODULE, SENDER, "POSTING"),
            lambda: store.compare_and_set(MODULE, SENDER, "OTHER", "POSTING"),
            lambda: store.compare_and_set(MODULE, SENDER, "POSTING", "BANNED"),
        )
        for minute, change in enumerate(changes):
            set_clock(store, NOON + minute * 60_000_000)
            change()
            store.get(MODULE, SENDER)
            seen += [record.updated_at for record in store]
        assert seen == [NOON_AS_DATETIME + timedelta(minutes=minute) for minute in (0, 1, 1, 3)]

    def test_the_stores_own_clock_tells_the_time(self, store: StateStorage) -> None:
        """Without the kit's clock a set is recorded between before and after it."""
        before = datetime.now(timezone.utc) - timedelta(milliseconds=1)
        store.set(MODULE, SENDER, "POSTING")
        (record,) = store
        assert record.updated_at is not None
        assert before <= record.updated_at <= datetime.now(timezone.utc)

    def test_unknown_times_stay_unknown(self, store: StateStorage) -> None:
        """An entry without a known time has `updated_at` None, until it is set again."""
        fill(store, [(MODULE, SENDER, "POSTING")], updated_at=None)
        assert list(store) == [Record(MODULE, SENDER, "POSTING", None)]
        assert len(store) == 1
        set_clock(store, NOON)
        store.set(MODULE, SENDER, "POSTING")
        assert list(store) == [Record(MODULE, SENDER, "POSTING", NOON_AS_DATETIME)]

    def test_filters(self, store: StateStorage) -> None:
        """Filters on module, sender and state hold together, exactly."""
        entries = [
            (module, sender, state)
            for module in ("one", "ONE", "one ")
            for sender, state in (
                ("a@x", "A"),
                ("A@x", "a"),
                ("a@x ", "A "),
                ("", "A"),
                (None, "A"),
            )
        ]
        for entry in entries:
            store.set(*entry)
        for module in (None, "one", "ONE", "on", "one%"):
            for sender in (None, "a@x", "", "None", "a_x"):
                for state in (None, "A", "a", "A "):
                    assert contents(store, module=module, sender=sender, state=state) == {
                        (entry[0], entry[1]): entry[2]
                        for entry in entries
                        if module in (None, entry[0])
                        and sender in (None, entry[1])
                        and state in (None, entry[2])
                    }

    def test_nobody_is_in_the_first_state(self, store: StateStorage) -> None:
        """No record ever has the state START."""
        store.set(MODULE, SENDER, "POSTING")
        store.set(MODULE, "ben@example.com", ROUTE_FIRST_STATE)
        assert contents(store, state=ROUTE_FIRST_STATE) == {}
        assert contents(store) == {(MODULE, SENDER): "POSTING"}

    def test_bad_filters_are_refused(self, store: StateStorage) -> None:
        """A filter of the wrong type is an error at the call, not an empty answer."""
        values: tuple[Any, ...] = (b"a@x", 7, ("a@x",))
        for value in values:
            for name in ("module", "sender"):
                with pytest.raises(TypeError, match=name):
                    store.records(**{name: value})

    def test_bad_state_filter_is_refused(self, store: StateStorage) -> None:
        """A state that nobody can be in is an error at the call."""
        for state, kind, named in BAD_STATES[1:]:
            with pytest.raises(kind) as caught:
                store.records(state=state)
            assert named in str(caught.value)

    def test_records_is_an_iterator(self, store: StateStorage) -> None:
        """It may be left in the middle, taken twice, and two may run side by side."""
        for number in range(5):
            store.set(MODULE, f"{number}@x", "POSTING")
        first, second = store.records(), iter(store)
        assert isinstance(first, Iterator)
        pairs = [(next(first), next(second)) for _ in range(5)]
        assert len({record for pair in pairs for record in pair}) == 5
        assert next(first, None) is None
        left = store.records()
        next(left)
        del left
        store.set(MODULE, "0@x", "BANNED")  # what was left blocks nobody
        assert len(contents(store)) == 5

    def test_states_may_change_while_iterating(self, store: StateStorage) -> None:
        """What is there all the time and unchanged comes exactly once; nothing comes twice."""
        fill(store, [(MODULE, f"{number}@x", "POSTING") for number in range(600)])
        seen: Counter[str | None] = Counter()
        changed: set[str | None] = set()
        for step, record in enumerate(store.records()):
            seen[record.sender] += 1
            if step < 150:  # just the one that was given: a position must outlive its entry
                store.set(MODULE, record.sender, ROUTE_FIRST_STATE)
            elif step < 200:
                store.set(MODULE, f"new{step}@x", "POSTING")
                store.set(MODULE, f"{step}@x", "BANNED")
                changed.add(f"{step}@x")
        untouched = {f"{number}@x" for number in range(600)} - changed
        assert {sender: seen[sender] for sender in untouched} == dict.fromkeys(untouched, 1)
        assert max(seen.values()) == 1

    def test_a_store_that_is_closed_while_iterating(self, store: StateStorage) -> None:
        """Whoever does not get the rest any more is told, and does not take it for all."""
        fill(store, [(MODULE, f"{number}@x", "POSTING") for number in range(1200)])
        listing = store.records()
        given = [next(listing)]
        store.close()
        told = False
        try:
            given += listing
        except StorageUnavailable:
            told = True
        assert told or len(given) == 1200, f"it ended after {len(given)} of 1,200"

    def test_many_records(self, store: StateStorage) -> None:
        """They are counted, filtered, and listed without loading all; and who leaves, leaves."""
        many = self.records
        tail = "x" * (5_000_000 // many)
        entries = [
            (f"module{number % 10}", f"{number}@{tail}", f"S{number % 4}") for number in range(many)
        ]
        fill(store, entries)
        assert len(store) == many
        found = contents(store, module="module3", state="S1")
        assert found == {(m, s): t for m, s, t in entries if (m, t) == ("module3", "S1")}
        assert contents(store, sender=f"77@{tail}") == {("module7", f"77@{tail}"): "S1"}
        for _ in range(3):  # other threads' memory counts as well, and is theirs for a moment
            tracemalloc.start()
            try:
                count = sum((record.sender or "").endswith(tail) for record in store.records())
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert count == many
            if peak < 4_000_000:
                break
        assert peak < 4_000_000, f"listing 5 MB of senders took {peak} bytes of memory"
        before = open_files()
        for _ in range(9):
            next(store.records())
        assert len(open_files() - before) < 5, "iterations that were left keep files open"
