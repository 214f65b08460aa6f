"""The part of the conversation's contract about its lock, between threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import chain

import pytest
from salmon.routing import ROUTE_FIRST_STATE
from salmon.server import SMTPError

from salmon_state.entries import EVERY, Entry, Kind, Write
from salmon_state.errors import ConversationBusy
from salmon_state.keys import Sender
from salmon_state.storage import StateStorage
from salmon_state.testing import stopping
from salmon_state.testing.endings import elsewhere, refused
from salmon_state.testing.keys import HOSTILE_KEYS, MODULE, OTHER, SENDER, SHORT_DIGESTS
from salmon_state.testing.mails import (
    RING,
    can_enter,
    held_by_another_thread,
    time_to_refuse,
    walk,
)
from salmon_state.testing.processes import PATIENCE
from salmon_state.testing.suite import StoreSuite, contents, write
from salmon_state.testing.threads import ending, run_together

__all__ = ["LockTests", "check_ring"]


def check_ring(entered: Counter[str], mails: int) -> None:
    """Fails unless every state of the ring was entered as often as so many mails enter it."""
    rounds, rest = divmod(mails, len(RING))
    expected = {RING[step]: rounds + (1 <= step <= rest) for step in range(len(RING))}
    assert entered == Counter(expected)


class LockTests(StoreSuite):
    """Senders' locks, in every store.

    Attributes:
        walkers: How many threads handle mails of one sender.
        walker_steps: How many mails each of them handles.
        crowd: How many senders are in conversations at the same time; no more than the store has
            connections, if it has some.
        late_after: After how many seconds somebody who waited a moment is taken to wait for ever.
        tries: How often it is looked whether somebody who does not wait is told first.
    """

    walkers = 4
    walker_steps = 50
    crowd = 5
    late_after = 60.0
    tries = 3

    @pytest.mark.parametrize("timeout", [0, 0.05])
    def test_busy(self, store: StateStorage, timeout: float) -> None:
        """A lock that is not won in time is an error that makes the mail come again."""
        with held_by_another_thread(store, SENDER):
            with (
                pytest.raises(ConversationBusy) as caught,
                store.conversation(SENDER, timeout=timeout),
            ):
                raise AssertionError("it was entered")
            assert store.get(MODULE, SENDER) == ROUTE_FIRST_STATE  # as a read outside
        assert caught.value.code == 451
        assert str(caught.value) == "451 4.3.0 Conversation busy, try again later"
        with store.conversation(SENDER, timeout=0):
            pass

    def test_a_wait_is_as_long_as_was_said(self, store: StateStorage) -> None:
        """Whoever does not get the lock is told when the time is over, and not before.

        Neither do others prolong it, who have their turn with another sender meanwhile.
        """
        waited: list[float] = []
        end = time.monotonic() + self.late_after

        def wait() -> None:
            with suppress(Exception):  # it may enter after all, when this has failed
                waited.append(time_to_refuse(store, SENDER, 0.3))

        thread = threading.Thread(target=wait, daemon=True)
        with held_by_another_thread(store, SENDER):
            thread.start()
            while thread.is_alive() and time.monotonic() < end:
                with store.conversation(OTHER):  # and whoever waits may be woken when it is left
                    thread.join(0.01)
            assert waited, f"nobody was told within {self.late_after:g} s that 0.3 s are over"
            assert waited[0] > 0.25, f"somebody who may wait for 0.3 s was told after {waited[0]} s"

    def test_0_seconds_are_no_wait(self, store: StateStorage) -> None:
        """Whoever does not wait is told before somebody who came earlier and waits."""
        told_first = False
        for _ in range(self.tries):  # this thread may be the one that stands still for a moment
            begun, told = threading.Event(), threading.Event()
            wait = partial(_wait_and_tell, store, begun, told)
            with held_by_another_thread(store, SENDER):
                threading.Thread(target=wait, daemon=True).start()
                begun.wait(PATIENCE)
                assert can_enter(store, [SENDER], 0) == [False]
                told_first = not told.is_set()
            told.wait(PATIENCE)
            if told_first:
                break
        assert told_first, "whoever may wait for 0 s was told after somebody who waited for 1.5 s"

    def test_the_next_one_has_it_alone(self, store: StateStorage) -> None:
        """Whoever waited keeps out those who come when the first one has left."""
        entered, leave = threading.Event(), threading.Event()

        def wait() -> None:
            with store.conversation(SENDER, timeout=PATIENCE):
                entered.set()
                leave.wait(PATIENCE)

        thread = threading.Thread(target=wait, daemon=True)
        with store.conversation(SENDER):
            thread.start()
            time.sleep(stopping.BLINK)  # it waits by now; or it does not, which is as right
        try:
            assert entered.wait(PATIENCE), "nobody enters when the first one has left"
            assert can_enter(store, [SENDER]) == [False], "two are inside at the same time"
        finally:
            leave.set()
            thread.join(PATIENCE)

    def test_waiting_wins(self, store: StateStorage) -> None:
        """Whoever waits enters when the other one has left, and reads what it committed."""
        order: list[str] = []
        entered, waiting = threading.Event(), threading.Event()

        def first() -> None:
            with store.conversation(SENDER):
                entered.set()
                waiting.wait(PATIENCE)
                order.append("first")
                store.set(MODULE, SENDER, "ONE")

        def second() -> str:
            entered.wait(PATIENCE)
            waiting.set()
            with store.conversation(SENDER, timeout=PATIENCE):
                order.append("second")
                return store.get(MODULE, SENDER)

        _, seen = run_together([first, second])
        assert (order, seen) == (["first", "second"], "ONE")

    def test_the_lock_of_another_thread_stays(self, store: StateStorage) -> None:
        """Whoever leaves gives back what it has, and nobody else's."""
        with held_by_another_thread(store, OTHER):
            with store.conversation(SENDER):
                store.set(MODULE, SENDER, "ONE")
            assert can_enter(store, [SENDER, OTHER]) == [True, False]

    @pytest.mark.parametrize("end", ["normal", "rollback", "busy"])
    def test_the_lock_ends_with_the_conversation(self, store: StateStorage, end: str) -> None:
        """However it is left."""
        try:
            with store.conversation(SENDER):
                store.set(MODULE, SENDER, "ONE")
                if end == "rollback":
                    raise SMTPError(451)
                if end == "busy":
                    elsewhere(store.set, MODULE, SENDER, "TWO")
        except SMTPError:
            pass
        assert elsewhere(can_enter, store, [SENDER]) == [True]

    def test_a_lock_that_is_given_back_late(self, store: StateStorage) -> None:
        """After `close` that is harmless, as it is when a conversation is in hand then."""
        locks = [store._lock(sender, 0) for sender in (SENDER, OTHER)]
        locks[0].release()
        store.close()
        locks[1].release()

    @pytest.mark.parametrize("lost", [SENDER, OTHER])
    def test_a_lease_that_somebody_took_over(self, store: StateStorage, lost: str) -> None:
        """If the lock is an entry, whoever has lost it cannot commit, and leaves it as it is.

        So it is with each of several locks, of which another one is still held.
        """
        lease: list[Entry] = []

        def take_over() -> None:
            lease.extend(entry._replace(value=b"others") for entry in _leases(store, lost))
            write(store, [Write(*entry) for entry in lease])

        with store.conversation(SENDER):
            is_entry = bool(_leases(store, SENDER))
        with refused(store, SENDER) if is_entry else store.conversation(SENDER):
            store.set(MODULE, SENDER, "ONE")
            with store.conversation(OTHER):
                store.get(MODULE, OTHER)
            elsewhere(take_over)
        assert _leases(store, lost) == lease
        assert store.get(MODULE, SENDER) == (ROUTE_FIRST_STATE if is_entry else "ONE")

    def test_senders_do_not_wait_for_each_other(self, store: StateStorage) -> None:
        """All are inside at the same time, hostile names included."""
        names = [sender for sender in dict.fromkeys(s for _, s in HOSTILE_KEYS) if sender]
        names += [*self.long_texts, *chain.from_iterable(SHORT_DIGESTS)]
        for start in range(0, len(names), self.crowd):
            crowd = names[start : start + self.crowd]
            meeting = threading.Barrier(len(crowd))
            run_together([partial(_meet, store, sender, meeting) for sender in crowd])

    @pytest.mark.parametrize("null", [None, ""])
    def test_the_null_sender_is_nobody(self, store: StateStorage, null: Sender) -> None:
        """Two conversations with it are inside at the same time; both commit."""
        meeting = threading.Barrier(2)
        run_together([partial(_meet, store, null, meeting)] * 2)
        assert contents(store) == {(MODULE, null): "MET"}

    def test_mails_of_one_sender(self, store: StateStorage) -> None:
        """Threads move one sender round: every state is entered exactly as often as it must."""
        jobs = [partial(walk, store, [SENDER], self.walker_steps, 0.5)] * self.walkers
        check_ring(sum(run_together(jobs), Counter()), self.walker_steps * self.walkers)
        assert store.get(MODULE, SENDER) == RING[self.walker_steps * self.walkers % len(RING)]

    def test_mails_of_many_senders(self, store: StateStorage) -> None:
        """The same for ten senders whose mails come mixed."""
        senders = [f"{number}@x" for number in range(10)]
        run_together([partial(walk, store, senders, 5, 0.5)] * self.walkers)
        expected = RING[5 * self.walkers % len(RING)]
        assert [store.get(MODULE, sender) for sender in senders] == [expected] * 10

    def test_crossing_conversations_do_not_wait(self, store: StateStorage) -> None:
        """Two that want each other's sender as well: none waits, so none waits for ever."""
        inside, tried = threading.Barrier(2), threading.Barrier(2)

        def cross(own: str, other: str) -> bool:
            with store.conversation(own):
                inside.wait(PATIENCE)
                [entered] = can_enter(store, [other], PATIENCE)
                tried.wait(PATIENCE)
                store.set(MODULE, own, "ONE")
                return entered

        assert run_together([lambda: cross("a@x", "b@x"), lambda: cross("b@x", "a@x")]) == [
            False,
            False,
        ]
        assert contents(store) == {(MODULE, "a@x"): "ONE", (MODULE, "b@x"): "ONE"}


def _leases(store: StateStorage, sender: str) -> list[Entry]:
    return store._load(sender, [(Kind.LEASE, EVERY)])


def _wait_and_tell(store: StateStorage, begun: threading.Event, told: threading.Event) -> None:
    begun.set()
    can_enter(store, [SENDER], 1.5)
    told.set()


def _meet(store: StateStorage, sender: Sender, meeting: threading.Barrier) -> None:
    with ending(meeting), store.conversation(sender, timeout=0):
        meeting.wait(PATIENCE)
        store.set(MODULE, sender, "MET")
