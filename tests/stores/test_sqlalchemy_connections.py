"""Connections: never shared, never leaked, safe across fork; and an application's own engine."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import random
import signal
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import SQLAlchemyStorage, StorageError, StorageUnavailable
from salmon_state.entries import STATE, Kind
from tests.forking import fork
from tests.stores.sqlalchemy_places import HANG, Place, eventually, run_threads

pytestmark = pytest.mark.filterwarnings(
    # From Python 3.12 on; the tests fork with threads on purpose.
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


@contextlib.contextmanager
def child() -> Iterator[tuple[bool, Any]]:
    """Forks; gives whether this is the child, and a pipe. The child ends with the block."""
    ours, theirs = multiprocessing.Pipe()
    process = fork()
    if process == 0:
        status = 1
        try:
            signal.alarm(int(HANG))  # ends a child that hangs
            ours.close()
            yield True, theirs
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    try:
        yield False, ours
    finally:
        ours.close()
        _, status = os.waitpid(process, 0)
    assert status == 0


def test_fork_after_use(store: SQLAlchemyStorage) -> None:
    """Parent and child both go on, and neither disturbs the other."""
    store.set("app", "a@x", "BEFORE")
    with child() as (is_child, pipe):
        if is_child:
            assert store.get("app", "a@x") == "BEFORE"
            store.set("app", "child@x", "CHILD")
            pipe.send("set")
            assert pipe.recv() == "set"
            assert store.get("app", "parent@x") == "PARENT"
            store.close()
            pipe.send("closed")
            pipe.recv()
        else:
            assert pipe.recv() == "set"
            assert store.get("app", "child@x") == "CHILD"
            store.set("app", "parent@x", "PARENT")
            pipe.send("set")
            assert pipe.recv() == "closed"
            assert store.get("app", "parent@x") == "PARENT"
            pipe.send("end")
    store.set("app", "a@x", "AFTER")
    assert store.get("app", "a@x") == "AFTER"


def test_the_parent_closes_first(place: Place) -> None:
    """What the child was told is stored is stored, although the parent thinks it is alone."""
    store = SQLAlchemyStorage(place.url)
    store.set("app", "a@x", "BEFORE")
    with child() as (is_child, pipe):
        if is_child:
            store.set("app", "a@x", "ONE")
            pipe.send("one")
            assert pipe.recv() == "closed"
            store.set("app", "a@x", "TWO")
        else:
            assert pipe.recv() == "one"
            store.close()
            pipe.send("closed")
    with SQLAlchemyStorage(place.url) as again:
        assert again.get("app", "a@x") == "TWO"


def test_fork_while_threads_write(store: SQLAlchemyStorage) -> None:
    """No lock or transaction of another thread is inherited."""
    stop = threading.Event()
    acknowledged = {}

    def write(number: int) -> None:
        step = 0
        while not stop.is_set():
            step += 1
            store.set("app", f"{number}@x", f"S{step}")
            acknowledged[number] = step

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(5):
            with child() as (is_child, pipe):
                if is_child:
                    store.set("app", "child@x", f"S{turn}")
                    assert store.get("app", "child@x") == f"S{turn}"
                    pipe.send("done")
                else:
                    assert pipe.poll(HANG)
                    assert pipe.recv() == "done"
    finally:
        stop.set()
        for thread in threads:
            thread.join(HANG)
    assert store.get("app", "child@x") == "S4"
    for number, step in acknowledged.items():
        assert store.get("app", f"{number}@x") == f"S{step}"


def test_processes_that_multiprocessing_forks(store: SQLAlchemyStorage) -> None:
    store.set("app", "a@x", "POSTING")
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=store.set, args=("app", f"{number}@x", "CHILD"))
        for number in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(HANG)
        assert process.exitcode == 0
    assert {store.get("app", f"{number}@x") for number in range(8)} == {"CHILD"}


def test_threads_never_share_a_connection(
    store: SQLAlchemyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_use: set[int] = set()
    take, give_back = store._pool.take, store._pool.give_back

    def watched_take() -> Any:
        lease = take()
        assert id(lease.driver) not in in_use
        in_use.add(id(lease.driver))
        return lease

    def watched_give_back(lease: Any) -> None:
        in_use.remove(id(lease.driver))
        give_back(lease)

    monkeypatch.setattr(store._pool, "take", watched_take)
    monkeypatch.setattr(store._pool, "give_back", watched_give_back)

    numbers = itertools.count()  # not the threads' own: an ended one's is given to another

    def work() -> None:
        name = f"{next(numbers)}@x"
        for step in range(40):
            store.set("app", name, f"S{step}")
            assert store.get("app", name) == f"S{step}"

    run_threads(work, 16)
    assert in_use == set()
    assert len(store) == 16


def test_nothing_leaks(served: Place) -> None:
    """Thousands of operations and 64 failures later, no more connections than the four allowed."""
    with SQLAlchemyStorage(served.url, pool_size=4, timeout=HANG) as store:
        store.set("app", "bad@x", "POSTING")
        served.run("UPDATE salmon_state SET state = ''")
        failures = []

        def work() -> None:
            random_numbers = random.Random(threading.get_ident())
            for step in range(320):
                name = f"{random_numbers.randrange(50)}@x"
                store.set("app", name, f"S{step}") if step % 4 == 0 else store.get("app", name)
                if step % 40 == 0:
                    with pytest.raises(StorageError):
                        store.get("app", "bad@x")
                    with pytest.raises(StorageUnavailable):
                        store._pool.run(broken) if step % 80 else kill_own(store)
                    failures.append(step)

        def kill_own(store: SQLAlchemyStorage) -> None:
            try:
                store._pool.transaction(suicide)
            except Exception as error:
                raise store._explain(error) from error

        def broken(driver: Any) -> None:
            try:
                driver.cursor().execute("SELECT nonsense FROM nowhere")
            except Exception as error:
                raise store._explain(error) from error

        def suicide(cursor: Any) -> None:
            kill = {
                "postgresql": "SELECT pg_terminate_backend(pg_backend_pid())",
                "mariadb": "KILL CONNECTION_ID()",
            }
            cursor.execute(kill[served.kind])

        run_threads(work, 8)
        assert len(failures) == 64
        assert store._pool._lent == len(store._pool._idle) <= 4
        eventually(lambda: served.connections() <= 4)
    eventually(lambda: served.connections() == 0)


def test_close_while_others_work(place: Place) -> None:
    """Whoever is in the middle of something ends it; afterwards no connection is left."""
    store = SQLAlchemyStorage(place.url)
    held, go_on = threading.Event(), threading.Event()

    def slow(driver: Any) -> None:
        held.set()
        assert go_on.wait(HANG)

    worker = threading.Thread(target=store._pool.run, args=(slow,))
    worker.start()
    assert held.wait(HANG)
    store.close()
    go_on.set()
    worker.join(HANG)
    assert (store._pool._idle, store._pool._lent) == ([], 0)
    if place.server is not None:
        eventually(lambda: place.connections() == 0)
    with pytest.raises(StorageUnavailable, match="unavailable"):
        store.get("app", "a@x")


def test_a_connection_that_comes_back_in_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting ends for one of two reasons, and it may be that both are there."""
    with SQLAlchemyStorage(f"sqlite:///{tmp_path}/states.db", pool_size=1, timeout=1) as store:
        loan = store._pool.take()

        def too_late(timeout: float) -> bool:
            store._pool._idle.append(loan)
            return False

        monkeypatch.setattr(store._pool._changed, "wait", too_late)
        assert store.get("app", "a@x") == "START"
        monkeypatch.setattr(store._pool._changed, "wait", lambda timeout: False)
        store._pool.take()
        with pytest.raises(StorageUnavailable):
            store.get("app", "a@x")
        store._pool.give_back(loan)


