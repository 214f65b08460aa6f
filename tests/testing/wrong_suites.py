"""The kit over every wrong store, to be run by test_wrong_stores.py, which expects the failures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from salmon_state.storage import StateStorage
from salmon_state.testing import (
    ContractSuite,
    DurableSuite,
    EntrySuite,
    HostileKeySuite,
    ModelSuite,
    OpenStore,
    RouterSuite,
    SharedEntrySuite,
    SharedSuite,
    StoreSuite,
    ThreadSuite,
    VersionSuite,
)
from tests.testing import wrong_conversations as conversations
from tests.testing import wrong_durable_stores as durable
from tests.testing import wrong_entries as entries
from tests.testing import wrong_keys as keys
from tests.testing import wrong_records as records
from tests.testing import wrong_stores as stores
from tests.testing import wrong_sweeps as sweeps

Expected = tuple[type[StateStorage], type[StoreSuite], str]

IN_MEMORY: tuple[Expected, ...] = (
    (keys.FoldsCase, HostileKeySuite, "test_no_two_keys_meet"),
    (keys.StripsSpaces, HostileKeySuite, "test_no_two_keys_meet"),
    (keys.IgnoresTrailingSpaces, HostileKeySuite, "test_each_key_comes_back"),
    (keys.NormalizesUnicode, HostileKeySuite, "test_no_two_keys_meet"),
    (keys.EndsAtNul, HostileKeySuite, "test_no_two_keys_meet"),
    (keys.ReplacesSurrogates, HostileKeySuite, "test_no_two_keys_meet"),
    (keys.JoinsSurrogates, HostileKeySuite, "test_no_two_keys_meet"),
    (keys.CutsAt255, HostileKeySuite, "test_no_two_keys_meet"),
    (keys.CutsAtAMillion, HostileKeySuite, "test_senders_of_five_million_characters"),
    (keys.UnescapesBackslashes, HostileKeySuite, "test_no_two_keys_meet"),
    (keys.EmptyIsNobody, HostileKeySuite, "test_no_two_keys_meet"),
    (keys.NobodyIsText, HostileKeySuite, "test_no_two_keys_meet"),
    (keys.JoinsWithColon, HostileKeySuite, "test_no_two_keys_meet"),
    (stores.KeepsStart, HostileKeySuite, "test_removing_one_key_keeps_the_others"),
    (records.FiltersLoosely, HostileKeySuite, "test_a_filter_matches_nothing_else"),
    (stores.LosesAWrite, HostileKeySuite, "test_no_two_keys_meet"),
    (keys.NobodyIsText, ContractSuite, "test_compare_and_set_works_for_every_sender"),
    (keys.EmptyIsNobody, ContractSuite, "test_set_all_of_any_sender"),
    (stores.ReturnsBytes, ContractSuite, "test_get_returns_what_was_set"),
    (stores.ReturnsNoneForStart, ContractSuite, "test_unknown_conversation_is_in_first_state"),
    (stores.WritesOnGet, ContractSuite, "test_get_never_writes"),
    (stores.TouchesOnGet, ContractSuite, "test_updated_at_is_the_last_set"),
    (stores.KeepsStart, ContractSuite, "test_first_state_removes"),
    (stores.KeepsStart, ContractSuite, "test_nobody_is_in_the_first_state"),
    (stores.KeepsTheFirst, ContractSuite, "test_the_last_set_counts"),
    (keys.FoldsCase, ContractSuite, "test_set_all"),
    (stores.CutsStates, ContractSuite, "test_long_states"),
    (stores.StripsStates, ContractSuite, "test_any_text_is_a_state"),
    (stores.AcceptsBadStates, ContractSuite, "test_bad_state_is_refused"),
    (stores.ChangesBeforeChecking, ContractSuite, "test_bad_state_is_refused"),
    (stores.AcceptsAnySender, ContractSuite, "test_bad_sender_is_refused"),
    (stores.AcceptsAnySender, ContractSuite, "test_str_subclasses_count_as_their_text"),
    (stores.AcceptsAnyModule, ContractSuite, "test_bad_module_is_refused"),
    (stores.SwallowsErrors, ContractSuite, "test_bad_state_is_refused"),
    (stores.SwallowsErrors, ContractSuite, "test_closed_store_is_unavailable"),
    (stores.WorksAfterClose, ContractSuite, "test_closed_store_is_unavailable"),
    (stores.ClosesOnlyOnce, ContractSuite, "test_close_again"),
    (stores.StaysOpenAfterWith, ContractSuite, "test_with_closes"),
    (stores.WithSwallowsErrors, ContractSuite, "test_with_lets_errors_out"),
    (stores.PingWrites, ContractSuite, "test_ping"),
    (stores.HasNoKey, ContractSuite, "test_it_is_a_salmon_store"),
    (stores.ReprIsLong, ContractSuite, "test_repr"),
    (records.IsFalseWhenEmpty, ContractSuite, "test_an_empty_store"),
    (records.CountsWrites, ContractSuite, "test_first_state_removes"),
    (records.YieldsTwice, ContractSuite, "test_states_may_change_while_iterating"),
    (keys.IsOneConversation, ContractSuite, "test_modules_and_senders_are_apart"),
    (records.MissesOne, ContractSuite, "test_records_name_everything"),
    (records.StopsAtAHundred, ContractSuite, "test_ten_thousand_records"),
    (records.BreaksWhileIterating, ContractSuite, "test_states_may_change_while_iterating"),
    (records.LocksWhileIterating, ContractSuite, "test_records_is_an_iterator"),
    (records.GivesAList, ContractSuite, "test_records_is_an_iterator"),
    (records.FiltersLoosely, ContractSuite, "test_filters"),
    (records.IgnoresAFilter, ContractSuite, "test_filters"),
    (records.FiltersByNobody, ContractSuite, "test_filters"),
    (records.TakesAnyFilter, ContractSuite, "test_bad_filters_are_refused"),
    (records.TakesAnyFilter, ContractSuite, "test_bad_state_filter_is_refused"),
    (records.RoundsTimes, ContractSuite, "test_records_name_everything"),
    (records.KeepsTheFirstTime, ContractSuite, "test_updated_at_is_the_last_set"),
    (records.InventsTimes, ContractSuite, "test_unknown_times_stay_unknown"),
    (records.InventsTimes, ContractSuite, "test_rename_keeps_unknown_times"),
    (records.ZeroForUnknown, ContractSuite, "test_purge_spares_unknown_times"),
    (records.ClockRunsSlow, ContractSuite, "test_the_stores_own_clock_tells_the_time"),
    (sweeps.SetAllMissesOne, ContractSuite, "test_set_all"),
    (sweeps.SetAllCreates, ContractSuite, "test_set_all_creates_nothing"),
    (sweeps.SetAllTakesEverybody, ContractSuite, "test_set_all_of_any_sender"),
    (sweeps.SetAllKeepsTimes, ContractSuite, "test_set_all_updates_the_time"),
    (stores.KeepsStart, ContractSuite, "test_set_all_to_first_state_removes"),
    (sweeps.SetAllForgetsModules, ModelSuite, "test_the_store_behaves_like_a_dict"),
    (sweeps.RenameTouchesTimes, ContractSuite, "test_rename"),
    (sweeps.RenameTakesAllModules, ContractSuite, "test_rename"),
    (sweeps.RenamesStart, ContractSuite, "test_rename_and_the_first_state"),
    (sweeps.RenameToItselfRemoves, ContractSuite, "test_rename_to_the_same_state"),
    (sweeps.RenameAcceptsBadStates, ContractSuite, "test_bad_states_are_refused"),
    (stores.CompareIsNotAtomic, ThreadSuite, "test_threads_win_each_step_once"),
    (stores.CompareIsNotAtomic, ThreadSuite, "test_one_of_all_wins"),
    (stores.CompareAlwaysSets, ContractSuite, "test_compare_and_set"),
    (stores.CompareNeedsAnEntry, ContractSuite, "test_compare_and_set_with_first_state"),
    (sweeps.PurgesUnknownTimes, ContractSuite, "test_purge_spares_unknown_times"),
    (sweeps.PurgesTheBoundary, ContractSuite, "test_purge"),
    (sweeps.PurgesEverything, ContractSuite, "test_purge_filters"),
    (sweeps.PurgesByDays, ContractSuite, "test_purge_wants_a_timedelta"),
    (sweeps.ClearsWhatIsProtected, ContractSuite, "test_protect"),
    (sweeps.ClearsHalf, ContractSuite, "test_clear"),
    (stores.LosesAWrite, ThreadSuite, "test_sets_of_different_senders"),
    (stores.IsPerThread, ThreadSuite, "test_sets_of_one_sender"),
    (stores.WritesInHalves, ThreadSuite, "test_set_and_remove"),
    (records.BreaksWhileIterating, ThreadSuite, "test_records_beside_writes"),
    (stores.LosesAWrite, ModelSuite, "test_the_store_behaves_like_a_dict"),
    (keys.FoldsCase, ModelSuite, "test_the_store_behaves_like_a_dict"),
    (stores.ReturnsNoneForStart, RouterSuite, "test_a_whole_conversation"),
    (stores.ReturnsBytes, RouterSuite, "test_reloading_keeps_states"),
    (sweeps.ClearsNothing, RouterSuite, "test_begin_forgets"),
    (keys.IsOneConversation, RouterSuite, "test_senders_do_not_meet"),
    (keys.IsOneConversation, RouterSuite, "test_state_key_generator"),
    (keys.IsOneConversation, RouterSuite, "test_a_state_of_another_module"),
    (stores.KeepsStart, RouterSuite, "test_a_broken_handler_is_in_error"),
    (entries.ForgetsMarks, RouterSuite, "test_a_mail_that_comes_again"),
    (stores.WorksAfterClose, RouterSuite, "test_an_unavailable_store_is_not_swallowed"),
    (entries.DecodesValues, EntrySuite, "test_what_is_written_is_found"),
    (records.InventsTimes, EntrySuite, "test_a_time_may_be_unknown"),
    (entries.KindsMeet, EntrySuite, "test_no_two_entries_meet"),
    (keys.FoldsCase, EntrySuite, "test_no_two_entries_meet"),
    (entries.CutsNames, EntrySuite, "test_long_names_and_senders"),
    (keys.CutsAtAMillion, EntrySuite, "test_long_names_and_senders"),
    (entries.CutsValues, EntrySuite, "test_a_large_value"),
    (entries.MixesWants, EntrySuite, "test_wants_of_several_kinds"),
    (entries.ComparesTimeAlways, EntrySuite, "test_expectations_that_hold"),
    (entries.ComparesNoValue, EntrySuite, "test_expectations_that_fail"),
    (entries.ComparesNoTime, EntrySuite, "test_expectations_that_fail"),
    (entries.ComparesNoUnknownTime, EntrySuite, "test_expectations_that_fail"),
    (entries.OverwritesWhatIsThere, EntrySuite, "test_expectations_that_fail"),
    (entries.WritesWhatIsGone, EntrySuite, "test_expectations_that_fail"),
    (entries.IgnoresChecks, EntrySuite, "test_expectations_that_fail"),
    (conversations.CommitsOneByOne, EntrySuite, "test_expectations_that_fail"),
    (entries.ChecksByWriting, EntrySuite, "test_a_check_writes_nothing"),
    (conversations.MovesLast, EntrySuite, "test_every_entry_of_a_sender"),
    (entries.ChecksAfterMoving, EntrySuite, "test_a_check_before_every_entry_is_moved"),
    (entries.CommitsSenderBySender, EntrySuite, "test_senders_in_one_commit"),
    (entries.CommitsInBatches, EntrySuite, "test_many_or_none"),
    (entries.WritesWhatCame, EntrySuite, "test_an_iterator_that_fails"),
    (entries.GivesTheMoment, EntrySuite, "test_pages_filter"),
    (records.FiltersByNobody, EntrySuite, "test_pages_filter"),
    (entries.DueByKey, EntrySuite, "test_due_entries_come_in_the_order_of_their_time"),
    (entries.SkipsTies, EntrySuite, "test_many_with_the_same_time"),
    (entries.PagesByOffset, EntrySuite, "test_what_vanishes_hides_nothing"),
    (entries.SweepsOnePage, EntrySuite, "test_a_sweep_of_other_kinds"),
    (entries.SweepsTouch, EntrySuite, "test_a_sweep_of_other_kinds"),
    (entries.ClaimsNothing, EntrySuite, "test_claims"),
    (entries.DueByKey, EntrySuite, "test_claims"),
    (entries.FindsStatesOnly, EntrySuite, "test_a_check_of_what_is_whole"),
    (entries.WipesStates, EntrySuite, "test_a_wipe_removes_every_kind"),
)

ON_DISK: tuple[Expected, ...] = (
    (records.LoadsEverything, ContractSuite, "test_ten_thousand_records"),
    (durable.ForgetsOnReopen, DurableSuite, "test_every_change_is_found_after_reopening"),
    (durable.ForgetsOnReopen, DurableSuite, "test_the_model_with_reopening"),
    (durable.WritesWhenClosed, DurableSuite, "test_sigkill_loses_no_acknowledged_set"),
    (durable.TearsWhenKilled, DurableSuite, "test_sigkill_loses_no_acknowledged_set"),
    (durable.WritesAfterClose, DurableSuite, "test_closed_store_changes_nothing"),
    (durable.ForgetsTimes, DurableSuite, "test_hostile_keys_are_found_after_reopening"),
    (durable.InventsTimesOnReopen, DurableSuite, "test_reopening_invents_no_time"),
    (durable.WritesOnGet, DurableSuite, "test_reading_writes_nothing"),
    (durable.LeavesFilesOpen, DurableSuite, "test_close_releases_files"),
    (durable.KeysByRepr, VersionSuite, "test_written_here_and_read_there"),
    (durable.KeysByRepr, VersionSuite, "test_written_there_and_read_here"),
    (durable.ReadsStale, SharedSuite, "test_a_set_is_read_at_once"),
    (durable.ReadsStale, SharedSuite, "test_changes_of_many_are_seen"),
    (durable.ReadsStale, SharedSuite, "test_instances_in_one_process"),
    (durable.IsPerProcess, SharedSuite, "test_hostile_keys_are_the_same_for_all"),
    (durable.WritesAllBack, SharedSuite, "test_no_set_is_lost"),
    (durable.ComparesInTwoSteps, SharedSuite, "test_processes_win_each_step_once"),
    (durable.ComparesInTwoSteps, SharedSuite, "test_one_of_all_processes_wins"),
    (durable.MovesInTwoSteps, SharedSuite, "test_one_order_explains_what_all_saw"),
    (durable.LocksForever, SharedSuite, "test_a_killed_process_stops_nobody"),
    (entries.CollectsWrites, EntrySuite, "test_many_in_one_commit"),
    (entries.ClaimsForTwo, SharedEntrySuite, "test_each_due_entry_is_claimed_once"),
    (entries.ClaimsForEver, SharedEntrySuite, "test_what_a_killed_taker_had_is_claimed_again"),
    (
        entries.CommitsKindByKind,
        SharedEntrySuite,
        "test_a_commit_of_several_kinds_is_whole_after_sigkill",
    ),
    (entries.SweepsTheRenewed, SharedEntrySuite, "test_a_sweep_beside_writers"),
)


def case_name(case: Expected) -> str:
    """The name of the class that is made for a case."""
    store, _, test = case
    return f"Test{store.__name__}_{test}"


class InMemory:
    """Opens the wrong store."""

    wrong_store: Callable[..., StateStorage]

    @pytest.fixture
    def open_store(self) -> OpenStore:
        return self.wrong_store


class OnDisk:
    """Opens the wrong store on a fresh file."""

    wrong_store: Callable[..., StateStorage]

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(self.wrong_store, str(tmp_path / "states.db"))


# More runs and kills, because a random one must meet what is wrong, and the first that does is
# the last; fewer of what takes long.
_NUMBERS = {"runs": 400, "kills": 40, "kills_beside_others": 40, "steps_won": 60, "writes": 40}


def _case_class(place: type, case: Expected) -> type:
    store, suite, expected = case
    unwanted = (name for name in dir(suite) if name.startswith("test_") and name != expected)
    return type(
        case_name(case),
        (place, suite),
        {**dict.fromkeys(unwanted), "wrong_store": store, **_NUMBERS},
    )


for _place, _cases in ((InMemory, IN_MEMORY), (OnDisk, ON_DISK)):
    for _case in _cases:
        globals()[case_name(_case)] = _case_class(_place, _case)
