"""The part of the contract about many conversations at once: set_all, rename, purge, clear."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.entries import EVERY, Kind, to_microseconds
from salmon_state.errors import StorageError
from salmon_state.storage import StateStorage
from salmon_state.testing.keys import MODULE, SENDER
from salmon_state.testing.states import BAD_STATES
from salmon_state.testing.suite import NOON, OpenStore, StoreSuite, contents, fill, set_clock

__all__ = ["SweepTests"]

HOUR = 3_600_000_000
LOOKALIKES = ("A@x", "a@x ", "a@", "", None, "a_x")


class SweepTests(StoreSuite):
    """Changing many conversations at once.

    Attributes:
        thousands: How many conversations one sender has, and one module.
    """

    thousands = 2_500

    def test_set_all(self, store: StateStorage) -> None:
        """Every conversation of a sender moves, in all modules, and nobody else's."""
        modules = [f"module{number}" for number in range(20)]
        for module in modules:
            store.set(module, "a@x", f"IN_{module}")
        for sender in LOOKALIKES:
            store.set("module0", sender, "POSTING")
        assert store.set_all("a@x", "BOUNCING") == 20
        assert contents(store, sender="a@x") == {(module, "a@x"): "BOUNCING" for module in modules}
        assert contents(store, state="POSTING") == {
            ("module0", sender): "POSTING" for sender in LOOKALIKES
        }

    def test_set_all_creates_nothing(self, store: StateStorage) -> None:
        """A sender without conversations has none afterwards, and the count is 0."""
        assert store.set_all(SENDER, "BOUNCING") == 0
        assert contents(store) == {}

    def test_set_all_of_any_sender(self, store: StateStorage) -> None:
        """The null sender and strange senders are senders, too."""
        for its in (None, "", "None", "\udcff@x", "a@x\0", "a@x"):
            store.set("one", its, "A")
            store.set("two", its, "B")
        store.set("three", "a@x", "C")
        for sender in (None, "", "None", "\udcff@x", "a@x\0"):
            state = f"OF_{sender!a}"
            assert store.set_all(sender, state) == 2, sender
            moved = {("one", sender): state, ("two", sender): state}
            assert contents(store, state=state) == moved, sender
        assert len(store) == 13

    def test_set_all_to_first_state_removes(self, store: StateStorage) -> None:
        """START removes the sender's entries, and says how many."""
        store.set("one", SENDER, "A")
        store.set("two", SENDER, "B")
        store.set("two", "ben@example.com", "B")
        assert store.set_all(SENDER, ROUTE_FIRST_STATE) == 2
        assert contents(store) == {("two", "ben@example.com"): "B"}

    def test_set_all_updates_the_time(self, store: StateStorage) -> None:
        """A conversation that was moved has been set now."""
        fill(store, [("one", SENDER, "A"), ("two", SENDER, "BOUNCING")], updated_at=NOON)
        set_clock(store, NOON + HOUR)
        assert store.set_all(SENDER, "BOUNCING") == 2
        assert [to_microseconds(record.updated_at) for record in store] == [NOON + HOUR] * 2

    def test_rename(self, store: StateStorage) -> None:
        """Every conversation of that module in that state moves, and keeps its time."""
        for number in range(30):
            set_clock(store, NOON + number)
            store.set(MODULE, f"{number}@x", "CONFIRM")
        others = [
            ("other", "a@x", "CONFIRM"),
            (MODULE, "a@x", "confirm"),
            (MODULE, "b@x", "CONFIRM "),
        ]
        fill(store, others, updated_at=None)
        set_clock(store, NOON + HOUR)
        assert store.rename(MODULE, "CONFIRM", "CONFIRMING") == 30
        moved = {
            record.sender: to_microseconds(record.updated_at)
            for record in store.records(module=MODULE, state="CONFIRMING")
        }
        assert moved == {f"{number}@x": NOON + number for number in range(30)}
        assert [record.updated_at for record in store if record.sender in ("a@x", "b@x")] == [
            None
        ] * 3
        assert store.rename(MODULE, "CONFIRM", "CONFIRMING") == 0
        assert store.get("other", "a@x") == "CONFIRM"
        assert store.get(MODULE, "a@x") == "confirm"

    def test_rename_keeps_unknown_times(self, store: StateStorage) -> None:
        """Nobody has written a mail, so a time that was unknown stays unknown."""
        fill(store, [(MODULE, SENDER, "OLD")], updated_at=None)
        assert store.rename(MODULE, "OLD", "NEW") == 1
        assert [tuple(record) for record in store] == [(MODULE, SENDER, "NEW", None)]

    def test_rename_and_the_first_state(self, store: StateStorage) -> None:
        """START as the new state removes; as the old state it is refused."""
        store.set(MODULE, SENDER, "OLD")
        with pytest.raises(ValueError, match="old"):
            store.rename(MODULE, ROUTE_FIRST_STATE, "NEW")
        assert contents(store) == {(MODULE, SENDER): "OLD"}
        assert store.rename(MODULE, "OLD", ROUTE_FIRST_STATE) == 1
        assert contents(store) == {}

    def test_rename_to_the_same_state(self, store: StateStorage) -> None:
        """It is allowed, and changes nothing."""
        fill(store, [(MODULE, SENDER, "OLD")], updated_at=NOON)
        store.rename(MODULE, "OLD", "OLD")
        assert [to_microseconds(record.updated_at) for record in store] == [NOON]
        assert contents(store) == {(MODULE, SENDER): "OLD"}

    def test_bad_states_are_refused(self, store: StateStorage) -> None:
        """What is no non-empty str is an error that names it, and changes nothing."""
        store.set(MODULE, SENDER, "POSTING")
        for state, kind, named in BAD_STATES:
            for method, arguments in (
                (store.set_all, (SENDER, state)),
                (store.rename, (MODULE, "POSTING", state)),
                (store.rename, (MODULE, state, "BANNED")),
            ):
                with pytest.raises(kind) as caught:
                    method(*arguments)
                assert named in str(caught.value)
            assert contents(store) == {(MODULE, SENDER): "POSTING"}, named

    def test_purge(self, store: StateStorage) -> None:
        """What has been idle for longer goes; what is younger, or exactly as old, stays."""
        ages = {"old@x": 25 * HOUR, "exact@x": 24 * HOUR, "young@x": 23 * HOUR, "now@x": 0}
        for sender, age in ages.items():
            fill(store, [(MODULE, sender, "POSTING")], updated_at=NOON - age)
        set_clock(store, NOON)
        assert store.purge(older_than=timedelta(days=2)) == 0
        assert store.purge(older_than=timedelta(days=1)) == 1
        assert set(contents(store)) == {(MODULE, s) for s in ("exact@x", "young@x", "now@x")}
        assert store.purge(older_than=timedelta(0)) == 2
        assert contents(store) == {(MODULE, "now@x"): "POSTING"}

    def test_purge_spares_unknown_times(self, store: StateStorage) -> None:
        """An entry whose time nobody knows is never purged."""
        fill(store, [(MODULE, "unknown@x", "POSTING")], updated_at=None)
        fill(store, [(MODULE, "old@x", "POSTING")], updated_at=0)
        set_clock(store, NOON)
        assert store.purge(older_than=timedelta(0)) == 1
        assert contents(store) == {(MODULE, "unknown@x"): "POSTING"}

    def test_purge_filters(self, store: StateStorage) -> None:
        """Module and state narrow it down, exactly and together."""
        entries = [(m, s, s) for m in ("one", "ONE", "two") for s in ("A", "a", "B")]
        fill(store, entries, updated_at=0)
        set_clock(store, NOON)
        assert store.purge(older_than=timedelta(0), module="one", state="A") == 1
        assert store.purge(older_than=timedelta(0), module="ONE") == 3
        assert store.purge(older_than=timedelta(0), state="B") == 2
        assert set(contents(store)) == {("one", "a"), ("two", "A"), ("two", "a")}

    def test_purge_wants_a_timedelta(self, store: StateStorage) -> None:
        """A bare number has no unit: it is refused, and nothing is removed."""
        fill(store, [(MODULE, SENDER, "POSTING")], updated_at=0)
        values: tuple[Any, ...] = (None, 7, "1 day", 1.5)
        for older_than in values:
            with pytest.raises(TypeError, match="older_than"):
                store.purge(older_than=older_than)
        with pytest.raises(ValueError, match="older_than"):
            store.purge(older_than=timedelta(microseconds=-1))
        assert len(store) == 1

    def test_thousands(self, store: StateStorage) -> None:
        """All that one sender or one module has is found, moved and removed, however many."""
        count = self.thousands
        fill(store, [(f"module{number}", SENDER, "ONE") for number in range(count)])
        assert len(store._load(SENDER, [(Kind.STATE, EVERY)])) == count
        assert store.set_all(SENDER, "TWO") == count
        fill(store, [(MODULE, f"{number}@x", "OLD") for number in range(count)])
        assert store.rename(MODULE, "OLD", "NEW") == count
        found = contents(store)
        assert list(found.values()).count("TWO") == count
        assert {key[1] for key in found if found[key] == "NEW"} == {f"{n}@x" for n in range(count)}
        store.clear()
        assert (contents(store), len(store)) == ({}, 0)

    def test_what_was_read_is_read_again(self, store: StateStorage) -> None:
        """Whoever has read a state reads the new one, by whichever method it was changed."""
        steps: tuple[tuple[Callable[[], object], str], ...] = (
            (lambda: store.set(MODULE, SENDER, "ONE"), "ONE"),
            (lambda: store.compare_and_set(MODULE, SENDER, "ONE", "TWO"), "TWO"),
            (lambda: store.set_all(SENDER, "THREE"), "THREE"),
            (lambda: store.rename(MODULE, "THREE", "FOUR"), "FOUR"),
            (lambda: store.purge(older_than=timedelta(0)), ROUTE_FIRST_STATE),
            (lambda: fill(store, [(MODULE, SENDER, "FIVE")]), "FIVE"),
            (store.clear, ROUTE_FIRST_STATE),
        )
        for minute, (change, state) in enumerate(steps):
            set_clock(store, NOON + minute)
            change()
            assert store.get(MODULE, SENDER) == state
            with store.conversation(SENDER):
                assert store.get(MODULE, SENDER) == state
            assert store.get(MODULE, SENDER) == state

    def test_clear(self, store: StateStorage) -> None:
        """It removes everything, and the store goes on."""
        for sender in (None, "", "a@x", "A@x", "\udcff@x"):
            store.set(MODULE, sender, "POSTING")
        store.clear()
        assert contents(store) == {}
        assert len(store) == 0
        assert store.get(MODULE, None) == ROUTE_FIRST_STATE
        assert store.set_all("a@x", "BANNED") == 0
        store.set(MODULE, SENDER, "POSTING")
        assert contents(store) == {(MODULE, SENDER): "POSTING"}

    def test_protect(self, open_store: OpenStore) -> None:
        """A store made with ``protect=True`` refuses `clear`, and does everything else."""
        with open_store(protect=True) as store:
            store.set(MODULE, SENDER, "POSTING")
            with pytest.raises(StorageError, match="protect"):
                store.clear()
            assert contents(store) == {(MODULE, SENDER): "POSTING"}
            store.set(MODULE, SENDER, ROUTE_FIRST_STATE)
            assert contents(store) == {}
