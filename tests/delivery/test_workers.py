"""Ten workers of a queue, with every kind of store."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from salmon.queue import Queue
from salmon.server import QueueReceiver

from salmon_state import StateStorage, attach, open_storage
from tests.delivery.router import Ring
from tests.faulty import FaultyStorage
from tests.services import fresh_url

# Salmon's queue leaves the closing of its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

MAIL = b"From: anna@example.com\nTo: ring@x\n\nhello\n"


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(str(tmp_path / "queue"))


def run_until_empty(queue: Queue, workers: int) -> int:
    """Runs receivers until no mail is left; returns how many were needed.

    One that shall stop when the queue is empty does so while workers still have mail in hand.
    """
    rounds = 0
    while len(queue):
        assert rounds < 1000
        rounds += 1
        receiver = QueueReceiver(queue.dir, sleep=0, workers=workers)
        receiver.start(one_shot=True)
    return rounds


def test_an_outage_is_no_busy_loop(router: Any, queue: Queue) -> None:
    """A worker that put a mail back rests: without it they would try hundreds of times."""
    store = FaultyStorage()
    attach(router, store, queue_delay=0.2)
    Ring()
    attempts: list[str] = []
    healing = threading.Event()

    def lock(sender: Any, timeout: float) -> Any:
        attempts.append(sender)
        if len(attempts) >= 3 * 4:
            healing.set()
            return StateStorage._lock(store, sender, timeout)
        raise OSError("down")

    store._lock = lock  # type: ignore[method-assign]
    for _ in range(4):
        queue.push(MAIL)
    run_until_empty(queue, workers=4)
    assert healing.is_set()
    assert len(attempts) <= 3 * 4 + 2 * 4


@pytest.fixture(params=["memory", "sqlite", "postgresql", "mariadb"])
def shared_store(
    request: pytest.FixtureRequest, router: Any, tmp_path: Path
) -> Iterator[StateStorage]:
    """Each kind of store, attached."""
    with open_storage(fresh_url(request, request.param, tmp_path)) as store:
        attach(router, store, queue_delay=0.01)
        yield store


@pytest.mark.parametrize("senders", [1, 50])
def test_ten_workers(
    shared_store: StateStorage, queue: Queue, senders: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Every state is entered exactly as often as it must be, whoever's mail it is."""
    caplog.set_level(logging.CRITICAL)
    each = 150 // senders
    ring = Ring()
    for number in range(each * senders):
        queue.push(f"From: {number % senders}@example.com\nTo: ring@x\n\nhello\n")
    run_until_empty(queue, workers=10)
    left = Counter(ring.ran)
    for number in range(senders):
        for step, state in enumerate(Ring.names):
            expected = len(range(step, each, 3))
            assert left[f"{number}@example.com", state] == expected
    assert {record.state for record in shared_store} == ({Ring.names[each % 3]} - {"START"})


def test_ten_workers_whose_handlers_list_the_states(
    shared_store: StateStorage, queue: Queue
) -> None:
    """Waiting for a handler's turn must not take what the handler that runs needs."""
    together = threading.Barrier(10)
    ring = Ring(lambda message, state: len(shared_store) + len(list(shared_store.records())))
    for number in range(10):
        queue.push(f"From: {number}@example.com\nTo: ring@x\n\nhello\n")
    enter = type(shared_store)._converse

    def enter_together(self: StateStorage, *arguments: Any) -> Any:
        together.wait(60)
        return enter(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(shared_store), "_converse", enter_together)
        QueueReceiver(queue.dir, sleep=0, workers=10).start(one_shot=True)
    assert len(ring.ran) == 10
    assert len(queue) == 0