def test_a_connection_that_another_thread_takes_first(tmp_path: Path) -> None:
    """Whoever looks for one slowly looks with a lock held; whoever finds one at once does not."""

    class TakenMeanwhile(list[Any]):
        def __len__(self) -> int:
            return 1

        def __bool__(self) -> bool:
            return True

    with SQLAlchemyStorage(f"sqlite:///{tmp_path}/states.db", pool_size=2) as store:
        store._pool._idle = TakenMeanwhile()
        assert store.get("app", "a@x") == "START"


def test_a_closed_store_goes(tmp_path: Path) -> None:
    """With its pool, without waiting for the garbage collector, whatever it was asked."""
    store = SQLAlchemyStorage(f"sqlite:///{tmp_path}/states.db")
    pool = weakref.ref(store._pool)
    store._load("a@x", [(STATE, "app"), (Kind.HANDLED, "1")])
    store.close()
    del store
    gc.collect()
    assert pool() is None


def test_an_applications_own_engine(place: Place) -> None:
    engine = sa.create_engine(place.url, pool_size=2, max_overflow=0, pool_timeout=HANG)
    disposed: list[object] = []
    sa.event.listen(engine, "engine_disposed", disposed.append)
    with SQLAlchemyStorage(engine) as store:
        store.set("app", "a@x", "POSTING")
        assert store.compare_and_set("app", "a@x", "POSTING", "LATER")
        assert store.set_all("a@x", "LAST") == 1
        assert [record.state for record in store] == ["LAST"]
        with store.conversation("a@x"):
            store.set("app", "a@x", "TALKED")
        assert place.rows("SELECT state FROM salmon_state") == [("TALKED",)]
        store.set("app", "a@x", "LAST")
        with engine.connect() as connection:  # the application's transactions are as before
            assert connection.get_isolation_level() != "AUTOCOMMIT"
            connection.execute(sa.text("DELETE FROM salmon_state"))
            connection.rollback()
        assert store.get("app", "a@x") == "LAST"
        run_threads(lambda: store.set("app", "b@x", "POSTING"), 8)
        assert checked_out(engine) == 0
        with pytest.raises(StorageUnavailable):
            store._raise(OSError("for example"))
        store.clear()
    assert disposed == []
    assert checked_out(engine) == 0
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(store.table)) == 0
    engine.dispose()


def checked_out(engine: sa.Engine) -> int:
    pool = engine.pool
    assert isinstance(pool, sa.QueuePool)
    return pool.checkedout()


@pytest.mark.parametrize("size", [1, 12])
def test_an_own_engine_after_the_server_was_restarted(served: Place, size: int) -> None:
    """However many dead connections its pool holds."""
    engine = sa.create_engine(served.url, pool_size=size, max_overflow=0, pool_timeout=HANG)
    with SQLAlchemyStorage(engine) as store:
        store.set("app", "a@x", "POSTING")
        with contextlib.ExitStack() as stack:
            for _ in range(size):
                stack.enter_context(engine.connect())
        for state in ("LATER", "LAST"):
            served.server.kill()
            served.server.start()
            assert store.get("app", "a@x") != "START"
            store.set("app", "a@x", state)
            assert store.get("app", "a@x") == state
        assert checked_out(engine) == 0
    engine.dispose()
