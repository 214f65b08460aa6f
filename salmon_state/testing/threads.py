"""ThreadSuite: one store, many threads."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from salmon_state.entries import Entry, Kind, Where, Write
from salmon_state.errors import StorageUnavailable
from salmon_state.storage import StateStorage
from salmon_state.testing import stopping
from salmon_state.testing.descriptors import open_files
from salmon_state.testing.keys import MODULE, SENDER
from salmon_state.testing.meetings import MEETINGS
from salmon_state.testing.moments import meet_at_each_moment
from salmon_state.testing.processes import PATIENCE
from salmon_state.testing.suite import NOON, StoreSuite, contents, everything, fill, write
from salmon_state.testing.tasks import win

__all__ = ["ThreadSuite", "ending", "pause", "run_together"]


def run_together(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Runs jobs in threads that start at a barrier; returns their results in the same order.

    Raises:
        AssertionError: A thread did not end; it is left behind as a daemon.
        Exception: The first error of a job.
    """
    barrier = threading.Barrier(len(jobs))
    results: dict[int, Any] = {}
    errors: list[BaseException] = []

    def run(number: int, job: Callable[[], Any]) -> None:
        try:
            barrier.wait(PATIENCE)
            results[number] = job()
        except BaseException as error:  # noqa: BLE001 - it is raised again by the main thread
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(number, job), daemon=True)
        for number, job in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error  # a broken barrier is only what came of another thread's error
    assert not any(thread.is_alive() for thread in threads), "threads are stuck in the store"
    return [results[number] for number in range(len(jobs))]


@contextmanager
def ending(meeting: threading.Barrier) -> Iterator[None]:
    """Gives a block whose failure ends a meeting: nobody waits in vain for its thread."""
    try:
        yield
    except BaseException:
        meeting.abort()
        raise


@contextmanager
def pause(store: StateStorage) -> Iterator[None]:
    """Gives a block in which nobody else writes; skips the test if the store cannot do that."""
    with ExitStack() as stack:
        try:
            stack.enter_context(store.paused())
        except NotImplementedError:
            pytest.skip("left out: it cannot keep others from writing")
        yield


_WRITES: tuple[Callable[[StateStorage], object], ...] = (
    lambda store: store.set(MODULE, SENDER, "WRITTEN"),
    lambda store: store._claim(Kind.OUTGOING, NOON, 9),
    lambda store: store._sweep(Kind.OUTGOING, Where(name="due"), b"changed"),
    lambda store: store.clear(),
)


def _try(call: Callable[[StateStorage], object], store: StateStorage) -> None:
    with suppress(StorageUnavailable):
        call(store)


