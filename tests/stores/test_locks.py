"""Locks in a file: one byte for each sender, between threads and between processes."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from salmon_state import (
    ConfigurationError,
    ConversationBusy,
    ShelveStorage,
    StorageUnavailable,
    open_storage,
)
from salmon_state.stores import locks as locks_module
from salmon_state.stores.locks import FileLocks, FileQueue
from salmon_state.stores.sqlalchemy.databases import sqlite_patience
from salmon_state.testing.endings import elsewhere
from salmon_state.testing.keys import HOSTILE_KEYS
from salmon_state.testing.processes import StoreProcess, store_processes
from salmon_state.testing.threads import run_together
from tests.forking import fork

ANNA, BEN = "anna@example.com", "ben@example.com"
HANG = 60.0


class LockFile(FileLocks):
    """Can be opened and closed by the kit's processes like a store."""

    def try_all(self, senders: list[str]) -> list[bool]:
        return [try_one(self, sender) for sender in senders]


def try_one(locks: FileLocks, sender: str | None, timeout: float = 0) -> bool:
    """Returns whether a lock can be won."""
    try:
        release = locks.acquire(sender, timeout)
    except ConversationBusy:
        return False
    release()
    return True


def hold(locks: FileLocks, sender: str) -> Iterator[int]:
    """Wins a lock, tells so, and dies with it."""
    locks.acquire(sender, HANG)
    yield os.getpid()
    signal.pause()


def fork_with(locks: FileLocks, sender: str) -> tuple[bool, bool]:
    """Returns whether a child gets the lock of its parent, and another one."""
    release = locks.acquire(sender, 0)
    child = fork()
    if child == 0:
        found = try_one(locks, sender), try_one(locks, f"another.{sender}")
        os._exit(found[0] + 2 * found[1])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert not elsewhere(try_one, locks, sender)  # the end of the child ended nothing
    release()
    return bool(status & 1), bool(status & 2)


def wait_and_die(locks: FileLocks, sender: str) -> Iterator[str]:
    """Tells when the lock was won; whoever waits for it is killed before."""
    yield "begins"
    locks.acquire(sender, HANG)()
    yield "won"


def enter_and_count(locks: FileLocks, sender: str, log: Path, rounds: int, others: int) -> None:
    """Wins a lock again and again, and writes down who had it."""
    for left in reversed(range(rounds)):
        release = locks.acquire(sender, HANG)
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        if left:
            await_waiting(locks._path, sender, others)
        release()


def old_version(path: str, sender: str) -> None:
    """What version 0.1 does with the lock of a sender, which it wins if it can."""
    with open(path, "r+b") as file:
        offset = locks_module._offset(sender)
        flock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, flock)


def first_place(queue: int) -> int:
    return locks_module._FIRST_QUEUE + queue // locks_module._PLACES * locks_module._PLACES


def count_waiting(path: Path, sender: str | int) -> int:
    """Returns how many have a place in the queue of a sender, or in another one."""
    first = first_place(sender if isinstance(sender, int) else locks_module._offset(sender))
    place, count = first, 0
    with open(path, "r+b") as file:
        while (
            found := locks_module._find_lock(file.fileno(), place, first + locks_module._PLACES)
        ) is not None:
            place, count = found + 1, count + 1
    return count


def await_waiting(path: Path, sender: str | int, count: int) -> None:
    while count_waiting(path, sender) != count:
        time.sleep(0.001)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "states.db.conversations"


@pytest.fixture
def locks(path: Path) -> Iterator[FileLocks]:
    locks = FileLocks(path)
    yield locks
    locks.close()


@pytest.fixture
def other(path: Path) -> Iterator[StoreProcess]:
    """Another process, with the same file."""
    with store_processes(partial(LockFile, path), 1) as (process,):  # type: ignore[arg-type]
        yield process


def test_one_at_a_time(locks: FileLocks) -> None:
    release = locks.acquire(ANNA, 0)
    assert not elsewhere(try_one, locks, ANNA)
    assert not elsewhere(try_one, locks, ANNA, 0.01)
    assert elsewhere(try_one, locks, BEN)
    release()
    assert elsewhere(try_one, locks, ANNA)


