"""The part of the conversation's contract about conversations inside one another."""

from __future__ import annotations

import pytest
from salmon.routing import ROUTE_FIRST_STATE
from salmon.server import SMTPError

from salmon_state.conversation import current_conversation
from salmon_state.errors import ConversationBusy
from salmon_state.storage import StateStorage
from salmon_state.testing.endings import COMES_AGAIN, STAYS, elsewhere, left_with, refused
from salmon_state.testing.keys import MODULE, OTHER, SENDER
from salmon_state.testing.mails import can_enter, held_by_another_thread
from salmon_state.testing.suite import NOON, StoreSuite, contents, fill, set_clock

__all__ = ["LayerTests"]


class LayerTests(StoreSuite):
    """Conversations inside others, and the methods that change several states."""

    def test_current_conversation(self, store: StateStorage) -> None:
        """It is the innermost one of the thread that asks."""
        assert current_conversation() is None
        with store.conversation(SENDER) as outer:
            assert current_conversation() is outer
            assert outer.sender == SENDER
            with store.conversation(OTHER) as inner:
                assert current_conversation() is inner
                assert elsewhere(current_conversation) is None
            assert current_conversation() is outer
        assert current_conversation() is None

    @pytest.mark.parametrize("inner", [SENDER, OTHER, None])
    def test_inner_writes_are_committed_with_the_outer(
        self, store: StateStorage, inner: str | None
    ) -> None:
        """Inside and after the inner one its writes are seen; others see them at the end."""
        with store.conversation(SENDER):
            store.set("outer", SENDER, "ONE")
            with store.conversation(inner):
                assert store.get("outer", SENDER) == "ONE"
                store.set("inner", inner, "TWO")
                store.set("outer", SENDER, "THREE")
            assert store.get("inner", inner) == "TWO"
            assert store.get("outer", SENDER) == "THREE"
            assert elsewhere(contents, store) == {}
        assert contents(store) == {("inner", inner): "TWO", ("outer", SENDER): "THREE"}

    @pytest.mark.parametrize("inner", [SENDER, OTHER, None])
    @pytest.mark.parametrize("error", COMES_AGAIN[::3], ids=repr)
    def test_an_inner_one_that_comes_again_is_dropped_alone(
        self, store: StateStorage, error: BaseException, inner: str | None
    ) -> None:
        """The outer one goes on as if the inner one had never begun."""
        with store.conversation(SENDER):
            store.set(MODULE, SENDER, "ONE")
            with left_with(store, inner, error):
                store.set(MODULE, SENDER, "TWO")
                store.set("inner", inner, "TWO")
                store.set_all(SENDER, "THREE")
            assert store.get(MODULE, SENDER) == "ONE"
            assert store.get("inner", inner) == ROUTE_FIRST_STATE
        assert contents(store) == {(MODULE, SENDER): "ONE"}

    @pytest.mark.parametrize("error", STAYS, ids=repr)
    def test_an_inner_one_with_another_error_stays(
        self, store: StateStorage, error: BaseException
    ) -> None:
        """Only what comes again is dropped."""
        with store.conversation(SENDER):
            with left_with(store, SENDER, error):
                store.set(MODULE, SENDER, "ERROR")
            assert store.get(MODULE, SENDER) == "ERROR"
        assert contents(store) == {(MODULE, SENDER): "ERROR"}

    def test_the_outer_one_drops_all(self, store: StateStorage) -> None:
        """What an inner one committed is not kept when the outer one comes again."""
        with left_with(store, SENDER, SMTPError(451)), store.conversation(OTHER):
            store.set(MODULE, OTHER, "ONE")
        assert contents(store) == {}

    def test_many_layers(self, store: StateStorage) -> None:
        """Each layer sees those below it; dropping one uncovers them."""
        with store.conversation(SENDER):
            store.set(MODULE, SENDER, "ONE")
            with store.conversation(SENDER):
                with left_with(store, SENDER, SMTPError(451)):
                    store.set(MODULE, SENDER, "THREE")
                    with store.conversation(SENDER):
                        assert store.get(MODULE, SENDER) == "THREE"
                        store.set(MODULE, SENDER, "FOUR")
                    assert store.get(MODULE, SENDER) == "FOUR"
                assert store.get(MODULE, SENDER) == "ONE"
                store.set(MODULE, SENDER, "TWO")
            assert store.get(MODULE, SENDER) == "TWO"
        assert contents(store) == {(MODULE, SENDER): "TWO"}

    def test_another_sender_is_tried_at_once(self, store: StateStorage) -> None:
        """Whoever holds one lock waits for no other: two would wait for each other for ever."""
        with store.conversation(SENDER):
            store.set(MODULE, SENDER, "ONE")
            with (
                held_by_another_thread(store, OTHER),
                pytest.raises(ConversationBusy),
                store.conversation(OTHER, timeout=1e6),
            ):
                raise AssertionError("it was entered")
            with store.conversation(OTHER):  # which is free now
                store.set(MODULE, OTHER, "ONE")
        assert contents(store) == {(MODULE, SENDER): "ONE", (MODULE, OTHER): "ONE"}

    def test_the_other_senders_lock_stays_to_the_end(self, store: StateStorage) -> None:
        """Its writes are not committed before, so nobody may enter before."""
        with store.conversation(SENDER):
            with store.conversation(OTHER):
                store.set(MODULE, OTHER, "ONE")
            assert elsewhere(can_enter, store, [SENDER, OTHER]) == [False, False]
        assert elsewhere(can_enter, store, [SENDER, OTHER]) == [True, True]

    def test_the_null_sender_inside_and_outside(self, store: StateStorage) -> None:
        """It has no lock, wherever it is entered."""
        for null in (None, ""):
            with held_by_another_thread(store, null), store.conversation(SENDER):
                with store.conversation(null):
                    store.set(MODULE, null, "ONE")
                with left_with(store, null, SMTPError(451)):
                    store.set(MODULE, null, "TWO")
        assert contents(store) == {(MODULE, None): "ONE", (MODULE, ""): "ONE"}

    # ---------------------------------------------------------------- several states at once

    def test_compare_and_set_inside(self, store: StateStorage) -> None:
        """It goes by what the conversation sees, and waits for the end like `set`."""
        fill(store, [(MODULE, SENDER, "ONE"), (MODULE, OTHER, "ONE")])
        with store.conversation(SENDER):
            for sender in (SENDER, OTHER):
                assert not store.compare_and_set(MODULE, sender, "TWO", "THREE")
                assert store.compare_and_set(MODULE, sender, "ONE", "TWO")
                assert store.compare_and_set(MODULE, sender, "TWO", "THREE")
                assert store.compare_and_set("new", sender, ROUTE_FIRST_STATE, "ONE")
                assert not store.compare_and_set("new", sender, ROUTE_FIRST_STATE, "ONE")
            assert set(elsewhere(contents, store).values()) == {"ONE"}
        expected = {MODULE: "THREE", "new": "ONE"}
        assert contents(store) == {
            (module, sender): expected[module] for module in expected for sender in (SENDER, OTHER)
        }

    @pytest.mark.parametrize("theirs", ["BANNED", ROUTE_FIRST_STATE])
    def test_compare_and_set_of_somebody_else_is_checked_again(
        self, store: StateStorage, theirs: str
    ) -> None:
        """It is one atomic step although it happens at the end: or nothing happens."""
        fill(store, [(MODULE, OTHER, "ONE")])
        with refused(store, SENDER):
            store.set(MODULE, SENDER, "ONE")
            assert store.compare_and_set(MODULE, OTHER, "ONE", "TWO")
            elsewhere(store.set, MODULE, OTHER, theirs)
        assert store.get(MODULE, OTHER) == theirs
        assert store.get(MODULE, SENDER) == ROUTE_FIRST_STATE

    def test_set_after_compare_and_set_of_somebody_else(self, store: StateStorage) -> None:
        """What the first step went by must still hold at the end."""
        with store.conversation(SENDER):
            assert store.compare_and_set(MODULE, OTHER, ROUTE_FIRST_STATE, "ONE")
            store.set(MODULE, OTHER, "TWO")
        assert contents(store) == {(MODULE, OTHER): "TWO"}

    def test_set_all_inside(self, store: StateStorage) -> None:
        """It moves what exists for this conversation, and says how many those are."""
        for whose in (SENDER, OTHER):
            store.clear()
            fill(store, [(module, whose, "ONE") for module in ("one", "two", "gone")])
            with store.conversation(SENDER):
                store.set("gone", whose, ROUTE_FIRST_STATE)
                store.set("new", whose, "ONE")
                assert store.set_all(whose, "TWO") == 3
                assert store.get("gone", whose) == ROUTE_FIRST_STATE
                assert [store.get(m, whose) for m in ("one", "two", "new")] == ["TWO"] * 3
                store.set("two", whose, "THREE")
                assert elsewhere(store.get, "one", whose) == "ONE"
            expected = {"one": "TWO", "two": "THREE", "new": "TWO"}
            assert contents(store) == {(module, whose): expected[module] for module in expected}

    @pytest.mark.parametrize("whose", [SENDER, OTHER])
    def test_set_all_to_start(self, store: StateStorage, whose: str) -> None:
        """It removes; a later `set` makes an entry again."""
        fill(store, [(module, whose, "ONE") for module in ("one", "two")])
        with store.conversation(SENDER):
            store.set("new", whose, "ONE")
            assert store.set_all(whose, ROUTE_FIRST_STATE) == 3
            assert store.set_all(whose, "TWO") == 0
            store.set("two", whose, "THREE")
        assert contents(store) == {("two", whose): "THREE"}

    @pytest.mark.parametrize("whose", [SENDER, OTHER])
    def test_set_all_in_layers(self, store: StateStorage, whose: str) -> None:
        """A layer that is dropped has moved nothing; one that stays has."""
        fill(store, [("one", whose, "ONE")])
        with store.conversation(SENDER):
            store.set("two", whose, "ONE")
            with left_with(store, SENDER, SMTPError(451)):
                assert store.set_all(whose, "DROPPED") == 2
                assert store.get("one", whose) == store.get("two", whose) == "DROPPED"
            assert store.get("one", whose) == store.get("two", whose) == "ONE"
            with store.conversation(SENDER):
                assert store.set_all(whose, "TWO") == 2
                store.set("three", whose, "THREE")
            assert store.get("one", whose) == store.get("two", whose) == "TWO"
        expected = {"one": "TWO", "two": "TWO", "three": "THREE"}
        assert contents(store) == {(module, whose): expected[module] for module in expected}

    def test_set_all_of_somebody_else_is_done_at_the_end(self, store: StateStorage) -> None:
        """It also moves what came to exist since, and their writes do not stop it."""
        fill(store, [("one", OTHER, "ONE")])
        with store.conversation(SENDER):
            assert store.set_all(OTHER, "BANNED") == 1
            elsewhere(store.set, "one", OTHER, "TWO")
            elsewhere(store.set, "two", OTHER, "TWO")
        assert contents(store) == {("one", OTHER): "BANNED", ("two", OTHER): "BANNED"}

    @pytest.mark.parametrize("whose", [SENDER, OTHER])
    def test_compare_and_set_after_set_all(self, store: StateStorage, whose: str) -> None:
        """It goes by the state that the move made."""
        fill(store, [(MODULE, whose, "ONE")])
        with store.conversation(SENDER):
            assert store.set_all(whose, "TWO") == 1
            assert not store.compare_and_set(MODULE, whose, "ONE", "THREE")
            assert store.compare_and_set(MODULE, whose, "TWO", "THREE")
        assert contents(store) == {(MODULE, whose): "THREE"}

    def test_set_all_keeps_no_old_time(self, store: StateStorage) -> None:
        """Its time is the one of the call."""
        fill(store, [("one", SENDER, "ONE"), ("one", OTHER, "ONE")], updated_at=NOON)
        with store.conversation(SENDER):
            set_clock(store, NOON + 7_000_000)
            store.set_all(SENDER, "TWO")
            store.set_all(OTHER, "TWO")
            set_clock(store, NOON + 9_000_000)
        moments = {record.updated_at and record.updated_at.microsecond for record in store}
        seconds = {record.updated_at and record.updated_at.timestamp() for record in store}
        assert (moments, seconds) == ({0}, {NOON / 1e6 + 7})
