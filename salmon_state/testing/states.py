"""The part of the contract about one conversation: get, set and compare_and_set."""

from __future__ import annotations

from typing import Any

import pytest
from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.storage import StateStorage
from salmon_state.testing.keys import MODULE, SENDER
from salmon_state.testing.suite import StoreSuite, contents

__all__ = ["BAD_STATES", "StateTests"]


def CONFIRMING() -> None:  # noqa: N802 - Salmon's states are functions named like this
    """Stands for a handler that somebody passes where its name belongs."""


BAD_STATES: tuple[tuple[Any, type[Exception], str], ...] = (
    (None, TypeError, "None"),
    ("", ValueError, "''"),
    (b"CONFIRMING", TypeError, "b'CONFIRMING'"),
    (CONFIRMING, TypeError, "CONFIRMING"),
    (7, TypeError, "7"),
)
"""What is no state, how it is refused, and what the message names."""
BAD_MODULES: tuple[Any, ...] = (None, b"app.handlers", 7, ("app",))
BAD_SENDERS: tuple[Any, ...] = (b"a@x", 7, ("a@x",), False)
STATES = (
    *("A", "a", " ", " A", "A ", "\t", "None", "0", "007", "1.0", "1e3", "START ", "start"),
    *("'", '"', "\\", "\\n"),
    *("CHECK", "ABSENT", "ANYTHING", "_Mark.CHECK"),
    *("\0", "A\0", "A\nB", "é", "e\u0301", "\udcff", "\U0001faea", "\U0010ffff", "[]", "%s"),
)


class Text(str):
    """A str subclass that lies about itself, as those of mail libraries and ORMs may."""

    __slots__ = ("extra",)

    def __str__(self) -> str:
        return "not " + self[:]

    def __repr__(self) -> str:
        return "Text(...)"