def test_two_instances_in_one_process(locks: FileLocks, path: Path) -> None:
    same = FileLocks(path)
    with ExitStack() as stack:
        stack.callback(same.close)
        release = locks.acquire(ANNA, 0)
        assert not try_one(same, ANNA)
        assert not try_one(same, ANNA, 0.02)
        assert try_one(same, BEN)
        release()
        assert try_one(same, ANNA)


def test_closing_one_instance_frees_no_lock_of_another(locks: FileLocks, path: Path) -> None:
    """As POSIX's own locks would, which end with any descriptor of the file."""
    release = locks.acquire(ANNA, 0)
    for _ in range(3):
        same = FileLocks(path)
        assert not try_one(same, ANNA)
        same.close()
    same = FileLocks(path)
    assert not try_one(same, ANNA)
    same.close()
    release()


def test_another_process(locks: FileLocks, other: StoreProcess) -> None:
    release = locks.acquire(ANNA, 0)
    assert other.call(try_one, ANNA) is False
    assert other.call(try_one, BEN) is True
    other.start(try_one, ANNA, HANG)
    release()
    assert other.result() is True


def test_waiting_for_another_process(locks: FileLocks, other: StoreProcess) -> None:
    other.start(hold, ANNA)
    other.item()
    assert not try_one(locks, ANNA, 0.05)
    won: list[bool] = []
    waiting = threading.Thread(target=lambda: won.append(try_one(locks, ANNA, HANG)))
    waiting.start()
    other.kill()  # SIGKILL: the kernel frees it
    waiting.join(HANG)
    assert won == [True]


def test_those_who_wait_are_served_in_the_order_in_which_they_came(
    locks: FileLocks, path: Path
) -> None:
    """Threads of several instances as well; whoever comes again comes last."""
    same = FileLocks(path)
    served: list[int] = []

    def work(number: int, which: FileLocks) -> None:
        for _ in range(2):
            release = which.acquire(ANNA, HANG)
            served.append(number)
            if len(served) <= 5:  # it comes again when all the others wait
                await_waiting(path, ANNA, 4)
            release()

    release = locks.acquire(ANNA, 0)
    with ThreadPoolExecutor(5) as threads:
        jobs = []
        for number in range(5):
            jobs.append(threads.submit(work, number, (locks, same)[number % 2]))
            await_waiting(path, ANNA, number + 1)
        assert not try_one(locks, ANNA)
        release()
        for job in jobs:
            job.result(HANG)
    same.close()
    assert served == [*range(5), *range(5)]


def test_nobody_gets_in_before_those_who_wait(locks: FileLocks, path: Path) -> None:
    """Not even when the lock is free, for the moment until the first of them looks."""
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "w+b"))
        first = (
            locks_module._FIRST_QUEUE
            + locks_module._offset(ANNA) // locks_module._PLACES * locks_module._PLACES
        )
        assert locks_module._lock_byte(file.fileno(), first + 7)
        assert not try_one(locks, ANNA)
        assert not try_one(locks, ANNA, 0.02)
        assert try_one(locks, BEN)
    assert try_one(locks, ANNA)


def test_a_queue_without_places_left(locks: FileLocks, path: Path) -> None:
    """Whoever comes waits until it is empty, and does not touch the next one."""
    with ExitStack() as stack, ThreadPoolExecutor(1) as another:
        file = stack.enter_context(open(path, "w+b"))
        first = (
            locks_module._FIRST_QUEUE
            + locks_module._offset(ANNA) // locks_module._PLACES * locks_module._PLACES
        )
        last = first + locks_module._PLACES - 1
        assert locks_module._lock_byte(file.fileno(), last)
        assert not try_one(locks, ANNA, 0.02)
        attempt = another.submit(try_one, locks, ANNA, HANG)
        assert locks_module._find_lock(file.fileno(), last, last + 2) is None
        locks_module._unlock_byte(file.fileno(), last)
        assert attempt.result(HANG)


def test_those_who_die_or_give_up_in_the_queue_are_skipped(locks: FileLocks, path: Path) -> None:
    release = locks.acquire(ANNA, 0)
    with (
        store_processes(partial(LockFile, path), 3) as others,  # type: ignore[arg-type]
        ThreadPoolExecutor(2) as threads,
    ):
        for number, other in enumerate(others):
            other.start(wait_and_die, ANNA)
            assert other.item() == "begins"
            await_waiting(path, ANNA, number + 1)
        impatient = threads.submit(try_one, locks, ANNA, 0.05)
        last = threads.submit(try_one, locks, ANNA, HANG)
        assert impatient.result(HANG) is False
        await_waiting(path, ANNA, 4)
        others[1].kill()
        others[0].kill()
        await_waiting(path, ANNA, 2)
        release()
        assert others[2].item() == "won"
        assert last.result(HANG)
        others[2].result()
    assert count_waiting(path, ANNA) == 0


