"""What the processes do that the tests of the SQL stores start, and how they are started."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from salmon_state import SQLAlchemyStorage, StorageUnavailable
from salmon_state.testing.processes import forking_context
from tests.stores.sqlalchemy_places import HANG

CONTEXT = forking_context(__name__)


class Answers:
    """What the processes say."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def next(self) -> Any:
        """Waits for the next answer; fails if a process did."""
        kind, answer = self._queue.get(timeout=HANG)
        assert kind == "answer", f"in another process:\n{answer}"
        return answer


@contextmanager
def processes(work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Answers]:
    """Runs ``work(*job)`` in a process for each job; gives what they return."""
    answers = CONTEXT.Queue()
    started = [CONTEXT.Process(target=_run, args=(work, job, answers)) for job in jobs]
    try:
        for process in started:
            process.start()
        yield Answers(answers)
    finally:
        for process in started:
            process.kill()
            process.join()
        answers.close()
        answers.join_thread()


def _run(work: Callable[..., Any], job: tuple[Any, ...], answers: Any) -> None:
    try:
        answers.put(("answer", work(*job)))
    except BaseException:  # noqa: BLE001 - the test shall see it
        answers.put(("error", traceback.format_exc()))


def open_and_set(url: str, number: int, barrier: Any) -> int:
    """Opens a store at the same moment as others, and uses it."""
    barrier.wait(60)
    with SQLAlchemyStorage(url) as store:
        store.set("app", f"{number}@x", "POSTING")
        assert store.get("app", f"{number}@x") == "POSTING"
    return number


def set_without_end(
    url: str, number: int, threads: int, begun: Any, stop: Any
) -> list[tuple[str, int]]:
    """Sets states in some threads until told to stop; answers with what came last in each."""
    last: dict[str, int] = {}
    with SQLAlchemyStorage(url) as store:

        def work(thread: int) -> None:
            name, step = f"{number}.{thread}@x", 0
            while not stop.is_set():
                step += 1
                store.set("app", name, f"S{step}")
                last[name] = step
                if step == 1:
                    begun.release()

        started = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
    assert len(last) == threads
    return sorted(last.items())


History = dict[str, tuple[int, int]]
"""By sender: the last step that was acknowledged, and the last one that was tried."""

Hammered = tuple[History, dict[str, int], int]
"""What a process knows in the end: its own senders, the shared ones, how often it was refused."""


def hammer(url: str, number: int, threads: int, ready: Any, stop: Any, progress: Any) -> Hammered:
    """Sets and reads states of its own, and counts shared ones up, whatever is refused.

    A thread's own sender counts up by one with every try; what it reads must never be older than
    what was acknowledged to it, nor newer than what it tried.
    """
    logging.disable()  # of refusals, which there will be many of
    histories: History = {}
    won: dict[str, int] = {}
    refused: list[int] = []
    errors: list[str] = []
    with SQLAlchemyStorage(url) as store:

        def work(thread: int) -> None:
            try:
                name = f"{number}.{thread}@x"
                histories[name] = (0, 0)
                while not stop.is_set():
                    try:
                        _step(store, name, histories)
                        _count_up(store, f"shared{histories[name][1] % 5}@x", won)
                    except StorageUnavailable:
                        refused.append(1)
                        stop.wait(0.02)
                    else:
                        with progress.get_lock():
                            progress.value += 1
            except BaseException:  # noqa: BLE001 - the test shall see it
                errors.append(traceback.format_exc())

        ready.wait(HANG)
        started = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
        used = store._pool._lent
    assert not errors, errors[0]
    assert used <= threads
    return histories, won, len(refused)


def _step(store: SQLAlchemyStorage, name: str, histories: History) -> None:
    acknowledged, tried = histories[name]
    histories[name] = (acknowledged, tried + 1)
    store.set("app", name, f"S{tried + 1}")
    histories[name] = (tried + 1, tried + 1)
    state = store.get("app", name)
    assert state == f"S{tried + 1}", f"set S{tried + 1}, got {state}"


def _count_up(store: SQLAlchemyStorage, name: str, won: dict[str, int]) -> None:
    acknowledged = won.get(name, 0)
    state = store.get("app", name)
    step = 0 if state == "START" else int(state[1:])
    assert step >= acknowledged, "a state that was acknowledged is lost"
    if store.compare_and_set("app", name, state, f"S{step + 1}"):
        won[name] = max(won.get(name, 0), step + 1)


def check_hammered(store: SQLAlchemyStorage, answers: Sequence[Hammered]) -> int:
    """Compares what is stored with what was acknowledged; returns how often it was refused."""
    refused = 0
    for histories, won, refusals in answers:
        refused += refusals
        for name, (acknowledged, tried) in histories.items():
            state = store.get("app", name)
            step = 0 if state == "START" else int(state[1:])  # whoever waited may not have set it
            assert acknowledged <= step <= tried, name
        for name, step in won.items():
            assert int(store.get("app", name)[1:]) >= step
    return refused
