"""ModelSuite: long random runs, compared with a plain dict after every step."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.entries import to_microseconds
from salmon_state.keys import Sender
from salmon_state.storage import StateStorage
from salmon_state.testing.keys import HOSTILE_KEYS
from salmon_state.testing.suite import NOON, OpenStore, StoreSuite, set_clock

__all__ = ["ModelSuite", "ReopeningMachine", "StoreMachine", "run_model"]

Key = tuple[str, Sender]

texts = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates included
modules = st.sampled_from(sorted({module for module, _ in HOSTILE_KEYS})) | texts
senders = st.sampled_from(list(dict.fromkeys(sender for _, sender in HOSTILE_KEYS))) | texts
states = (
    st.sampled_from(["A", ROUTE_FIRST_STATE]) | st.sampled_from(["a", "B"]) | texts.filter(bool)
)
numbers = st.integers(0, 5)


class StoreMachine(RuleBasedStateMachine):
    """Does the same to a store and to a dict; a rule that tells them apart fails."""

    open_store: OpenStore

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.model: dict[Key, tuple[str, int]] = {}
        self.keys: list[Key] = []
        self.store = self.open()
        self.store.clear()

    def open(self) -> StateStorage:
        """Opens the store with the clock in this machine's hand."""
        store = self.open_store()
        set_clock(store, self.now)
        return store

    def teardown(self) -> None:
        """Closes the store after each run."""
        self.store.close()

    @initialize(
        modules=st.lists(modules, min_size=2, max_size=3, unique=True),
        senders=st.lists(senders, min_size=1, max_size=2, unique=True),
        full=st.sampled_from([True, True, False]),
    )
    def meet(self, modules: list[str], senders: list[Sender], full: bool) -> None:
        """Chooses the few keys of this run, so that steps meet each other's traces."""
        self.keys = [(module, sender) for module in modules for sender in senders]
        for number in range(len(self.keys) if full else 0):
            self.set_state(number, "A")

    def key(self, number: int) -> Key:
        """Returns one of the keys of this run."""
        return self.keys[number % len(self.keys)]

    def expect(self, key: Key, state: str, updated_at: int | None = None) -> None:
        """Changes the model."""
        if state == ROUTE_FIRST_STATE:
            self.model.pop(key, None)
        else:
            self.model[key] = (state, self.now if updated_at is None else updated_at)

    def state_of(self, key: Key) -> str:
        """Returns what the model says."""
        return self.model[key][0] if key in self.model else ROUTE_FIRST_STATE

    @rule(number=numbers, state=states)
    def set_state(self, number: int, state: str) -> None:
        """`set`."""
        key = self.key(number)
        self.store.set(*key, state)
        self.expect(key, state)

    @rule(number=numbers)
    def remove(self, number: int) -> None:
        """`set` to START, which few random states are."""
        self.set_state(number, ROUTE_FIRST_STATE)

    @rule(number=numbers)
    def get(self, number: int) -> None:
        """`get`."""
        key = self.key(number)
        assert self.store.get(*key) == self.state_of(key)

    @rule(number=numbers, guess=st.none() | states, state=states)
    def compare_and_set(self, number: int, guess: str | None, state: str) -> None:
        """`compare_and_set`, with the right expectation or with any."""
        key = self.key(number)
        expected = self.state_of(key) if guess is None else guess
        happens = expected == self.state_of(key)
        assert self.store.compare_and_set(*key, expected, state) is happens
        if happens:
            self.expect(key, state)

    @rule(number=numbers, state=states)
    def set_all(self, number: int, state: str) -> None:
        """`set_all`."""
        sender = self.key(number)[1]
        moved = [key for key in self.model if key[1] == sender]
        assert self.store.set_all(sender, state) == len(moved)
        for key in moved:
            self.expect(key, state)

    @rule(number=numbers, other=numbers, new=states)
    def rename(self, number: int, other: int, new: str) -> None:
        """`rename`, from a state that somebody is in."""
        module, old = self.key(number)[0], self.state_of(self.key(other))
        if old == ROUTE_FIRST_STATE:
            old = "A"
        moved = [key for key, (state, _) in self.model.items() if (key[0], state) == (module, old)]
        assert self.store.rename(module, old, new) == len(moved)
        for key in moved:
            self.expect(key, new, self.model[key][1])

    @rule(minutes=st.integers(20, 90), number=st.none() | numbers, state=st.none() | states)
    def purge(self, minutes: int, number: int | None, state: str | None) -> None:
        """`purge`, with and without filters."""
        module = None if number is None else self.key(number)[0]
        before = self.now - minutes * 60_000_000
        gone = [
            key
            for key, (its_state, updated_at) in self.model.items()
            if updated_at < before and module in (None, key[0]) and state in (None, its_state)
        ]
        idle = timedelta(minutes=minutes)
        assert self.store.purge(older_than=idle, module=module, state=state) == len(gone)
        for key in gone:
            del self.model[key]

    @rule(number=numbers, by=st.sets(st.sampled_from(["module", "sender", "state"])))
    def records(self, number: int, by: set[str]) -> None:
        """`records`, by whatever filters."""
        key = self.key(number)
        wanted: dict[str, Any] = {"module": key[0], "sender": key[1], "state": self.state_of(key)}
        filters = {name: wanted[name] for name in by if wanted[name] is not None}
        found = sorted(map(ascii, (record[:3] for record in self.store.records(**filters))))
        assert found == sorted(
            ascii((*its, state))
            for its, (state, _) in self.model.items()
            if filters.items() <= {"module": its[0], "sender": its[1], "state": state}.items()
        )

    @rule(minutes=st.integers(1, 60))
    def wait(self, minutes: int) -> None:
        """Lets time pass."""
        self.now += minutes * 60_000_000
        set_clock(self.store, self.now)

    @rule(sure=st.sampled_from([False] * 9 + [True]))
    def clear(self, sure: bool) -> None:
        """`clear`, seldom."""
        if sure:
            self.store.clear()
            self.model.clear()

    @invariant()
    def same_as_the_model(self) -> None:
        """The store holds what the dict holds: keys, states, times and number."""
        found = [(ascii(r[:2]), r.state, to_microseconds(r.updated_at)) for r in self.store]
        assert sorted(found) == sorted((ascii(key), *entry) for key, entry in self.model.items())
        assert len(self.store) == len(self.model)


class ReopeningMachine(StoreMachine):
    """The same for a durable store, which may be closed and opened at any time."""

    @rule()
    def reopen(self) -> None:
        """Closes the store and opens it again."""
        self.store.close()
        self.store = self.open()

    def teardown(self) -> None:
        """Ends each run with reopening."""
        try:
            self.reopen()
            self.same_as_the_model()
        finally:
            super().teardown()


def run_model(
    machine: type[RuleBasedStateMachine], open_store: OpenStore, runs: int, steps: int
) -> None:
    """Runs a machine, which has an attribute ``open_store``, over a store with Hypothesis."""
    bound: Any = type(machine.__name__, (machine,), {"open_store": staticmethod(open_store)})
    run_state_machine_as_test(
        bound,
        settings=settings(
            max_examples=runs,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


class ModelSuite(StoreSuite):
    """Every store: a Hypothesis state machine does the same to the store and to a dict.

    Attributes:
        runs: How many runs, each starting with an empty store.
        steps: The longest run.
    """

    runs = 100
    steps = 30

    def test_the_store_behaves_like_a_dict(self, open_store: OpenStore) -> None:
        """No sequence of calls with hostile keys tells the store from the model."""
        run_model(StoreMachine, open_store, self.runs, self.steps)