def test_processes_that_come_again_and_again_take_turns(tmp_path: Path, path: Path) -> None:
    """Once all of them wait, each has the lock once before anybody has it again."""
    log = tmp_path / "log"
    rounds = 30
    with store_processes(partial(LockFile, path), 5) as others:  # type: ignore[arg-type]
        for other in others:
            other.start(enter_and_count, ANNA, log, rounds, len(others) - 1)
        for other in others:
            other.result()
    turns = log.read_text().split()
    assert len(set(turns)) == 5
    assert turns == turns[:5] * rounds


SLICES = [
    (locks_module.WRITERS, HANG, True),
    (locks_module.WRITERS, 0.0, False),
    (locks_module.READERS, HANG, False),
]


@pytest.fixture
def slice_(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks_module, "_SLICE", request.param)
    monkeypatch.setattr(locks_module, "_slices", {})  # the path is another test's as well


@pytest.mark.parametrize(("queue", "slice_", "goes_on"), SLICES, indirect=["slice_"])
@pytest.mark.usefixtures("slice_")
def test_a_process_that_waited_writes_on_for_a_moment(
    path: Path, queue: int, goes_on: bool
) -> None:
    free = threading.Event()
    with (
        closing(FileQueue(path)) as before,
        closing(FileQueue(path)) as writer,
        closing(FileQueue(path)) as another,
        ThreadPoolExecutor(1) as threads,
    ):
        with before._place(first_place(queue)):
            turn = threads.submit(writer.in_turn, queue, lambda: free.is_set() or None, HANG)
            await_waiting(path, queue, 2)
            free.set()
            assert not another.may_try(queue)
        assert turn.result(HANG)
        with before._place(first_place(queue)):
            assert another.may_try(queue) is goes_on


@pytest.mark.parametrize(("queue", "slice_", "goes_on"), SLICES, indirect=["slice_"])
@pytest.mark.usefixtures("slice_")
def test_a_process_that_nobody_waits_for_writes_on_for_a_moment(
    path: Path, queue: int, goes_on: bool
) -> None:
    with closing(FileQueue(path)) as writer, closing(FileQueue(path)) as another:
        assert writer.may_try(queue)
        with another._place(first_place(queue)):
            assert writer.may_try(queue) is goes_on


