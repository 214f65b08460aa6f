"""Which test names which store whose conversations are wrong."""

from __future__ import annotations

from salmon_state.testing import ConversationSuite, SharedConversationSuite
from tests.testing import wrong_conversation_objects as objects
from tests.testing import wrong_conversations as wrong
from tests.testing import wrong_shared_conversations as shared

SUITE, SHARED = ConversationSuite, SharedConversationSuite

IN_MEMORY = (
    (wrong.NoLock, SUITE, "test_busy"),
    (wrong.NoLock, SUITE, "test_mails_of_one_sender"),
    (wrong.NoLock, SUITE, "test_mails_of_many_senders"),
    (wrong.NoLock, SUITE, "test_another_sender_is_tried_at_once"),
    (wrong.NoLock, SUITE, "test_the_other_senders_lock_stays_to_the_end"),
    (wrong.NoLock, SUITE, "test_crossing_conversations_do_not_wait"),
    (wrong.ReleasesInnerOnes, SUITE, "test_the_other_senders_lock_stays_to_the_end"),
    (wrong.NeverWaits, SUITE, "test_waiting_wins"),
    (wrong.OneLockForAll, SUITE, "test_senders_do_not_wait_for_each_other"),
    (wrong.LeaksLocks, SUITE, "test_the_lock_ends_with_the_conversation"),
    (wrong.RefusesLongWaits, SUITE, "test_any_other_timeout"),
    (wrong.LocksTheNullSender, SUITE, "test_the_null_sender_is_nobody"),
    (wrong.LocksTheNullSender, SUITE, "test_the_null_sender_inside_and_outside"),
    (objects.HasNoSnapshot, SUITE, "test_reads_come_from_one_snapshot"),
    (objects.HasNoSnapshot, SUITE, "test_clear_beside"),
    (wrong.RemembersOthers, SUITE, "test_reads_of_others_go_through"),
    (wrong.WritesAllBack, SUITE, "test_only_what_was_changed_is_written"),
    (wrong.WritesAllBack, SUITE, "test_states_that_were_not_read_may_change"),
    (wrong.OverwritesBlindly, SUITE, "test_what_somebody_wrote_meanwhile_stays"),
    (wrong.OverwritesBlindly, SUITE, "test_a_write_from_outside_survives"),
    (
        wrong.OverwritesBlindly,
        ConversationSuite,
        "test_compare_and_set_of_somebody_else_is_checked_again",
    ),
    (wrong.IgnoresReads, SUITE, "test_what_was_read_must_not_change"),
    (wrong.CommitsOneByOne, SUITE, "test_what_somebody_wrote_meanwhile_stays"),
    (wrong.MissesWhatIsNotThere, SUITE, "test_removing_what_is_not_there"),
    (wrong.ForgetsMoves, SUITE, "test_set_all_inside"),
    (wrong.ForgetsMoves, SUITE, "test_set_all_of_somebody_else_is_done_at_the_end"),
    (wrong.ForgetsMoves, SUITE, "test_set_all_in_layers"),
    (wrong.MovesOnly, SUITE, "test_set_all_to_start"),
    (wrong.MovesLast, SUITE, "test_set_all_inside"),
    (wrong.MovesLast, SUITE, "test_compare_and_set_after_set_all"),
    (wrong.StampsAtTheEnd, SUITE, "test_set_all_keeps_no_old_time"),
    (wrong.StampsAtTheEnd, SUITE, "test_only_what_was_changed_is_written"),
    (wrong.WritesAtOnce, SUITE, "test_writes_wait_for_the_end"),
    (wrong.WritesAtOnce, SUITE, "test_nothing_is_kept_of_what_comes_again"),
    (wrong.ComparesAtOnce, SUITE, "test_compare_and_set_inside"),
    (wrong.ChecksNothingInside, SUITE, "test_bad_arguments_inside_change_nothing"),
    (wrong.ClearsWithoutTelling, SUITE, "test_clear_inside"),
    (wrong.RenamesNothingInside, SUITE, "test_rename_and_purge_inside"),
    (wrong.NeverCloses, SUITE, "test_closed_store"),
    (wrong.ShowsOtherThreads, SUITE, "test_writes_wait_for_the_end"),
    (wrong.ConfusesCase, SUITE, "test_hostile_keys"),
    (objects.AcceptsAnything, SUITE, "test_sender_of_another_type"),
    (objects.AcceptsAnything, SUITE, "test_timeout_of_another_type"),
    (objects.AcceptsAnything, SUITE, "test_negative_timeout"),
    (objects.KeepsEverything, SUITE, "test_nothing_is_kept_of_what_comes_again"),
    (
        objects.KeepsEverything,
        ConversationSuite,
        "test_an_inner_one_that_comes_again_is_dropped_alone",
    ),
    (objects.KeepsEverything, SUITE, "test_the_outer_one_drops_all"),
    (objects.KeepsEverything, SUITE, "test_many_layers"),
    (objects.KeepsEverything, SUITE, "test_conversations_behave_like_a_stack_of_dicts"),
    (objects.DropsWithAnyError, SUITE, "test_other_errors_commit"),
    (objects.DropsWithAnyError, SUITE, "test_an_inner_one_with_another_error_stays"),
    (objects.ForgetsInnerOnes, SUITE, "test_inner_writes_are_committed_with_the_outer"),
    (objects.EntersTwice, SUITE, "test_a_conversation_is_entered_once"),
    (objects.IsSomebodyElse, SUITE, "test_current_conversation"),
    (
        objects.GoesByItsOwnWrite,
        ConversationSuite,
        "test_set_after_compare_and_set_of_somebody_else",
    ),
)

ON_DISK = (
    (shared.LocksThreads, SHARED, "test_it_says_so"),
    (shared.LocksThreads, SHARED, "test_one_at_a_time"),
    (shared.LocksThreads, SHARED, "test_processes_and_one_sender"),
    (shared.LocksThreads, SHARED, "test_processes_and_many_senders"),
    (shared.LocksThreads, SHARED, "test_crossing_processes_do_not_wait"),
    (shared.LocksThreads, SHARED, "test_a_write_of_another_process_survives"),
    (shared.TriesNowAndThen, SHARED, "test_a_busy_sender_starves_no_process"),
    (
        shared.OneLockForAll,
        SharedConversationSuite,
        "test_processes_with_other_senders_do_not_wait",
    ),
    (shared.LocksTheNullSender, SHARED, "test_the_null_sender_is_nobodys_to_lock"),
    (shared.WritesAtOnce, SHARED, "test_sigkill_inside"),
    (shared.LocksForEver, SHARED, "test_sigkill_inside"),
    (shared.WritesInHalves, SHARED, "test_sigkill_in_the_middle_of_mails"),
    (shared.QueuesForEver, SHARED, "test_sigkill_of_whoever_waits"),
    (shared.KnowsItsOwn, SHARED, "test_forked_child"),
    (shared.MarksBlindly, SHARED, "test_the_same_mails_to_two_processes"),
    (shared.MarksInMemory, SHARED, "test_sigkill_before_a_mail_was_answered"),
)
