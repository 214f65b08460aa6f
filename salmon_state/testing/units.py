"""The part of the conversation's contract about one mail: snapshot, own writes, commit."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from salmon.routing import ROUTE_FIRST_STATE
from salmon.server import SMTPError

from salmon_state.conversation import current_conversation
from salmon_state.entries import to_microseconds
from salmon_state.errors import StorageUnavailable
from salmon_state.storage import StateStorage
from salmon_state.testing.descriptors import open_files
from salmon_state.testing.endings import COMES_AGAIN, STAYS, elsewhere, left_with, refused
from salmon_state.testing.keys import HOSTILE_KEYS, MODULE, OTHER, SENDER
from salmon_state.testing.suite import (
    NOON,
    StoreSuite,
    contents,
    fill,
    set_clock,
)

__all__ = ["UnitTests"]


class UnitTests(StoreSuite):
    """One conversation, and what others do to its states meanwhile."""

    def test_writes_wait_for_the_end(self, store: StateStorage) -> None:
        """The conversation reads its own writes; others read what is committed."""
        with store.conversation(SENDER):
            store.set(MODULE, SENDER, "ONE")
            store.set(MODULE, OTHER, "TWO")
            assert [store.get(MODULE, SENDER), store.get(MODULE, OTHER)] == ["ONE", "TWO"]
            assert elsewhere(store.get, MODULE, SENDER) == ROUTE_FIRST_STATE
            assert contents(store) == {}
            assert len(store) == 0
            store.set(MODULE, SENDER, ROUTE_FIRST_STATE)
            assert store.get(MODULE, SENDER) == ROUTE_FIRST_STATE
            store.set(MODULE, SENDER, "THREE")
        assert contents(store) == {(MODULE, SENDER): "THREE", (MODULE, OTHER): "TWO"}

    def test_conversations_leave_nothing_behind(self, store: StateStorage) -> None:
        """No file is open and no thread runs, however many there were, and however they ended."""
        files, threads = [], []
        before = open_files()  # some of it may be garbage that is closed meanwhile
        for number in range(9):
            with store.conversation(f"{number}@x"):
                store.set(MODULE, f"{number}@x", "ONE")
            with left_with(store, SENDER, SMTPError(451)):
                store.set(MODULE, SENDER, "ONE")
            files.append(len(open_files() - before))
            threads.append(threading.active_count())
        assert files[-1] <= files[2], f"files and sockets that are open: {files}"
        assert threads[-1] <= threads[2], f"threads that run: {threads}"

    def test_reads_come_from_one_snapshot(self, store: StateStorage) -> None:
        """A write from outside between two reads is not seen, in whatever module."""
        store.set("before", SENDER, "ONE")
        with store.conversation(SENDER):
            elsewhere(store.set, "before", SENDER, "TWO")
            elsewhere(store.set, "after", SENDER, "TWO")
            states = [store.get(module, SENDER) for module in ("before", "after") * 2]
            assert states == ["ONE", ROUTE_FIRST_STATE] * 2
        assert contents(store) == {("before", SENDER): "TWO", ("after", SENDER): "TWO"}

    def test_reads_of_others_go_through(self, store: StateStorage) -> None:
        """Somebody else's state is read when it is asked for."""
        with store.conversation(SENDER):
            assert store.get(MODULE, OTHER) == ROUTE_FIRST_STATE
            elsewhere(store.set, MODULE, OTHER, "ONE")
            assert store.get(MODULE, OTHER) == "ONE"

    @pytest.mark.parametrize("error", COMES_AGAIN, ids=repr)
    def test_nothing_is_kept_of_what_comes_again(
        self, store: StateStorage, error: BaseException
    ) -> None:
        """Temporary failures and whatever ends the process leave everything as it was."""
        fill(store, [(MODULE, SENDER, "ONE"), ("gone", SENDER, "ONE")])
        with left_with(store, SENDER, error):
            store.set(MODULE, SENDER, "TWO")
            store.set("gone", SENDER, ROUTE_FIRST_STATE)
            store.set("new", SENDER, "TWO")
            store.set(MODULE, OTHER, "TWO")
            store.set_all(OTHER, "THREE")
        assert contents(store) == {(MODULE, SENDER): "ONE", ("gone", SENDER): "ONE"}
        assert [to_microseconds(record.updated_at) for record in store] == [NOON, NOON]
        with store.conversation(SENDER, timeout=0):  # the lock is free again
            assert store.get(MODULE, SENDER) == "ONE"

    @pytest.mark.parametrize("error", STAYS, ids=repr)
    def test_other_errors_commit(self, store: StateStorage, error: BaseException) -> None:
        """Salmon has recorded ERROR before it lets an error out; a 5xx is final."""
        with left_with(store, SENDER, error):
            store.set(MODULE, SENDER, "ERROR")
        assert contents(store) == {(MODULE, SENDER): "ERROR"}
        with store.conversation(SENDER, timeout=0):
            assert store.get(MODULE, SENDER) == "ERROR"

    def test_only_what_was_changed_is_written(self, store: StateStorage) -> None:
        """An entry that was only read keeps its time; a written one gets that of the write."""
        fill(store, [("read", SENDER, "ONE"), ("written", SENDER, "ONE")])
        with store.conversation(SENDER):
            assert store.get("read", SENDER) == "ONE"
            set_clock(store, NOON + 60)
            store.set("written", SENDER, "ONE")
            set_clock(store, NOON + 120)
        times = {record.module: to_microseconds(record.updated_at) for record in store}
        assert times == {"read": NOON, "written": NOON + 60}

    def test_what_somebody_wrote_meanwhile_stays(self, store: StateStorage) -> None:
        """All or nothing: one state that changed under the conversation drops all its writes."""
        fill(store, [("one", SENDER, "ONE"), ("two", SENDER, "ONE")])
        for change, survives in (
            (lambda: store.set("one", SENDER, "BANNED"), "BANNED"),
            (lambda: store.set("one", SENDER, ROUTE_FIRST_STATE), ROUTE_FIRST_STATE),
            (lambda: store.set_all(SENDER, "BOUNCED"), ROUTE_FIRST_STATE),
            (lambda: store.set("one", SENDER, "ONE"), "ONE"),
        ):
            with refused(store, SENDER):
                before = store.get("one", SENDER)
                store.set("new", SENDER, "TWO")
                store.set("one", SENDER, "TWO")
                store.set("two", SENDER, "TWO")
                store.set(MODULE, OTHER, "TWO")
                elsewhere(change)
                elsewhere(store.set, "two", SENDER, "ELSE")
            assert store.get("one", SENDER) == survives, before
            assert "TWO" not in contents(store).values()
            elsewhere(store.set, "two", SENDER, "ONE")
            with store.conversation(SENDER, timeout=0):
                pass

    def test_what_was_read_must_not_change(self, store: StateStorage) -> None:
        """Whoever reads one module's state and writes another's went by both."""
        fill(store, [("there", SENDER, "ONE")])
        for module in ("there", "not there"):
            with refused(store, SENDER):
                before = store.get(module, SENDER)
                store.set(MODULE, SENDER, "TWO")
                elsewhere(store.set, module, SENDER, "ELSE")
            assert store.get(MODULE, SENDER) == ROUTE_FIRST_STATE, before

    def test_states_that_were_not_read_may_change(self, store: StateStorage) -> None:
        """They hinder nobody; and nothing hinders whoever writes nothing."""
        with store.conversation(SENDER):
            store.set(MODULE, SENDER, "TWO")
            elsewhere(store.set, "other", SENDER, "ONE")
        with store.conversation(SENDER):
            assert store.get("other", SENDER) == "ONE"
            elsewhere(store.set, "other", SENDER, "TWO")
        assert contents(store) == {("other", SENDER): "TWO", (MODULE, SENDER): "TWO"}

    def test_a_write_from_outside_survives(self, store: StateStorage) -> None:
        """A bounce moves a sender whose conversation is running, from inside another one."""
        fill(store, [(MODULE, SENDER, "POSTING")])

        def bounce() -> int:
            with store.conversation(None):
                return store.set_all(SENDER, "BOUNCED")

        with refused(store, SENDER):
            assert elsewhere(bounce) == 1
            assert store.get(MODULE, SENDER) == "POSTING"
            store.set(MODULE, SENDER, "POSTING")
        assert store.get(MODULE, SENDER) == "BOUNCED"

    def test_removing_what_is_not_there(self, store: StateStorage) -> None:
        """START for a conversation without an entry is no change that could conflict."""
        with store.conversation(SENDER):
            store.set(MODULE, SENDER, ROUTE_FIRST_STATE)
            store.set(MODULE, OTHER, ROUTE_FIRST_STATE)
        assert contents(store) == {}

    def test_clear_inside(self, store: StateStorage) -> None:
        """`clear` acts at once, and drops what the conversation wrote before."""
        fill(store, [(MODULE, SENDER, "ONE"), (MODULE, OTHER, "ONE")])
        with store.conversation(SENDER):
            store.set(MODULE, SENDER, "TWO")
            store.set(MODULE, OTHER, "TWO")
            store.clear()
            assert elsewhere(contents, store) == {}
            assert store.get(MODULE, SENDER) == ROUTE_FIRST_STATE
            assert store.get(MODULE, OTHER) == ROUTE_FIRST_STATE
            store.set("new", SENDER, "THREE")
        assert contents(store) == {("new", SENDER): "THREE"}

    def test_clear_beside(self, store: StateStorage) -> None:
        """`clear` of another thread waits for nobody, and the conversation loses to it."""
        fill(store, [(MODULE, SENDER, "ONE")])
        with refused(store, SENDER):
            store.set(MODULE, SENDER, "TWO")
            elsewhere(store.clear)
        assert contents(store) == {}

    def test_rename_and_purge_inside(self, store: StateStorage) -> None:
        """They act at once on what is committed."""
        fill(store, [(MODULE, OTHER, "OLD"), ("idle", OTHER, "ONE")], updated_at=NOON)
        set_clock(store, NOON + 1)
        with store.conversation(SENDER):
            store.set(MODULE, SENDER, "OLD")
            assert store.rename(MODULE, "OLD", "NEW") == 1
            assert store.purge(older_than=timedelta(0), module="idle") == 1
            assert elsewhere(contents, store) == {(MODULE, OTHER): "NEW"}
        assert contents(store) == {(MODULE, OTHER): "NEW", (MODULE, SENDER): "OLD"}

    def test_closed_store(self, store: StateStorage) -> None:
        """A closed store is not entered; closed inside, it keeps nothing."""
        fill(store, [(MODULE, SENDER, "ONE")])
        with refused(store, SENDER, StorageUnavailable):
            store.set(MODULE, SENDER, "TWO")
            store.close()
            with pytest.raises(StorageUnavailable):
                store.get(MODULE, SENDER)
        with pytest.raises(StorageUnavailable), store.conversation(SENDER):
            raise AssertionError("it was entered")
        assert current_conversation() is None

    def test_sender_of_another_type(self, store: StateStorage) -> None:
        """A sender is a ``str`` or ``None``."""
        senders: tuple[Any, ...] = (b"a@x", 1, ["a@x"])
        for sender in senders:
            with pytest.raises(TypeError, match="sender must be a str or None"):
                store.conversation(sender)

    def test_timeout_of_another_type(self, store: StateStorage) -> None:
        """A timeout is a number of seconds."""
        timeouts: tuple[Any, ...] = ("2", None, True)
        for timeout in timeouts:
            with pytest.raises(TypeError, match="timeout must be a number of seconds"):
                store.conversation(SENDER, timeout=timeout)

    def test_negative_timeout(self, store: StateStorage) -> None:
        """A timeout is not negative."""
        for timeout in (-1, -0.001, float("nan")):
            with pytest.raises(ValueError, match="timeout must be 0 or more seconds"):
                store.conversation(SENDER, timeout=timeout)

    def test_any_other_timeout(self, store: StateStorage) -> None:
        """However short or long, it works."""
        for timeout in (0, 1e-9, 1e7, float("inf")):
            with store.conversation(SENDER, timeout=timeout):
                store.set(MODULE, SENDER, f"AFTER_{timeout}")
            assert store.get(MODULE, SENDER) == f"AFTER_{timeout}"

    def test_bad_arguments_inside_change_nothing(self, store: StateStorage) -> None:
        """What a method refuses is no part of the conversation."""
        state: Any
        with store.conversation(SENDER):
            for state in (None, "", b"ONE"):
                with pytest.raises((TypeError, ValueError)):
                    store.set(MODULE, SENDER, state)
                with pytest.raises((TypeError, ValueError)):
                    store.set_all(SENDER, state)
        assert contents(store) == {}

    def test_a_conversation_is_entered_once(self, store: StateStorage) -> None:
        """What was written in it the first time does not come back."""
        conversation = store.conversation(SENDER)
        with conversation:
            store.set(MODULE, SENDER, "ONE")
            with pytest.raises(RuntimeError, match="once"), conversation:
                pass
            assert store.get(MODULE, SENDER) == "ONE"
        elsewhere(store.set, MODULE, SENDER, "TWO")
        with pytest.raises(RuntimeError, match="once"), conversation:
            pass
        assert contents(store) == {(MODULE, SENDER): "TWO"}

    def test_hostile_keys(self, store: StateStorage) -> None:
        """Whatever a sender is called, the conversation is with nobody else."""
        for number, (module, sender) in enumerate(HOSTILE_KEYS):
            with store.conversation(sender):
                assert store.get(module, sender) == ROUTE_FIRST_STATE
                store.set(module, sender, f"S{number}")
        for number, (module, sender) in enumerate(HOSTILE_KEYS):
            with store.conversation(sender):
                assert store.get(module, sender) == f"S{number}"
        assert len(store) == len(HOSTILE_KEYS)
