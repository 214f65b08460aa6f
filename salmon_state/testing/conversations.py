"""ConversationSuite and SharedConversationSuite: one mail, one unit of work."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest
from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.entries import Kind
from salmon_state.errors import StorageUnavailable
from salmon_state.storage import StateStorage
from salmon_state.testing import inbox, mails, processes, stopping, tasks
from salmon_state.testing.conversation_model import ConversationModelTests
from salmon_state.testing.endings import refused
from salmon_state.testing.keys import HOSTILE_KEYS, MODULE, OTHER, SENDER
from salmon_state.testing.layers import LayerTests
from salmon_state.testing.processes import StoreProcess, store_processes
from salmon_state.testing.sender_locks import LockTests, check_ring
from salmon_state.testing.suite import OpenStore, StoreSuite, contents, everything, fill
from salmon_state.testing.units import UnitTests

__all__ = ["ConversationSuite", "SharedConversationSuite"]


class ConversationSuite(UnitTests, LayerTests, LockTests, ConversationModelTests):
    """Every store that has conversations: the docstring of `StateStorage.conversation`.

    `UnitTests` is about one conversation, `LayerTests` about conversations inside others,
    `LockTests` about the lock between threads; `ConversationModelTests` compares random runs with
    a stack of dicts.
    """


class SharedConversationSuite(StoreSuite):
    """A store whose conversations lock their sender between processes.

    Attributes:
        mails: How many mails of one sender each process handles.
        freed_within: Seconds after the death of a process within which its lock is free.
        kills_waiting: How many processes are killed while they wait for a lock.
        kills_inside: How many are killed somewhere in a mail.
        lapse: For how many seconds a process stands still that is in a conversation.
    """

    mails = 200
    freed_within = 10.0
    kills_waiting = 1
    kills_inside = 2
    lapse = 1.0

    @pytest.fixture
    def peers(self, open_store: OpenStore) -> Iterator[Sequence[StoreProcess]]:
        """Two other processes, each with the store open."""
        with store_processes(open_store, 2) as peers:
            yield peers

    def test_it_says_so(self, store: StateStorage) -> None:
        """A router that is attached warns of stores that lock threads only."""
        assert store.locks_processes is True

    @pytest.mark.parametrize("count", [2, 4])
    def test_processes_and_one_sender(self, open_store: OpenStore, count: int) -> None:
        """Processes move one sender round: every state is entered as often as it must be."""
        with store_processes(open_store, count) as walkers:
            for walker in walkers:
                walker.start(mails.walk, [SENDER], self.mails, 2.0)
            entered = sum((walker.result() for walker in walkers), Counter[str]())
        check_ring(entered, count * self.mails)
        with open_store() as store:
            assert store.get(MODULE, SENDER) == mails.RING[count * self.mails % len(mails.RING)]

    def test_a_busy_sender_starves_no_process(self, open_store: OpenStore) -> None:
        """Of processes that all have mails of one sender, each gets about its share."""
        count, turns = 4, 40
        with store_processes(open_store, count) as others:
            for other in others:
                other.start(mails.take_turns, SENDER, count * turns)
            shares = [other.result() for other in others]
        assert min(shares) >= turns / 3, f"unequal shares: {shares}"

    def test_processes_and_many_senders(
        self, open_store: OpenStore, peers: Sequence[StoreProcess]
    ) -> None:
        """The same for ten senders whose mails come in another order to each process."""
        senders = [f"{number}@x" for number in range(10)]
        for order, other in zip((senders, senders[::-1]), peers, strict=True):
            other.start(mails.walk, order, 6, 2.0)
        for other in peers:
            other.result()
        with open_store() as store:
            assert [store.get(MODULE, s) for s in senders] == [mails.RING[12]] * 10

    def test_one_at_a_time(self, store: StateStorage, peers: Sequence[StoreProcess]) -> None:
        """While one process is inside, another one is told so at once or after its timeout."""
        with store.conversation(SENDER):
            assert peers[0].call(mails.can_enter, [SENDER, OTHER]) == [False, True]
            assert peers[0].call(mails.can_enter, [SENDER], 0.05) == [False]
            peers[1].start(mails.can_enter, [SENDER], processes.PATIENCE)
        assert peers[1].result() == [True]
        assert peers[0].call(mails.can_enter, [SENDER]) == [True]

    def test_the_next_process_has_it_alone(
        self, store: StateStorage, peers: Sequence[StoreProcess]
    ) -> None:
        """Whoever waited keeps out those who come when the first one has left."""
        with store.conversation(SENDER):
            peers[0].start(mails.enter, SENDER)
            time.sleep(stopping.BLINK)  # it waits by now; or it does not, which is as right
        peers[0].result()
        alone = [peers[1].call(mails.can_enter, [SENDER]), mails.can_enter(store, [SENDER])]
        assert alone == [[False]] * 2, "two are inside at the same time"
        peers[0].call(mails.leave)
        assert peers[1].call(mails.can_enter, [SENDER]) == [True]

    def test_stores_in_one_process_lock_each_other_out(
        self, open_store: OpenStore, peers: Sequence[StoreProcess]
    ) -> None:
        """Two at one place do, and closing one of them frees no lock of the other."""
        with open_store() as one, open_store() as two, one.conversation(SENDER):
            assert mails.can_enter(two, [SENDER, OTHER]) == [False, True]
            two.close()
            assert peers[0].call(mails.can_enter, [SENDER, OTHER]) == [False, True]

    def test_a_store_that_is_closed_inside(self, open_store: OpenStore) -> None:
        """The lock is free when the conversation is left, though nothing could be committed."""
        with open_store() as one, open_store() as two:
            with refused(one, SENDER, StorageUnavailable):
                one.set(MODULE, SENDER, "ONE")
                one.close()
            assert mails.can_enter(two, [SENDER], self.freed_within) == [True]
            assert contents(two) == {}

    def test_a_process_waits_as_long_as_was_said(
        self, store: StateStorage, peers: Sequence[StoreProcess]
    ) -> None:
        """Whoever does not get the lock is told when the time is over, and not before."""
        with store.conversation(SENDER):
            waited = peers[0].call(mails.time_to_refuse, SENDER, 0.3)
        assert waited > 0.25, f"a process that may wait for 0.3 s was told after {waited} s"

    def test_a_lock_that_lapsed_is_noticed(
        self, store: StateStorage, peers: Sequence[StoreProcess]
    ) -> None:
        """A process that stood still keeps its lock, or cannot commit any more."""
        peers[0].start(mails.stopped_inside, SENDER)
        peers[0].wait_until_stopped()
        entered = mails.can_enter(store, [SENDER], self.lapse) == [True]
        peers[0].go_on()
        committed = peers[0].result()
        assert not (entered and committed), "two conversations of one sender overlapped"
        assert entered or committed, "a conversation was refused that nobody had entered"
        assert contents(store) == ({("stopped", SENDER): "ONE"} if committed else {})

    def test_processes_with_other_senders_do_not_wait(
        self, store: StateStorage, peers: Sequence[StoreProcess]
    ) -> None:
        """Nobody's name is taken for another's."""
        names = [sender for sender in dict.fromkeys(s for _, s in HOSTILE_KEYS) if sender]
        names += [f"{number}@example.com" for number in range(1000)]
        with store.conversation(names[0]):
            assert peers[0].call(mails.can_enter, names) == [False] + [True] * (len(names) - 1)

    def test_the_null_sender_is_nobodys_to_lock(
        self, store: StateStorage, peers: Sequence[StoreProcess]
    ) -> None:
        """Any number of processes are in conversations with it."""
        for null in (None, ""):
            with store.conversation(null):
                assert peers[0].call(mails.can_enter, [None, ""]) == [True, True]

    def test_crossing_processes_do_not_wait(
        self, open_store: OpenStore, peers: Sequence[StoreProcess]
    ) -> None:
        """Two processes that want each other's sender as well: neither gets it, neither waits."""
        names = ("a@x", "b@x")
        with ExitStack() as inside:
            for other, own in zip(peers, names, strict=True):
                other.call(mails.enter, own)
                inside.callback(other.call, mails.leave)
            for other, wanted in zip(peers, names[::-1], strict=True):
                other.start(mails.can_enter, [wanted], processes.PATIENCE)
            assert [other.result() for other in peers] == [[False], [False]]
        with open_store() as store:
            assert mails.can_enter(store, ["a@x", "b@x"]) == [True, True]

    def test_sigkill_inside(self, open_store: OpenStore, peers: Sequence[StoreProcess]) -> None:
        """The lock ends with its process, and nothing half-written is left."""
        victim, survivor = peers
        states = [(f"module{n}", (SENDER, OTHER)[n % 2], "HALF") for n in range(40)]
        with open_store() as store:
            fill(store, [("module0", SENDER, "WHOLE")])
            victim.start(mails.held, SENDER, states)
            assert victim.item() == "inside"
            assert survivor.call(mails.can_enter, [SENDER, OTHER]) == [False, True]
            victim.kill()
            assert survivor.call(mails.can_enter, [SENDER], self.freed_within) == [True]
            assert contents(store) == {("module0", SENDER): "WHOLE"}
            with store.conversation(SENDER):
                store.set("module0", SENDER, "NEXT")
            assert contents(store) == {("module0", SENDER): "NEXT"}

    def test_sigkill_of_whoever_waits(
        self, open_store: OpenStore, peers: Sequence[StoreProcess]
    ) -> None:
        """A process that dies waiting for a lock neither gets it nor keeps it from others."""
        with open_store() as store:
            for kill in range(self.kills_waiting):
                with store_processes(open_store, 1) as (victim,), store.conversation(SENDER):
                    victim.start(mails.wait_forever, SENDER)
                    assert victim.kill_after(2, (kill + 1) / (kill + 2)) == "busy"
                    store.set(MODULE, SENDER, f"S{kill}")
                assert peers[1].call(mails.can_enter, [SENDER], self.freed_within) == [True]
                assert contents(store) == {(MODULE, SENDER): f"S{kill}"}

    def test_sigkill_in_the_middle_of_mails(self, open_store: OpenStore) -> None:
        """Wherever it dies, a mail is handled or it is not, and the others go on."""
        with open_store() as store:
            for kill in range(self.kills_inside):
                with store_processes(open_store, 1) as (victim,):
                    victim.start(mails.pairs_forever, SENDER)
                    last = victim.kill_after(5 + 7 * kill % 20, kill / self.kills_inside)
                with store.conversation(SENDER, timeout=self.freed_within):
                    pair = {store.get(module, SENDER) for module in ("one", "two")}
                assert pair in ({f"S{last}"}, {f"S{last + 1}"})
                store.clear()

    def test_the_same_mails_to_two_processes(
        self, open_store: OpenStore, peers: Sequence[StoreProcess]
    ) -> None:
        """Each is handled once, those of the null sender included, and answered by both."""
        for name, other in zip(("one", "other"), peers, strict=True):
            other.start(inbox.handle, [SENDER, None], self.mails // 10, name)
        assert sum(other.result() for other in peers) == 2 * (self.mails // 10)
        with open_store() as store:
            handled = Counter(
                (entry.sender, entry.name.split()[0]) for entry in everything(store, Kind.CURSOR)
            )
        assert (len(handled), {*handled.values()}) == (2 * (self.mails // 10), {1})

    def test_sigkill_before_a_mail_was_answered(
        self, open_store: OpenStore, peers: Sequence[StoreProcess]
    ) -> None:
        """It comes again, and is not handled again."""
        victim, survivor = peers
        victim.start(inbox.handle_and_wait, SENDER)
        assert victim.item() == 1
        victim.kill()
        assert survivor.call(inbox.handle, [SENDER], 1, "survivor") == 0
        with open_store() as store:
            assert [entry.name for entry in everything(store, Kind.CURSOR)] == ["0 killed"]

    def test_a_write_of_another_process_survives(
        self, store: StateStorage, peers: Sequence[StoreProcess]
    ) -> None:
        """What another process wrote without a conversation stays; this mail comes again."""
        fill(store, [(MODULE, SENDER, "ONE")])
        with refused(store, SENDER):
            peers[0].call(tasks.do, "set_all", SENDER, "BANNED")
            assert store.get(MODULE, SENDER) == "ONE"
            store.set(MODULE, SENDER, "TWO")
        assert contents(store) == {(MODULE, SENDER): "BANNED"}

    def test_forked_child(self, store: StateStorage, peers: Sequence[StoreProcess]) -> None:
        """A child that is forked inside is outside, cannot get in, and ends nothing."""
        seen, status = peers[0].call(mails.fork_inside, SENDER)
        assert seen == f"None {ROUTE_FIRST_STATE} False True"
        assert status == 0
        assert contents(store) == {(MODULE, SENDER): "PARENT", ("child", SENDER): "CHILD"}
        assert peers[1].call(mails.can_enter, [SENDER, OTHER]) == [True, True]
        assert peers[0].call(mails.can_enter, [SENDER, OTHER]) == [True, True]

    def test_a_child_that_closes_its_store(self, peers: Sequence[StoreProcess]) -> None:
        """It gives nothing back of what its parent has."""
        peers[0].call(mails.enter, SENDER)
        status = peers[0].call(mails.close_in_a_child)
        alone = peers[1].call(mails.can_enter, [SENDER])
        peers[0].call(mails.leave)
        assert (status, alone) == (0, [False]), "the child has given the lock back"

    def test_a_child_that_stays(self, peers: Sequence[StoreProcess]) -> None:
        """A child that is forked inside keeps nobody out when its parent has left."""
        peers[0].call(mails.leave_a_child, SENDER)
        found = peers[1].call(mails.can_enter, [SENDER])
        peers[0].call(mails.end_children)
        assert found == [True], "the child has the lock"
