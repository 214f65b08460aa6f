"""SharedSuite: several processes have the store open at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

import pytest
from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.entries import Entry, Kind, Write
from salmon_state.errors import StorageUnavailable
from salmon_state.storage import StateStorage
from salmon_state.testing import stopping, tasks
from salmon_state.testing.children import call_in_child, left_open
from salmon_state.testing.churn import SharedChurnTests
from salmon_state.testing.forking import fork_while_opening, fork_while_writing
from salmon_state.testing.histories import explain, read_all, record_history
from salmon_state.testing.keys import HOSTILE_KEYS, MODULE, SENDER
from salmon_state.testing.meetings import MEETINGS
from salmon_state.testing.moments import Meeting, meet_at_each_moment
from salmon_state.testing.processes import StoreProcess, store_processes
from salmon_state.testing.suite import NOON, OpenStore, contents, everything
from salmon_state.testing.threads import pause

__all__ = ["SharedSuite"]


class SharedSuite(SharedChurnTests):
    """A store that processes share: what one has set, the others read at once.

    Attributes:
        writers: How many processes start together.
        writes: How many states each of them sets.
        kills_beside_others: How many processes are killed while another one writes.
        steps_won: How far they count together with `compare_and_set`.
        histories: For how many senders it is recorded what all processes do to them.
        steps_recorded: How many things each process does to each of these senders.
        moments: At how many moments of a call another store comes, at most 16.
        forks: At how many moments of opening the store another thread forks, at most 16.
        fork_seconds: After how many seconds a forked child is taken to be stuck, and is killed.
    """

    writers = 3
    writes = 100
    steps_won = 100
    kills_beside_others = 2
    histories = 2
    steps_recorded = 40
    moments = 8
    forks = 4
    fork_seconds = 60

    @pytest.fixture
    def others(self, open_store: OpenStore) -> Iterator[Sequence[StoreProcess]]:
        """The other processes, each with the store open."""
        with store_processes(open_store, self.writers) as others:
            yield others

    @pytest.mark.parametrize("meeting", MEETINGS)
    def test_stores_meet(self, open_store: OpenStore, meeting: str) -> None:
        """A store that comes at any moment of another one's call finds it not begun, or done."""
        with open_store() as one, open_store() as two:
            meet_at_each_moment(MEETINGS[meeting], one, two, self.moments)

    def test_a_store_is_opened_beside_a_commit(self, open_store: OpenStore) -> None:
        """Whoever opens it at any moment takes nothing away of what is being written."""
        with open_store() as one, open_store() as two:
            meet_at_each_moment(partial(_opening, open_store), one, two, self.moments)

    def test_a_child_leaves_nothing_open(self, others: Sequence[StoreProcess]) -> None:
        """A forked child has no more files and sockets open the more calls it makes."""
        more = others[0].call(call_in_child, left_open)
        assert more <= 0, f"after a hundred calls a child has more files open: {more}"

    def test_forks_while_another_thread_opens(
        self, open_store: OpenStore, others: Sequence[StoreProcess]
    ) -> None:
        """Each child can use the store and open it anew, and its parent goes on."""
        self._check_forks(fork_while_opening, open_store, others[0])

    def test_forks_while_another_thread_writes(
        self, open_store: OpenStore, others: Sequence[StoreProcess]
    ) -> None:
        """The same, wherever in the store that thread is, and whatever it holds."""
        self._check_forks(fork_while_writing, open_store, others[0])

    def _check_forks(
        self, fork: Callable[..., list[int]], open_store: OpenStore, other: StoreProcess
    ) -> None:
        ended = other.call(fork, open_store, self.forks, self.fork_seconds)
        assert ended == [0] * self.forks, f"forked children ended with {ended}"
        with open_store() as store:
            for number in range(self.forks):
                assert store.get(MODULE, f"child{number}@x") == "CHILD"
                assert store.get(MODULE, f"parent{number}@x") == "PARENT"

    def test_no_set_is_lost(self, open_store: OpenStore, others: Sequence[StoreProcess]) -> None:
        """Processes that write at the same time find all of each other's states."""
        jobs = [
            [(MODULE, f"{writer}.{number}@x", f"S{number}") for number in range(self.writes)]
            for writer in range(self.writers)
        ]
        for other, job in zip(others, jobs, strict=True):
            other.start(tasks.set_many, job)
        for other in others:
            other.result()
        with open_store() as store:
            expected = {(module, sender): state for job in jobs for module, sender, state in job}
            assert contents(store) == expected
            assert len(store) == self.writers * self.writes

    def test_processes_win_each_step_once(
        self, open_store: OpenStore, others: Sequence[StoreProcess]
    ) -> None:
        """Processes count up with compare_and_set: the steps they won add up exactly."""
        for other in others:
            other.start(tasks.win, MODULE, SENDER, self.steps_won)
        assert sum(other.result() for other in others) == self.steps_won
        with open_store() as store:
            assert store.get(MODULE, SENDER) == str(self.steps_won)

    def test_a_set_is_read_at_once(
        self, open_store: OpenStore, others: Sequence[StoreProcess]
    ) -> None:
        """As soon as `set` has returned, every process reads the new state, again and again."""
        with open_store() as store:
            for step in range(10):
                state = ROUTE_FIRST_STATE if step % 4 == 3 else f"S{step}"
                others[step % 2].call(tasks.do, "set", MODULE, SENDER, state)
                assert store.get(MODULE, SENDER) == state
                for other in others:
                    assert other.call(tasks.do, "get", MODULE, SENDER) == state
                    assert other.call(tasks.do, "__len__") == (state != ROUTE_FIRST_STATE)

    def test_changes_of_many_are_seen(
        self, open_store: OpenStore, others: Sequence[StoreProcess]
    ) -> None:
        """`set_all`, `rename`, `compare_and_set` and `clear` work on the others' states."""
        writer, changer, *_ = others
        keys = [("one", "a@x"), ("two", "a@x"), ("one", "b@x")]
        writer.call(tasks.set_many, [(*key, "A") for key in keys])
        with open_store() as store:

            def seen() -> list[str]:
                states = [store.get(*key) for key in keys]
                assert writer.call(tasks.get_many, keys) == states
                return states

            assert changer.call(tasks.do, "set_all", "a@x", "B") == 2
            assert seen() == ["B", "B", "A"]
            assert changer.call(tasks.do, "rename", "one", "A", "C") == 1
            assert seen() == ["B", "B", "C"]
            assert changer.call(tasks.do, "compare_and_set", "two", "a@x", "B", "D") is True
            assert seen() == ["B", "D", "C"]
            assert store.compare_and_set("two", "a@x", "B", "E") is False
            changer.call(tasks.do, "clear")
            assert seen() == [ROUTE_FIRST_STATE] * 3
            assert len(store) == 0

    def test_one_order_explains_what_all_saw(
        self, open_store: OpenStore, others: Sequence[StoreProcess]
    ) -> None:
        """Each method, and each commit of a conversation, happens at one moment of its call.

        `set_all` is the one that tempts a store to do a part of it before another process writes,
        and the rest afterwards.
        """
        for number in range(self.histories):
            sender = f"{number}@x"
            for who, other in enumerate(others):
                other.start(record_history, sender, who, self.steps_recorded)
            histories = [other.result() for other in others]
            with open_store() as store:  # of steps at the end that overlap, this says the last
                histories.append([read_all(store, sender)])
            explain(histories)

    def test_hostile_keys_are_the_same_for_all(self, others: Sequence[StoreProcess]) -> None:
        """A key that one process wrote is the key that another one looks up and lists."""
        writer, reader, *_ = others
        states = [(module, sender, f"S{n}") for n, (module, sender) in enumerate(HOSTILE_KEYS)]
        writer.call(tasks.set_many, states)
        assert reader.call(tasks.get_many, HOSTILE_KEYS) == [state for *_, state in states]
        found = {tuple(record[:3]) for record in reader.call(tasks.read)}
        assert found == set(states)

    def test_a_pause_of_another_process(
        self, open_store: OpenStore, others: Sequence[StoreProcess]
    ) -> None:
        """Whoever writes or claims meanwhile waits until it is over, or is told that it cannot."""
        due = Entry(Kind.OUTGOING, SENDER, "due", b"mail", 1)
        as_before = ROUTE_FIRST_STATE, [due]
        with open_store() as store:
            store._commit([Write(*due)])
            with pause(store):
                others[0].start(tasks.do, "set", MODULE, SENDER, "ONE")
                others[1].start(tasks.do, "_claim", Kind.OUTGOING, NOON, 9)
                end = time.monotonic() + 10 * stopping.BLINK
                found = as_before
                while found == as_before and time.monotonic() < end:
                    found = store.get(MODULE, SENDER), everything(store, Kind.OUTGOING)
                    time.sleep(stopping.BLINK / 4)
            for other in others[:2]:
                with suppress(StorageUnavailable):
                    other.result()
            assert found == as_before, "somebody wrote in a pause"

    def test_instances_in_one_process(self, open_store: OpenStore) -> None:
        """Two stores at one place in the same process are one store."""
        with open_store() as one, open_store() as two:
            for step in range(5):
                one.set(MODULE, SENDER, f"S{step}")
                assert two.get(MODULE, SENDER) == f"S{step}"
                assert two.compare_and_set(MODULE, SENDER, f"S{step}", "ANSWERED")
                assert one.get(MODULE, SENDER) == "ANSWERED"
            one.close()
            two.set(MODULE, SENDER, "ALONE")
            assert contents(two) == {(MODULE, SENDER): "ALONE"}

    def test_a_killed_process_stops_nobody(
        self, open_store: OpenStore, others: Sequence[StoreProcess]
    ) -> None:
        """Whatever a process held when it was killed, the others read and write on."""
        survivor = others[0]
        for kill in range(self.kills_beside_others):
            states = [(f"survivor{kill}", f"{number}@x", "POSTING") for number in range(30)]
            with store_processes(open_store, 1) as (victim,):
                victim.start(tasks.set_forever, f"victim{kill}", 3)
                victim.item()
                survivor.start(tasks.set_many, states)
                victim.kill_after(10, (kill + 1) / (self.kills_beside_others + 1))
            survivor.result()
            with open_store() as store:
                expected = {(module, sender): state for module, sender, state in states}
                assert contents(store, module=f"survivor{kill}") == expected
                assert store.get(f"victim{kill}", "0@x") != ROUTE_FIRST_STATE
                for sender in ("0@x", "1@x", "2@x"):  # one of them was in hand
                    store.set(f"victim{kill}", sender, "AFTERWARDS")
                    assert store.get(f"victim{kill}", sender) == "AFTERWARDS"


def _opening(
    open_store: OpenStore, store: StateStorage, other: StateStorage, number: int
) -> Meeting:
    sender = f"opening{number}@x"

    def open_and_read() -> str:
        with open_store() as opened:
            return opened.get(MODULE, sender)

    def check(_: object, seen: str) -> None:
        assert seen in (ROUTE_FIRST_STATE, "ONE"), f"whoever opened the store read {seen}"
        states = [each.get(MODULE, sender) for each in (store, other)]
        assert states == ["ONE", "ONE"], f"what was set is lost: it is {states}"

    return Meeting(lambda: store.set(MODULE, sender, "ONE"), open_and_read, check)