@contextmanager
def locked_database(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def locked_shelf(path: Path) -> Iterator[None]:
    with open(f"{path}.lock", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize(
    ("scheme", "queue", "locked"),
    [
        ("sqlite", "states.conversations", locked_database),
        ("shelve", "states.lock", locked_shelf),
    ],
)
def test_writers_are_served_in_the_order_in_which_they_came(
    tmp_path: Path, scheme: str, queue: str, locked: Callable[[Path], AbstractContextManager[None]]
) -> None:
    """Each expects what the one before it has written.

    The first of SQLite's waits in the file, and the other threads for their turn in memory.
    """
    writers, place = sqlite_patience._turns._turns, str(tmp_path / "states")
    url = f"{scheme}:///{tmp_path}/states"
    steps = ["START", "A", "B", "C", "D", "E"]
    with ExitStack() as stack, ThreadPoolExecutor(5) as threads:
        stores = [stack.enter_context(open_storage(url, timeout=HANG)) for _ in steps]
        stores.pop().set("app", BEN, "POSTING")  # makes the file of the queue
        jobs = []
        with locked(tmp_path / "states"):
            for number, store in enumerate(stores):
                step = steps[number], steps[number + 1]
                jobs.append(threads.submit(store.compare_and_set, "app", ANNA, *step))
                while number + 1 != (
                    count_waiting(tmp_path / queue, locks_module.WRITERS)
                    + len(writers.get(place, ()))
                ):
                    time.sleep(0.001)
        assert [job.result(HANG) for job in jobs] == [True] * 5


def test_a_process_of_the_old_version(locks: FileLocks, path: Path) -> None:
    """It knows the locks, and not the queues: both versions keep each other out."""
    release = locks.acquire(ANNA, 0)
    with pytest.raises(BlockingIOError):
        old_version(os.fspath(path), ANNA)
    release()
    old_version(os.fspath(path), ANNA)


def test_a_killed_process_leaves_nothing(locks: FileLocks, other: StoreProcess, path: Path) -> None:
    other.start(hold, ANNA)
    other.item()
    other.kill()
    assert try_one(locks, ANNA, 5)
    assert os.listdir(path.parent) == [path.name]
    assert path.stat().st_size == 0


def test_a_forked_child(other: StoreProcess) -> None:
    assert other.call(fork_with, ANNA) == (False, True)
    assert other.call(fork_with, ANNA) == (False, True)


def test_hostile_senders_do_not_meet(locks: FileLocks, other: StoreProcess) -> None:
    senders = [sender for sender in dict.fromkeys(s for _, s in HOSTILE_KEYS) if sender]
    releases = [locks.acquire(sender, 0) for sender in senders]
    assert other.call(LockFile.try_all, senders) == [False] * len(senders)
    for release in releases[::2]:
        release()
    expected = [number % 2 == 0 for number in range(len(senders))]
    assert other.call(LockFile.try_all, senders) == expected


def test_thousands_of_senders_leave_one_empty_file(locks: FileLocks, path: Path) -> None:
    releases = [locks.acquire(f"{number}@example.com", 0) for number in range(3000)]
    for release in releases:
        release()
    assert os.listdir(path.parent) == [path.name]
    assert path.stat().st_size == 0
    assert locks.open().held == set()


def test_the_file_is_made_when_it_is_needed_and_for_its_owner(locks: FileLocks, path: Path) -> None:
    umask = os.umask(0)  # that of a Salmon daemon
    try:
        assert not path.exists()
        assert try_one(locks, ANNA)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(umask)


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path / "missing" / "file")
    for _ in range(2):
        with pytest.raises(Exception, match="is missing"):
            locks.acquire(ANNA, 0)
    (tmp_path / "missing").mkdir()
    assert try_one(locks, ANNA)  # nothing was left locked between the threads
    locks.close()


def test_an_error_of_the_kernel_is_no_busy(
    locks: FileLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, offset: int) -> bool:
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(locks_module, "_lock_byte", fail)
        with pytest.raises(OSError, match="No locks"):
            locks.acquire(ANNA, 0)
    assert elsewhere(try_one, locks, ANNA)


def test_closing(locks: FileLocks, path: Path) -> None:
    """It frees what is held, is harmless when repeated, and a lock can be given back after it."""
    same = FileLocks(path)
    release = locks.acquire(ANNA, 0)
    locks.close()
    locks.close()
    assert try_one(same, ANNA)
    theirs = same.acquire(ANNA, 0)  # its file may have the number of the one that was closed
    release()
    third = FileLocks(path)
    assert not try_one(third, ANNA)
    theirs()
    assert try_one(third, ANNA)
    same.close()
    third.close()


def test_threads_and_instances_together(locks: FileLocks, path: Path) -> None:
    same = FileLocks(path)
    inside: list[int] = []
    most: list[int] = []

    def work(which: FileLocks) -> None:
        for _ in range(40):
            release = which.acquire(ANNA, HANG)
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            release()

    run_together([partial(work, which) for which in (locks, same) * 2])
    same.close()
    assert (len(most), max(most)) == (160, 1)


def test_closing_while_another_thread_waits(
    locks: FileLocks, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = FileLocks(path)
    release = same.acquire(ANNA, 0)
    waiting, closed = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        waiting.set()
        assert closed.wait(HANG)

    monkeypatch.setattr(time, "sleep", sleep)
    with ThreadPoolExecutor(1) as another:
        attempt = another.submit(locks.acquire, ANNA, HANG)
        assert waiting.wait(HANG)
        locks.close()
        release()
        closed.set()
        with pytest.raises(StorageUnavailable) as caught:
            attempt.result()
    assert "closed" in caught.value.detail
    same.close()


def test_a_system_without_such_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What POSIX has instead would be dropped with any descriptor of the file that is closed."""
    monkeypatch.setattr(locks_module, "_AVAILABLE", False)
    with pytest.raises(ConfigurationError, match="Linux") as caught:
        FileLocks(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigurationError, match="Linux"):
        ShelveStorage(path.with_name("states"))
    assert os.listdir(path.parent) == []
