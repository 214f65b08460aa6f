"""Mail from a queue directory: nobody sends it again, so it must not be lost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from salmon.queue import Queue
from salmon.server import QueueReceiver, SMTPError

from salmon_state import StorageUnavailable, attach
from salmon_state.testing.mails import held_by_another_thread
from salmon_state.testing.suite import contents
from tests.delivery.router import MODULE, Ring, mail
from tests.faulty import FaultyStorage

# Salmon's queue leaves the closing of its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

ANNA = "anna@example.com"
RAW = b"From: anna@example.com\nTo: ring@x\nX-Odd: \xe9 \xff\n\nhello\n\nFrom the end"


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Gives the rests that delivery takes, which last no time here."""
    taken: list[float] = []
    clock = SimpleNamespace(sleep=taken.append)
    monkeypatch.setattr("salmon_state.mail.origins.time", clock)
    return taken


@pytest.fixture
def store(router: Any) -> FaultyStorage:
    """A store that can be made to fail, attached."""
    store = FaultyStorage()
    attach(router, store, lock_timeout=0.05, queue_delay=7)
    return store


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(str(tmp_path / "queue"))


def take_one(queue: Queue) -> None:
    """Does with one mail what a worker of a receiver does."""
    _, message = queue.pop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("salmon.server.Pool", lambda workers: None)
        QueueReceiver(queue.dir).process_message(message)


def raw_mails(queue: Queue) -> list[bytes]:
    return [queue.mbox.get_bytes(key) for key in queue.mbox.iterkeys()]


@pytest.mark.parametrize("undeliverable", [True, False])
@pytest.mark.parametrize("hook", ["_lock", "_load", "_commit"])
def test_a_mail_whose_conversation_fails_is_put_back(
    router: Any,
    store: FaultyStorage,
    queue: Queue,
    rests: list[float],
    hook: str,
    undeliverable: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Queue(str(tmp_path / "undeliverable"))
    router.UNDELIVERABLE_QUEUE = kept if undeliverable else None
    ring = Ring()
    queue.push(RAW)
    store.fail(hook, OSError("the cause"))
    for attempt in range(1, 4):
        take_one(queue)
        assert raw_mails(queue) == [RAW]
        assert rests == [7.0] * attempt
    assert len(kept) == 0
    assert caplog.text.count("the cause") == 3
    store.heal()
    take_one(queue)
    assert (len(queue), contents(store)) == (0, {(MODULE, ANNA): "ONE"})
    assert rests == [7.0] * 3
    assert len(ring.ran) == (4 if hook == "_commit" else 1)


def test_a_busy_conversation(store: FaultyStorage, queue: Queue, rests: list[float]) -> None:
    ring = Ring()
    queue.push(RAW)
    with held_by_another_thread(store, ANNA):
        take_one(queue)
    assert (raw_mails(queue), rests, ring.ran) == ([RAW], [7.0], [])
    take_one(queue)
    assert (len(queue), len(ring.ran)) == (0, 1)


def test_it_is_put_back_before_the_rest(
    store: FaultyStorage, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    clock = SimpleNamespace(sleep=lambda seconds: found.append(len(queue)))
    monkeypatch.setattr("salmon_state.mail.origins.time", clock)
    Ring()
    queue.push(RAW)
    store.fail("_lock", OSError())
    take_one(queue)
    assert found == [1]


@pytest.mark.parametrize(("code", "left"), [(451, 1), (421, 1), (550, 0)])
def test_what_a_handler_answers(
    store: FaultyStorage, queue: Queue, rests: list[float], code: int, left: int
) -> None:
    def answer(message: Any, state: str) -> None:
        raise SMTPError(code)

    Ring(answer)
    queue.push(RAW)
    take_one(queue)
    assert len(queue) == left


def test_a_handler_that_ends_the_process(
    router: Any, store: FaultyStorage, queue: Queue, rests: list[float]
) -> None:
    def leave(message: Any, state: str) -> None:
        raise SystemExit(1)

    Ring(leave)
    queue.push(RAW)
    _, message = queue.pop()
    with pytest.raises(SystemExit):
        router.deliver(message)
    assert (raw_mails(queue), contents(store)) == ([RAW], {})


def test_a_handler_that_raises_is_not_tried_again(
    router: Any, store: FaultyStorage, queue: Queue, tmp_path: Path
) -> None:
    router.UNDELIVERABLE_QUEUE = Queue(str(tmp_path / "undeliverable"))

    def fail(message: Any, state: str) -> None:
        raise ZeroDivisionError

    Ring(fail)
    queue.push(RAW)
    take_one(queue)
    assert (len(queue), len(router.UNDELIVERABLE_QUEUE)) == (0, 1)
    assert contents(store) == {(MODULE, ANNA): "ERROR"}


@pytest.mark.parametrize("home", [True, False])
def test_a_relative_queue_and_a_handler_that_changes_the_directory(
    router: Any, rests: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: bool
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    store = FaultyStorage()
    attach(router, store)
    queue = Queue("~/queue" if home else "queue")
    Ring(lambda message, state: monkeypatch.chdir(tmp_path / "elsewhere"))
    queue.push(RAW)
    store.fail("_commit", OSError())
    take_one(queue)
    assert raw_mails(queue) == [RAW]


@pytest.mark.parametrize("peer", ["", "localhost", None, ("127.0.0.1", 25), b"\0x", "/nowhere"])
def test_mail_that_came_out_of_no_queue(
    router: Any, store: FaultyStorage, peer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path)
    attach(router)
    Ring()
    store.fail("_lock", OSError())
    message = mail(ANNA)
    message.Peer = peer
    with pytest.raises(StorageUnavailable):
        router.deliver(message)
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]


def test_a_queue_that_cannot_be_written(
    router: Any,
    store: FaultyStorage,
    queue: Queue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Then it is Salmon's to keep the mail, in the undeliverable queue."""
    router.UNDELIVERABLE_QUEUE = kept = Queue(str(tmp_path / "undeliverable"))
    Ring()
    queue.push(RAW)
    store.fail("_lock", OSError())

    class Full(Queue):
        def push(self, message: object) -> str:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("salmon_state.mail.origins.Queue", Full)
    take_one(queue)
    assert (len(queue), raw_mails(kept)) == (0, [RAW])
    assert "cannot put a mail back" in caplog.text
