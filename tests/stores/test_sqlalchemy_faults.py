"""Servers that die, restart and deadlock: no acknowledged state is lost, nobody restarts."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from salmon_state import SQLAlchemyStorage, StorageUnavailable
from tests.stores.sqlalchemy_places import HANG, Place, eventually, run_threads
from tests.stores.sqlalchemy_workers import CONTEXT, check_hammered, hammer, processes


def restart(place: Place) -> None:
    place.server.kill()
    place.server.start()


@pytest.mark.parametrize("call", ["get", "set", "remove", "records", "len"])
def test_a_restarted_server_costs_nothing(
    served: Place, served_store: SQLAlchemyStorage, call: str
) -> None:
    """The first call after the restart simply works."""
    store = served_store
    store.set("app", "a@x", "POSTING")
    restart(served)
    if call == "get":
        assert store.get("app", "a@x") == "POSTING"
    elif call == "set":
        store.set("app", "a@x", "LATER")
        assert store.get("app", "a@x") == "LATER"
    elif call == "remove":
        store.set("app", "a@x", "START")
        assert len(store) == 0
    elif call == "records":
        assert [record.state for record in store.records()] == ["POSTING"]
    else:
        assert len(store) == 1


def test_all_idle_connections_died(served: Place) -> None:
    with SQLAlchemyStorage(served.url, pool_size=8) as store:
        barrier = threading.Barrier(8)

        def use_at_once() -> None:
            lease = store._pool.take()
            barrier.wait(HANG)
            store._pool.give_back(lease)

        run_threads(use_at_once, 8)
        restart(served)
        run_threads(lambda: store.set("app", "a@x", "POSTING"), 8)
        assert store.get("app", "a@x") == "POSTING"
        eventually(lambda: served.connections() <= 8)


def test_changes_that_must_not_happen_twice(served: Place, served_store: SQLAlchemyStorage) -> None:
    """They too outlive a restart, because they are repeated before they begin, not after."""
    served_store.set("app", "a@x", "ONE")
    restart(served)
    assert served_store.compare_and_set("app", "a@x", "ONE", "TWO") is True
    restart(served)
    assert served_store.set_all("a@x", "THREE") == 1
    restart(served)
    assert served_store.rename("app", "THREE", "FOUR") == 1


def test_while_the_server_is_down(served: Place, served_store: SQLAlchemyStorage) -> None:
    served_store.set("app", "a@x", "POSTING")
    served.server.kill()
    for _ in range(3):
        with pytest.raises(StorageUnavailable) as caught:
            served_store.get("app", "a@x")
        assert caught.value.__cause__ is not None
    served.server.start()
    assert served_store.get("app", "a@x") == "POSTING"


def test_a_server_that_is_stopped_politely(served: Place, served_store: SQLAlchemyStorage) -> None:
    served_store.set("app", "a@x", "POSTING")
    served.server.stop()
    served.server.start()
    assert served_store.get("app", "a@x") == "POSTING"


def run_under_load(place: Place, *, rounds: int, pause: float) -> None:
    """Kills and stops the server in turn under eight processes of three threads.

    Args:
        place: The server, and an empty database on it.
        rounds: How often it is killed and started again at once, and then stopped for some time.
        pause: For how many seconds.
    """
    SQLAlchemyStorage(place.url).close()
    stop = CONTEXT.Event()
    progress = CONTEXT.Value("L", 0)
    ready = CONTEXT.Barrier(8)
    jobs = [(place.url, number, 3, ready, stop, progress) for number in range(8)]
    with processes(hammer, jobs) as answers:
        for _ in range(rounds):
            wait_for_progress(progress)
            restart(place)
            wait_for_progress(progress)
            place.server.stop()
            time.sleep(pause)  # it is the test: a server that is away for so long
            place.server.start()
        wait_for_progress(progress)
        stop.set()
        histories = [answers.next() for _ in jobs]
    with SQLAlchemyStorage(place.url) as store:
        assert check_hammered(store, histories) > 0
    eventually(lambda: place.connections() == 0)


def wait_for_progress(progress: Any) -> None:
    goal = progress.value + 120  # five for each thread
    eventually(lambda: progress.value > goal)


def test_killed_and_stopped_under_load(served: Place) -> None:
    run_under_load(served, rounds=1, pause=1.0)  # as long as each try waits fifty times


@pytest.mark.stress
def test_killed_and_stopped_under_load_for_long(served: Place) -> None:
    run_under_load(served, rounds=10, pause=10.0)


@pytest.mark.parametrize("steps", [240, pytest.param(15_000, marks=pytest.mark.stress)])
def test_hammering_shared_keys(place: Place, steps: int) -> None:
    """Without faults nothing is refused, however many there are."""
    SQLAlchemyStorage(place.url).close()
    stop = CONTEXT.Event()
    progress = CONTEXT.Value("L", 0)
    ready = CONTEXT.Barrier(8)
    jobs = [(place.url, number, 3, ready, stop, progress) for number in range(8)]
    with processes(hammer, jobs) as answers:
        eventually(lambda: progress.value > steps)
        stop.set()
        histories = [answers.next() for _ in jobs]
    with SQLAlchemyStorage(place.url) as store:
        assert check_hammered(store, histories) == 0
