"""HostileKeySuite: whatever a sender puts into an address, no two conversations meet."""

from __future__ import annotations

from collections import Counter

import pytest
from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.errors import StorageError
from salmon_state.keys import Sender
from salmon_state.storage import StateStorage
from salmon_state.testing.keys import HOSTILE_KEYS, LONGEST, MODULE, SHORT_DIGESTS
from salmon_state.testing.suite import StoreSuite, contents, fill

__all__ = ["HostileKeySuite"]

_STATES = {key: f"S{number}" for number, key in enumerate(HOSTILE_KEYS)}


def _describe(key: tuple[str, Sender]) -> str:
    text = ascii(key)
    return text if len(text) < 60 else f"{text[:40]}...{text[-10:]}"


class HostileKeySuite(StoreSuite):
    """Every store: `HOSTILE_KEYS` never meet, and each comes back exactly."""

    def test_no_two_keys_meet(self, store: StateStorage) -> None:
        """Each key gives its own state back, and `records` gives each key back."""
        for number, key in enumerate(HOSTILE_KEYS):
            assert store.get(*key) == ROUTE_FIRST_STATE, f"{_describe(key)} met an earlier key"
            store.set(*key, _STATES[key])
            assert len(store) == number + 1
        for key in HOSTILE_KEYS:
            assert store.get(*key) == _STATES[key], _describe(key)
        assert contents(store) == _STATES

    def test_each_key_comes_back(self, store: StateStorage) -> None:
        """One key after the other through every method that takes one, alone in the store."""
        for key in HOSTILE_KEYS:
            (module, sender), which = key, _describe(key)
            assert store.compare_and_set(module, sender, ROUTE_FIRST_STATE, "ONE") is True, which
            assert store.get(module, sender) == "ONE", which
            assert [(record.module, record.sender) for record in store] == [key], which
            found = contents(store, module=module, sender=sender, state="ONE")
            assert list(found) == [key], which
            assert store.rename(module, "ONE", "TWO") == 1, which
            assert store.set_all(sender, "THREE") == 1, which
            assert store.compare_and_set(module, sender, "THREE", "FOUR") is True, which
            assert store.get(module, sender) == "FOUR", which
            store.set(module, sender, ROUTE_FIRST_STATE)
            assert contents(store) == {}, which

    def test_removing_one_key_keeps_the_others(self, store: StateStorage) -> None:
        """Removed are exactly those that were set to START."""
        for key, state in _STATES.items():
            store.set(*key, state)
        for key in HOSTILE_KEYS[::2]:
            store.set(*key, ROUTE_FIRST_STATE)
        assert contents(store) == {key: _STATES[key] for key in HOSTILE_KEYS[1::2]}

    def test_a_filter_matches_nothing_else(self, store: StateStorage) -> None:
        """Filtering by a sender gives that sender's conversations, and nobody else's."""
        for key, state in _STATES.items():
            store.set(*key, state)
        for sender in dict.fromkeys(sender for _, sender in HOSTILE_KEYS[:150:3]):
            if sender is not None:
                expected = {key: state for key, state in _STATES.items() if key[1] == sender}
                assert contents(store, sender=sender) == expected, ascii(sender)[:60]

    def test_a_sweep_matches_nothing_else(self, store: StateStorage) -> None:
        """Renaming a state of one module moves that of no module that looks like it."""
        fill(store, [(*key, "OLD") for key in HOSTILE_KEYS])
        modules = Counter(module for module, _ in HOSTILE_KEYS)
        for number, (module, count) in enumerate(modules.items()):
            assert store.rename(module, "OLD", f"S{number}") == count, ascii(module)[:60]
        numbers = {module: number for number, module in enumerate(modules)}
        assert contents(store) == {key: f"S{numbers[key[0]]}" for key in HOSTILE_KEYS}

    def test_short_digests(self, store: StateStorage) -> None:
        """Senders whose digests begin in the same way are as different as others."""
        states = [(MODULE, s, f"S{n}") for n, pair in enumerate(SHORT_DIGESTS) for s in pair[:1]]
        fill(store, states)
        for number, (one, two) in enumerate(SHORT_DIGESTS):
            assert store.get(MODULE, one) == f"S{number}"
            found = store.get(MODULE, two), contents(store, sender=two), store.set_all(two, "ALL")
            assert found == (ROUTE_FIRST_STATE, {}, 0), f"{two} was taken for {one}"
        assert contents(store) == {(module, sender): state for module, sender, state in states}

    def test_senders_of_five_million_characters(self, store: StateStorage) -> None:
        """They are kept whole, and the last character tells them apart; or they are refused."""
        one, two = self.long_texts
        store.set(MODULE, one, "ONE")
        assert store.get(MODULE, two) == ROUTE_FIRST_STATE
        store.set(MODULE, two, "TWO")
        assert (store.get(MODULE, one), store.get(MODULE, two)) == ("ONE", "TWO")
        found = {record.sender: record.state for record in store}
        assert found == {one: "ONE", two: "TWO"}
        assert store.set_all(one, "BOTH") == 1
        assert store.get(MODULE, two) == "TWO"
        if "longest" in self.limits:
            with pytest.raises(StorageError):
                store.set(MODULE, "a" * LONGEST, "ONE")
            assert contents(store) == {(MODULE, one): "BOTH", (MODULE, two): "TWO"}