class StateTests(StoreSuite):
    """One conversation."""

    def test_unknown_conversation_is_in_first_state(self, store: StateStorage) -> None:
        """`get` returns START for a conversation that nobody set."""
        assert store.get(MODULE, SENDER) == ROUTE_FIRST_STATE

    def test_get_never_writes(self, store: StateStorage) -> None:
        """Asking for a conversation does not make it exist."""
        store.get(MODULE, SENDER)
        assert contents(store) == {}
        assert len(store) == 0

    def test_get_returns_what_was_set(self, store: StateStorage) -> None:
        """The state comes back, as a plain str."""
        store.set(MODULE, SENDER, "CONFIRMING")
        state = store.get(MODULE, SENDER)
        assert type(state) is str
        assert state == "CONFIRMING"
        assert store.get(MODULE, SENDER) == "CONFIRMING"  # and still does when asked again

    def test_the_last_set_counts(self, store: StateStorage) -> None:
        """A state replaces the one before it."""
        for state in ("CONFIRMING", "POSTING", "CONFIRMING", "BANNED"):
            store.set(MODULE, SENDER, state)
            assert store.get(MODULE, SENDER) == state
        assert contents(store) == {(MODULE, SENDER): "BANNED"}

    def test_modules_and_senders_are_apart(self, store: StateStorage) -> None:
        """Each pair of module and sender is a conversation of its own."""
        store.set("one", "a@x", "A")
        store.set("two", "a@x", "B")
        store.set("one", "b@x", "C")
        assert store.get("one", "a@x") == "A"
        assert store.get("two", "a@x") == "B"
        assert store.get("one", "b@x") == "C"
        assert store.get("two", "b@x") == ROUTE_FIRST_STATE

    def test_first_state_removes(self, store: StateStorage) -> None:
        """Setting START removes the entry, and only that one."""
        store.set(MODULE, SENDER, "CONFIRMING")
        store.set(MODULE, "ben@example.com", "CONFIRMING")
        store.set(MODULE, SENDER, ROUTE_FIRST_STATE)
        assert store.get(MODULE, SENDER) == ROUTE_FIRST_STATE
        assert contents(store) == {(MODULE, "ben@example.com"): "CONFIRMING"}
        store.set(MODULE, SENDER, ROUTE_FIRST_STATE)  # harmless when there is none
        assert len(store) == 1

    def test_any_text_is_a_state(self, store: StateStorage) -> None:
        """Whatever text a state is, it comes back exactly, and is found and left by it."""
        for state in STATES:
            which = ascii(state)
            store.set(MODULE, SENDER, state)
            assert store.get(MODULE, SENDER) == state, which
            assert contents(store, state=state) == {(MODULE, SENDER): state}, which
            assert contents(store, state=state + "x") == {}, which
            assert store.rename(MODULE, state, "ANOTHER") == 1, which
            assert store.rename(MODULE, "ANOTHER", state) == 1, which
            assert store.compare_and_set(MODULE, SENDER, state, ROUTE_FIRST_STATE), which

    def test_long_states(self, store: StateStorage) -> None:
        """Two states of 100,000 letters that differ in the last are two."""
        long = "S" * 100_000
        store.set(MODULE, "a@x", long + "a")
        store.set(MODULE, "b@x", long + "b")
        assert store.get(MODULE, "a@x") == long + "a"
        assert store.get(MODULE, "b@x") == long + "b"
        assert contents(store, state=long + "a") == {(MODULE, "a@x"): long + "a"}
        assert store.compare_and_set(MODULE, "a@x", long + "b", "SHORT") is False
        assert store.compare_and_set(MODULE, "a@x", long + "a", "SHORT") is True

    def test_bad_state_is_refused(self, store: StateStorage) -> None:
        """What is no non-empty str is an error that names it, and changes nothing."""
        store.set(MODULE, SENDER, "POSTING")
        for state, kind, named in BAD_STATES:
            with pytest.raises(kind) as caught:
                store.set(MODULE, SENDER, state)
            assert named in str(caught.value)
            with pytest.raises(kind):
                store.set(MODULE, "ben@example.com", state)
            for expected, new in (("POSTING", state), (state, "BANNED")):
                with pytest.raises(kind):
                    store.compare_and_set(MODULE, SENDER, expected, new)
            assert contents(store) == {(MODULE, SENDER): "POSTING"}, named

    def test_bad_module_is_refused(self, store: StateStorage) -> None:
        """A module that is no str is a TypeError, and changes nothing."""
        for module in BAD_MODULES:
            with pytest.raises(TypeError, match="module"):
                store.get(module, SENDER)
            with pytest.raises(TypeError, match="module"):
                store.set(module, SENDER, "POSTING")
            with pytest.raises(TypeError, match="module"):
                store.compare_and_set(module, SENDER, ROUTE_FIRST_STATE, "POSTING")
            assert contents(store) == {}, module

    def test_bad_sender_is_refused(self, store: StateStorage) -> None:
        """A sender that is neither str nor None is a TypeError, and changes nothing."""
        for sender in BAD_SENDERS:
            with pytest.raises(TypeError, match="sender"):
                store.get(MODULE, sender)
            with pytest.raises(TypeError, match="sender"):
                store.set(MODULE, sender, "POSTING")
            with pytest.raises(TypeError, match="sender"):
                store.compare_and_set(MODULE, sender, ROUTE_FIRST_STATE, "POSTING")
            assert contents(store) == {}, sender

    def test_str_subclasses_count_as_their_text(self, store: StateStorage) -> None:
        """A str subclass is taken for the text that it holds, whatever it prints."""
        store.set(Text(MODULE), Text(SENDER), Text("POSTING"))
        assert store.get(MODULE, SENDER) == "POSTING"
        assert type(store.get(Text(MODULE), Text(SENDER))) is str
        (record,) = store.records()
        assert [type(value) for value in record[:3]] == [str, str, str]
        assert store.compare_and_set(Text(MODULE), Text(SENDER), Text("POSTING"), Text("START"))
        assert contents(store) == {}

    def test_compare_and_set(self, store: StateStorage) -> None:
        """It happens if the state is the expected one, and else changes nothing."""
        store.set(MODULE, SENDER, "CONFIRMING")
        assert store.compare_and_set(MODULE, SENDER, "POSTING", "BANNED") is False
        for alike in ("confirming", "CONFIRMING ", " CONFIRMING", "CONFIRMIN", "CONFIRMING\0"):
            assert store.compare_and_set(MODULE, SENDER, alike, "BANNED") is False, alike
        assert store.compare_and_set(MODULE, SENDER, ROUTE_FIRST_STATE, "BANNED") is False
        assert store.get(MODULE, SENDER) == "CONFIRMING"
        assert store.compare_and_set(MODULE, SENDER, "CONFIRMING", "POSTING") is True
        assert store.get(MODULE, SENDER) == "POSTING"
        assert store.compare_and_set(MODULE, SENDER, "POSTING", "POSTING") is True
        assert contents(store) == {(MODULE, SENDER): "POSTING"}

    def test_compare_and_set_with_first_state(self, store: StateStorage) -> None:
        """START expected means no entry; START as the new state removes the entry."""
        start = ROUTE_FIRST_STATE
        assert store.compare_and_set(MODULE, SENDER, "CONFIRMING", "POSTING") is False
        assert store.compare_and_set(MODULE, SENDER, start, start) is True
        assert len(store) == 0
        assert store.compare_and_set(MODULE, SENDER, start, "CONFIRMING") is True
        assert store.compare_and_set(MODULE, SENDER, start, "POSTING") is False
        assert contents(store) == {(MODULE, SENDER): "CONFIRMING"}
        assert store.compare_and_set(MODULE, SENDER, "CONFIRMING", start) is True
        assert contents(store) == {}

    def test_compare_and_set_works_for_every_sender(self, store: StateStorage) -> None:
        """The null sender and senders that look alike are compared like any other."""
        senders = (None, "", "None", "a@x", "A@x", "a@x ", "\udcff@x")
        for number, sender in enumerate(senders):
            assert store.compare_and_set(MODULE, sender, ROUTE_FIRST_STATE, f"S{number}")
        assert [store.get(MODULE, sender) for sender in senders] == [
            f"S{number}" for number in range(len(senders))
        ]