class ThreadSuite(StoreSuite):
    """Every store that may be used by the threads of one process.

    Attributes:
        threads: How many start together.
        sets: How many states each of them sets; at least 10.
        thread_moments: At how many moments of a call another thread comes, at most 16, and at as
            many between the lines of the store's own class.
    """

    threads = 8
    sets = 40
    thread_moments = 4

    @pytest.fixture(autouse=True)
    def _quick_switches(self) -> Iterator[None]:
        """Makes Python change threads a hundred times as often, where races would hide."""
        usual = sys.getswitchinterval()
        sys.setswitchinterval(5e-5)
        yield
        sys.setswitchinterval(usual)

    @pytest.mark.parametrize("meeting", MEETINGS)
    def test_threads_meet(self, store: StateStorage, meeting: str) -> None:
        """A thread that comes at any moment of another one's call finds it not begun, or done."""
        meet_at_each_moment(MEETINGS[meeting], store, store, self.thread_moments)

    def test_sets_of_different_senders(self, store: StateStorage) -> None:
        """No set is lost, and each thread reads its own at once."""

        def work(thread: int) -> None:
            for number in range(self.sets):
                sender = f"{thread}.{number}@x"
                store.set(MODULE, sender, f"S{number}")
                assert store.get(MODULE, sender) == f"S{number}"

        run_together([partial(work, thread) for thread in range(self.threads)])
        assert contents(store) == {
            (MODULE, f"{thread}.{number}@x"): f"S{number}"
            for thread in range(self.threads)
            for number in range(self.sets)
        }
        assert len(store) == self.threads * self.sets

    def test_sets_of_one_sender(self, store: StateStorage) -> None:
        """Every state read is one that somebody set; the last one stays, once."""
        possible = {f"S{thread}" for thread in range(self.threads)}

        def work(thread: int) -> None:
            for _ in range(self.sets):
                store.set(MODULE, SENDER, f"S{thread}")
                assert store.get(MODULE, SENDER) in possible

        run_together([partial(work, thread) for thread in range(self.threads)])
        assert len(store) == 1
        assert contents(store)[MODULE, SENDER] in possible

    def test_set_and_remove(self, store: StateStorage) -> None:
        """Setting and removing side by side leaves the conversation set or gone, never half."""

        def work(thread: int) -> None:
            for number in range(self.sets):
                store.set(f"module{number % 3}", SENDER, f"S{thread}" if number % 2 else "START")
                store.set_all(SENDER, "BANNED" if thread % 2 else "START")

        run_together([partial(work, thread) for thread in range(self.threads)])
        found = contents(store)
        assert len(store) == len(found)
        assert contents(store, sender=SENDER) == found
        assert store.set_all(SENDER, "START") == len(found)
        assert contents(store) == {}

    def test_threads_win_each_step_once(self, store: StateStorage) -> None:
        """Threads count up with compare_and_set: the steps they won add up exactly."""
        won = run_together([lambda: win(store, MODULE, SENDER, 100)] * self.threads)
        assert sum(won) == 100
        assert store.get(MODULE, SENDER) == "100"

    def test_threads_leave_nothing_behind(self, store: StateStorage) -> None:
        """No file stays open that a thread has opened, however many there were."""
        files = []
        before = open_files()
        for number in range(9):
            run_together([partial(store.set, MODULE, SENDER, f"S{number}")])
            files.append(len(open_files() - before))
        assert files[-1] <= files[2], f"files and sockets that are open: {files}"

    def test_a_pause(self, store: StateStorage) -> None:
        """Whoever writes meanwhile waits until it is over, or is told that it cannot."""
        due = Entry(Kind.OUTGOING, SENDER, "due", b"mail", 1)
        write(store, [Write(*due)])
        writers = [threading.Thread(target=_try, args=(c, store), daemon=True) for c in _WRITES]
        with pause(store):
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join(2 * stopping.BLINK)  # it waits; or it does not yet, which is as right
            found = store.get(MODULE, SENDER), everything(store, Kind.OUTGOING)
        assert found == ("START", [due]), "somebody wrote in a pause"
        for writer in writers:
            writer.join(PATIENCE)
            assert not writer.is_alive(), "a writer still waits after a pause"

    def test_a_pause_that_fails(self, store: StateStorage) -> None:
        """It is over as well, and others write."""
        with suppress(ZeroDivisionError), pause(store):
            raise ZeroDivisionError
        run_together([partial(store.set, MODULE, SENDER, "ONE")])
        assert store.get(MODULE, SENDER) == "ONE"

    def test_records_beside_writes(self, store: StateStorage) -> None:
        """Whoever iterates finds each conversation that nobody touches exactly once."""
        untouched = [f"{number}@x" for number in range(600)]
        fill(store, [(MODULE, sender, "POSTING") for sender in untouched])
        meeting = threading.Barrier(3)
        ended = threading.Event()

        def write() -> None:
            with ending(meeting):
                meeting.wait(PATIENCE)  # both readers are in the middle
                for number in range(self.sets):
                    store.set(MODULE, f"new{number}@x", "POSTING")
                    if number == 9:
                        meeting.wait(PATIENCE)
            ended.set()

        def read(met: bool) -> None:
            seen: Counter[str | None] = Counter()
            for record in store:
                seen[record.sender] += 1
                if not met:
                    meeting.wait(PATIENCE)
                    meeting.wait(PATIENCE)  # ten states were set meanwhile
                    met = True
            assert all(seen[sender] == 1 for sender in untouched)
            assert max(seen.values()) == 1

        def read_on() -> None:
            with ending(meeting):
                read(met=False)
                while not (ended.is_set() or meeting.broken):
                    read(met=True)

        run_together([write, read_on, read_on])
        assert len(store) == len(untouched) + self.sets
