"""DurableSuite: what was set is found after reopening, and after SIGKILL in mid-write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.entries import to_microseconds
from salmon_state.errors import StorageUnavailable
from salmon_state.storage import StateStorage
from salmon_state.testing import processes, tasks
from salmon_state.testing.descriptors import open_files
from salmon_state.testing.keys import HOSTILE_KEYS, MODULE, SENDER
from salmon_state.testing.lifecycle import CALLS
from salmon_state.testing.model import ReopeningMachine, run_model
from salmon_state.testing.suite import (
    NOON,
    OpenStore,
    StoreSuite,
    contents,
    fill,
    set_clock,
)

__all__ = ["DurableSuite"]


class DurableSuite(StoreSuite):
    """A store that outlives its process: `open_store` finds what was there before.

    Attributes:
        kills: How many processes are killed in the middle of writing.
        reopening_runs: How many runs of the model that reopens the store.
        reopening_steps: The longest of them.
    """

    kills = 3
    reopening_runs = 15
    reopening_steps = 20

    def test_hostile_keys_are_found_after_reopening(self, open_store: OpenStore) -> None:
        """Each key has its own state, and its time, in a store that was opened again."""
        states = {key: f"S{number}" for number, key in enumerate(HOSTILE_KEYS)}
        states[MODULE, self.long_texts[0]] = "LONG"
        with open_store() as store:
            set_clock(store, NOON + 123_456)
            for key, state in states.items():
                store.set(*key, state)
        with open_store() as store:
            assert {key: store.get(*key) for key in states} == states
            assert store.get(MODULE, self.long_texts[1]) == ROUTE_FIRST_STATE
            assert contents(store) == states
            assert {to_microseconds(record.updated_at) for record in store} == {NOON + 123_456}

    def test_every_change_is_found_after_reopening(self, open_store: OpenStore) -> None:
        """Sets, removals, and changes of many are all there, with the store reopened each time."""
        steps: tuple[tuple[Callable[[StateStorage], object], dict[str, str]], ...] = (
            (lambda s: s.set(MODULE, "a@x", "A"), {"a@x": "A"}),
            (lambda s: s.set(MODULE, "b@x", "A"), {"a@x": "A", "b@x": "A"}),
            (lambda s: s.compare_and_set(MODULE, "a@x", "A", "B"), {"a@x": "B", "b@x": "A"}),
            (lambda s: s.rename(MODULE, "B", "C"), {"a@x": "C", "b@x": "A"}),
            (lambda s: s.set_all("b@x", "D"), {"a@x": "C", "b@x": "D"}),
            (lambda s: s.set(MODULE, "a@x", ROUTE_FIRST_STATE), {"b@x": "D"}),
            (lambda s: fill(s, [(MODULE, "c@x", "E")], updated_at=0), {"b@x": "D", "c@x": "E"}),
            (lambda s: s.purge(older_than=timedelta(days=1)), {"b@x": "D"}),
            (lambda s: s.clear(), {}),
        )
        for change, expected in steps:
            with open_store() as store:
                change(store)
            with open_store() as store:
                assert contents(store) == {(MODULE, s): state for s, state in expected.items()}

    def test_reopening_invents_no_time(self, open_store: OpenStore) -> None:
        """Reopening does not invent a time."""
        with open_store() as store:
            fill(store, [(MODULE, SENDER, "POSTING")], updated_at=None)
        with open_store() as store:
            assert [record.updated_at for record in store] == [None]

    def test_reading_writes_nothing(self, open_store: OpenStore) -> None:
        """`get` leaves no entry behind for whoever opens the store next."""
        with open_store() as store:
            store.get(MODULE, SENDER)
        with open_store() as store:
            assert contents(store) == {}

    def test_closed_store_changes_nothing(self, open_store: OpenStore) -> None:
        """What a closed store refused has not happened."""
        with open_store() as store:
            fill(store, [(MODULE, SENDER, "POSTING")], updated_at=NOON)
        for call in CALLS.values():
            with pytest.raises(StorageUnavailable):
                call(store)
        with open_store() as store:
            assert [tuple(record)[:3] for record in store] == [(MODULE, SENDER, "POSTING")]
            assert [to_microseconds(record.updated_at) for record in store] == [NOON]

    def test_the_model_with_reopening(self, open_store: OpenStore) -> None:
        """No sequence of calls, closing and opening tells the store from a dict."""
        run_model(ReopeningMachine, open_store, self.reopening_runs, self.reopening_steps)

    def test_close_releases_files(self, open_store: OpenStore) -> None:
        """Closing a store closes its files and ends its threads, whoever still has the object."""
        counts, threads, stores = [], [], []
        before = open_files()
        with ThreadPoolExecutor(1) as another:  # a thread that goes on
            for number in range(6):
                with open_store() as store:
                    store.set(MODULE, f"{number}@x", "POSTING")
                    assert another.submit(store.get, MODULE, f"{number}@x").result() == "POSTING"
                    assert len(contents(store)) == number + 1
                stores.append(store)
                counts.append(len(open_files() - before))
                threads.append(threading.active_count())
        assert counts[-1] <= counts[1], f"files and sockets that are open: {counts}"
        assert threads[-1] <= threads[1], f"threads that run: {threads}"

    def test_sigkill_loses_no_acknowledged_set(self, open_store: OpenStore) -> None:
        """Processes die in mid-write: every set that returned is there, and the store goes on."""
        acknowledged: dict[str, int] = {}
        for kill in range(self.kills):
            with processes.store_processes(open_store, 1) as (writer,):
                writer.start(tasks.set_forever, f"module{kill}", 7)
                last = writer.kill_after(10 + 17 * kill % 50, kill / self.kills)
            acknowledged[f"module{kill}"] = last
            with open_store() as store:
                _check_survivors(store, acknowledged)
                store.set(MODULE, SENDER, f"S{kill}")
                assert store.get(MODULE, SENDER) == f"S{kill}"


def _check_survivors(store: StateStorage, acknowledged: Mapping[str, int]) -> None:
    for module, last in acknowledged.items():
        found = {record.sender: record.state for record in store.records(module=module)}
        for turn in range(7):
            step = last - (last - turn) % 7
            allowed = {f"S{step}"} if step >= 0 else {ROUTE_FIRST_STATE}
            if (last + 1) % 7 == turn:
                allowed.add(f"S{last + 1}")  # in hand when the process died
            assert found.get(f"{turn}@x", ROUTE_FIRST_STATE) in allowed, f"lost in {module}"
            assert store.get(module, f"{turn}@x") in allowed
