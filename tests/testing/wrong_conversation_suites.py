"""The conversation suites over every wrong store, to be run by test_wrong_conversations.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from salmon_state.storage import StateStorage
from salmon_state.testing import (
    ConversationSuite,
    OpenStore,
    SharedConversationSuite,
    StoreSuite,
)
from tests.testing import wrong_conversation_objects as objects
from tests.testing import wrong_conversations as wrong
from tests.testing import wrong_shared_conversations as shared

Expected = tuple[type[StateStorage], str]

IN_MEMORY: tuple[Expected, ...] = (
    (wrong.NoLock, "test_busy"),
    (wrong.NoLock, "test_mails_of_one_sender"),
    (wrong.NoLock, "test_mails_of_many_senders"),
    (wrong.NoLock, "test_another_sender_is_tried_at_once"),
    (wrong.NoLock, "test_the_other_senders_lock_stays_to_the_end"),
    (wrong.NoLock, "test_crossing_conversations_do_not_wait"),
    (wrong.ReleasesInnerOnes, "test_the_other_senders_lock_stays_to_the_end"),
    (wrong.NeverWaits, "test_waiting_wins"),
    (wrong.OneLockForAll, "test_senders_do_not_wait_for_each_other"),
    (wrong.LeaksLocks, "test_the_lock_ends_with_the_conversation"),
    (wrong.RefusesLongWaits, "test_any_other_timeout"),
    (wrong.LocksTheNullSender, "test_the_null_sender_is_nobody"),
    (wrong.LocksTheNullSender, "test_the_null_sender_inside_and_outside"),
    (objects.HasNoSnapshot, "test_reads_come_from_one_snapshot"),
    (objects.HasNoSnapshot, "test_clear_beside"),
    (wrong.RemembersOthers, "test_reads_of_others_go_through"),
    (wrong.WritesAllBack, "test_only_what_was_changed_is_written"),
    (wrong.WritesAllBack, "test_states_that_were_not_read_may_change"),
    (wrong.OverwritesBlindly, "test_what_somebody_wrote_meanwhile_stays"),
    (wrong.OverwritesBlindly, "test_a_write_from_outside_survives"),
    (wrong.OverwritesBlindly, "test_compare_and_set_of_somebody_else_is_checked_again"),
    (wrong.IgnoresReads, "test_what_was_read_must_not_change"),
    (wrong.CommitsOneByOne, "test_what_somebody_wrote_meanwhile_stays"),
    (wrong.MissesWhatIsNotThere, "test_removing_what_is_not_there"),
    (wrong.ForgetsMoves, "test_set_all_inside"),
    (wrong.ForgetsMoves, "test_set_all_of_somebody_else_is_done_at_the_end"),
    (wrong.ForgetsMoves, "test_set_all_in_layers"),
    (wrong.MovesOnly, "test_set_all_to_start"),
    (wrong.MovesLast, "test_set_all_inside"),
    (wrong.MovesLast, "test_compare_and_set_after_set_all"),
    (wrong.StampsAtTheEnd, "test_set_all_keeps_no_old_time"),
    (wrong.StampsAtTheEnd, "test_only_what_was_changed_is_written"),
    (wrong.WritesAtOnce, "test_writes_wait_for_the_end"),
    (wrong.WritesAtOnce, "test_nothing_is_kept_of_what_comes_again"),
    (wrong.ComparesAtOnce, "test_compare_and_set_inside"),
    (wrong.ChecksNothingInside, "test_bad_arguments_inside_change_nothing"),
    (wrong.ClearsWithoutTelling, "test_clear_inside"),
    (wrong.RenamesNothingInside, "test_rename_and_purge_inside"),
    (wrong.NeverCloses, "test_closed_store"),
    (wrong.ShowsOtherThreads, "test_writes_wait_for_the_end"),
    (wrong.ConfusesCase, "test_hostile_keys"),
    (objects.AcceptsAnything, "test_sender_of_another_type"),
    (objects.AcceptsAnything, "test_timeout_of_another_type"),
    (objects.AcceptsAnything, "test_negative_timeout"),
    (objects.KeepsEverything, "test_nothing_is_kept_of_what_comes_again"),
    (objects.KeepsEverything, "test_an_inner_one_that_comes_again_is_dropped_alone"),
    (objects.KeepsEverything, "test_the_outer_one_drops_all"),
    (objects.KeepsEverything, "test_many_layers"),
    (objects.KeepsEverything, "test_conversations_behave_like_a_stack_of_dicts"),
    (objects.DropsWithAnyError, "test_other_errors_commit"),
    (objects.DropsWithAnyError, "test_an_inner_one_with_another_error_stays"),
    (objects.ForgetsInnerOnes, "test_inner_writes_are_committed_with_the_outer"),
    (objects.EntersTwice, "test_a_conversation_is_entered_once"),
    (objects.IsSomebodyElse, "test_current_conversation"),
    (objects.GoesByItsOwnWrite, "test_set_after_compare_and_set_of_somebody_else"),
)

ON_DISK: tuple[Expected, ...] = (
    (shared.LocksThreads, "test_it_says_so"),
    (shared.LocksThreads, "test_one_at_a_time"),
    (shared.LocksThreads, "test_processes_and_one_sender"),
    (shared.LocksThreads, "test_processes_and_many_senders"),
    (shared.LocksThreads, "test_crossing_processes_do_not_wait"),
    (shared.LocksThreads, "test_a_write_of_another_process_survives"),
    (shared.TriesNowAndThen, "test_a_busy_sender_starves_no_process"),
    (shared.OneLockForAll, "test_processes_with_other_senders_do_not_wait"),
    (shared.LocksTheNullSender, "test_the_null_sender_is_nobodys_to_lock"),
    (shared.WritesAtOnce, "test_sigkill_inside"),
    (shared.LocksForEver, "test_sigkill_inside"),
    (shared.WritesInHalves, "test_sigkill_in_the_middle_of_mails"),
    (shared.MarksBlindly, "test_the_same_mails_to_two_processes"),
    (shared.MarksInMemory, "test_sigkill_before_a_mail_was_answered"),
    (shared.QueuesForEver, "test_sigkill_of_whoever_waits"),
    (shared.KnowsItsOwn, "test_forked_child"),
)


def case_name(case: Expected) -> str:
    """The name of the class that is made for a case."""
    store, test = case
    return f"Test{store.__name__}_{test}"


class InMemory(ConversationSuite):
    """Opens the wrong store."""

    wrong_store: Callable[..., StateStorage]
    conversation_runs = 400

    @pytest.fixture
    def open_store(self) -> OpenStore:
        return self.wrong_store


class OnDisk(SharedConversationSuite):
    """Opens the wrong store on a fresh file."""

    wrong_store: Callable[..., StateStorage]
    mails = 40
    kills_waiting = kills_inside = 40  # it ends with the first that shows it
    freed_within = 0.5

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(self.wrong_store, str(tmp_path / "states.db"))


class TestRight(OnDisk):
    """What the wrong ones on disk are made from, with the locks of most."""

    wrong_store = shared.LockedTable
    kills_waiting = kills_inside = 3
    freed_within = SharedConversationSuite.freed_within


def _case_class(place: type[StoreSuite], case: Expected) -> type:
    store, expected = case
    unwanted = (name for name in dir(place) if name.startswith("test_") and name != expected)
    return type(case_name(case), (place,), {**dict.fromkeys(unwanted), "wrong_store": store})


for _place, _cases in ((InMemory, IN_MEMORY), (OnDisk, ON_DISK)):
    for _case in _cases:
        globals()[case_name(_case)] = _case_class(_place, _case)
