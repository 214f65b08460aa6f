"""QueueReceiver: no mail is lost, held up or taken twice, whatever happens to the process."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from salmon import queue
from salmon.routing import Router
from salmon.server import SMTPError

from salmon_state import MemoryStorage, attach, detach
from salmon_state.mail.receivers import QueueReceiver
from tests.bombs import BOMBS
from tests.descriptors import descriptors_left
from tests.end_to_end.mail_server import wait_until

Make = Callable[..., QueueReceiver]
Handle = Callable[[Callable[[Any], None]], None]
Run = Callable[[QueueReceiver], None]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    all_made = []

    def make(**options: Any) -> QueueReceiver:
        made = QueueReceiver(str(tmp_path / "queue"), **{"sleep": 0.01, "workers": 1, **options})
        made.pause = 0.0
        all_made.append(made)
        return made

    yield make
    for made in all_made:
        made.workers.terminate()


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    """Puts what handles a mail in the router's place."""
    return lambda handler: monkeypatch.setattr(Router, "deliver", handler)


@pytest.fixture
def delivered(handle: Handle) -> list[Any]:
    """Gives the mails that reach the router."""
    found: list[Any] = []
    handle(found.append)
    return found


@pytest.fixture
def undeliverable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> queue.Queue:
    made = queue.Queue(str(tmp_path / "undeliverable"))
    monkeypatch.setattr(Router, "UNDELIVERABLE_QUEUE", made)
    return made


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts receivers, and stops them at the end of the test."""
    started = []

    def start(receiver: QueueReceiver) -> None:
        thread = threading.Thread(target=receiver.start)
        started.append((receiver, thread))
        thread.start()

    yield start
    for receiver, _ in started:
        receiver.stop()
    for receiver, thread in started:
        thread.join()
        assert receiver.wait(30)


def put(receiver: QueueReceiver, number: int, sender: str = "a@x") -> Path:
    """Puts a mail into the Maildir; in the order of their numbers."""
    path = Path(receiver.queue.dir, "new", f"{1_700_000_000 + number}.x")
    path.write_text(f"From: {sender}\nTo: news@x\nSubject: {number}\n\nhello\n")
    return path


def left(receiver: QueueReceiver) -> dict[str, list[str]]:
    """What is in the Maildir still."""
    names = {name: os.listdir(Path(receiver.queue.dir, name)) for name in ("new", "cur", "later")}
    return {name: sorted(files) for name, files in names.items() if files}


def numbers(mails: list[Any]) -> list[int]:
    return [int(mail["Subject"]) for mail in mails]


# ---------------------------------------------------------------- what ends well


def test_mails_come_in_the_order_of_their_times(make: Make, delivered: list[Any]) -> None:
    """Salmon, and Python's mailbox, write microseconds without leading zeros."""
    made = make()
    for number, microseconds in enumerate((9, 99_999, 100_000, 999_999)):
        new = Path(made.queue.dir, "new", f"1700000000.M{microseconds}P1Q{20 - number}.x")
        new.write_text(f"From: a@x\nTo: news@x\nSubject: {number}\n\nhello\n")
    made.start(one_shot=True)
    assert (numbers(delivered), left(made)) == ([0, 1, 2, 3], {})


def test_the_envelope_is_what_the_other_server_recorded(make: Make, delivered: list[Any]) -> None:
    made = make()
    data = b"Return-Path: <Anna@x>\nFrom: Ben <b@y>\nTo: A list <c@y>\n\nh\xe9llo\n"
    made.queue.push(data)
    made.start(one_shot=True)
    assert [(mail.From, mail.To, mail.Data) for mail in delivered] == [("anna@x", "c@y", data)]


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Type: text/plain\nFrom: =?utf-8?b?x?=\n\nhello\n",
        BOMBS["nested 3,000"],
    ],
    ids=["address", "nested"],
)
def test_a_mail_that_cannot_be_parsed_is_kept(
    data: bytes, make: Make, undeliverable: queue.Queue, delivered: list[Any]
) -> None:
    made = make()
    made.queue.push(data)
    made.start(one_shot=True)
    assert (left(made), len(undeliverable), delivered) == ({}, 1, [])


def test_what_is_no_mail_stays_and_is_named_once(
    make: Make, delivered: list[Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    made = make(size_limit=1000)
    new = tmp_path / "queue" / "new"
    os.mkfifo(new / "fifo")
    (new / "directory").mkdir()
    (tmp_path / "secret").write_text("From: a@x\n\nnot yours\n")
    (new / "link").symlink_to(tmp_path / "secret")
    (new / "large").write_text("From: a@x\n\n" + "x" * 1000)
    mail = put(made, 1)
    for _ in range(2):
        made._spool._scan()
        while path := made._spool.next():
            if claim := made._spool.claim(path):
                claim.release()
                delivered.append(path)
    assert len(delivered) >= 2  # it looks by itself as well
    assert set(delivered) == {mail}
    assert left(made)["new"][1:] == ["directory", "fifo", "large", "link"]
    for name in left(made)["new"][1:]:
        assert caplog.text.count(f"/{name} is left alone") == 1


def test_no_more_mails_are_taken_than_workers_are_free(
    make: Make, handle: Handle, run: Run
) -> None:
    in_hand, finish = threading.Semaphore(0), threading.Event()

    def wait(_: object) -> None:
        in_hand.release()
        assert finish.wait(30)

    handle(wait)
    made = make(workers=2)
    for number in range(5):
        put(made, number, f"{number}@x")
    run(made)
    for _ in range(2):
        assert in_hand.acquire(timeout=30)
    assert {name: len(names) for name, names in left(made).items()} == {"new": 3, "cur": 2}
    made.stop()
    finish.set()


def test_the_mail_in_hand_is_finished_before_the_end(make: Make, handle: Handle, run: Run) -> None:
    in_hand, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def wait(_: object) -> None:
        in_hand.set()
        assert go_on.wait(30)
        done.set()

    handle(wait)
    made = make()
    put(made, 1)
    run(made)
    assert in_hand.wait(30)
    made.stop()
    assert not made.wait(0.0)
    go_on.set()
    assert made.wait(30)
    assert (done.is_set(), left(made)) == (True, {})


def test_two_servers_share_a_queue(make: Make, delivered: list[Any], run: Run) -> None:
    servers = [make(workers=2) for _ in range(2)]
    for server in servers:
        run(server)
    for number in range(50):
        servers[0].queue.push(f"From: {number}@x\nTo: news@x\nSubject: {number}\n\nhello\n")
    wait_until(lambda: not left(servers[0]), "the mails")
    assert sorted(numbers(delivered)) == list(range(50))


def test_a_directory_is_not_listed_for_each_mail(
    make: Make, delivered: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make()
    for number in range(300):
        put(made, number, f"{number}@x")
    listed: Counter[str] = Counter()
    scandir = os.scandir

    def counted(path: Any) -> Any:
        listed[Path(path).name] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    made.start(one_shot=True)
    assert len(delivered) == 300
    assert listed["new"] <= 5


# ---------------------------------------------------------------- senders


def test_a_sender_in_hand_keeps_no_worker_from_others(make: Make, handle: Handle, run: Run) -> None:
    done: list[int] = []
    finish, others = threading.Event(), threading.Event()

    def slow_for_one(mail: Any) -> None:
        if mail.From == "a@x":
            assert finish.wait(30)
        done.append(int(mail["Subject"]))
        if len(done) == 3:
            others.set()

    handle(slow_for_one)
    made = make(workers=2)
    for number in range(10):
        put(made, number)  # of one sender, before all others
    for number in range(10, 13):
        put(made, number, f"{number}@x")
    run(made)
    assert others.wait(30)
    assert sorted(done) == [10, 11, 12]
    finish.set()
    wait_until(lambda: not left(made), "the others")
    assert done[3:] == list(range(10))


def test_a_mail_that_is_read_when_its_senders_last_one_ends_is_behind_those_that_wait(
    make: Make, handle: Handle, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    finish = threading.Event()

    def wait_in_the_first(mail: Any) -> None:
        assert mail["Subject"] != "0" or finish.wait(30)
        done.append(int(mail["Subject"]))

    handle(wait_in_the_first)
    made = make(workers=2)
    parse = made._parse

    def parse_while_the_first_ends(claim: Any) -> Any:
        mail = parse(claim)
        if mail is not None and mail["Subject"] == "2" and not finish.is_set():
            finish.set()
            wait_until(lambda: not made._in_hand, "the first to end")
        return mail

    monkeypatch.setattr(made, "_parse", parse_while_the_first_ends)
    for number in range(4):
        put(made, number)
    run(made)
    wait_until(lambda: not left(made), "the mails")
    assert done == [0, 1, 2, 3]


def test_what_vanishes_while_it_waits_keeps_nobody_from_their_turn(
    make: Make, handle: Handle, run: Run
) -> None:
    """Another process took it."""
    done: list[int] = []
    begun, finish = threading.Event(), threading.Event()

    def wait(mail: Any) -> None:
        begun.set()
        assert finish.wait(30)
        done.append(int(mail["Subject"]))

    handle(wait)
    made = make(workers=2)
    paths = [put(made, number) for number in range(4)]
    run(made)
    assert begun.wait(30)
    wait_until(lambda: len(made._waiting.get("a@x", ())) == 3, "the others to wait")
    for path in paths[1:3]:
        path.unlink()
    finish.set()
    wait_until(lambda: not left(made), "the mails")
    assert done == [0, 3]


# ---------------------------------------------------------------- what passes


@pytest.mark.parametrize("descriptors", range(4))
def test_without_descriptors_mails_wait_in_their_order(
    descriptors: int, make: Make, delivered: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    short, made = make(), make()
    for number in range(3):
        put(made, number)
    with descriptors_left(descriptors):
        short.start(one_shot=True)
    made.start(one_shot=True)
    assert (numbers(delivered), left(made)) == ([0, 1, 2], {})
    said = [record for record in caplog.records if "left alone" in record.message]
    assert said == []


def test_a_mail_that_cannot_be_opened_for_now_is_not_left_alone(make: Make) -> None:
    made = make()
    path = put(made, 0)
    with descriptors_left(0), pytest.raises(OSError, match="Too many open files"):
        made._spool.claim(path)
    claim = made._spool.claim(path)
    assert claim is not None
    claim.release()


# ---------------------------------------------------------------- what cannot be handled now


@pytest.fixture
def outage(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Attaches a router that cannot handle the first two mails; gives those that reach it."""
    found: list[Any] = []

    def deliver(mail: Any) -> None:
        found.append(mail)
        if len(found) <= 2:
            raise SMTPError(451, "4.3.0 Not now")

    handle(deliver)
    monkeypatch.setattr(Router, "STATE_STORE", MemoryStorage())
    attach(Router)
    yield found
    detach(Router)


@pytest.fixture
def long_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has no mail's time come while a test runs, however slow the machine is."""
    monkeypatch.setattr(random, "uniform", lambda *_: 1000.0)


def let_the_time_come(receiver: QueueReceiver, name: str) -> None:
    later = Path(receiver.queue.dir, "later")
    (later / name).rename(later / f"0,{name.partition(',')[2]}")


@pytest.mark.usefixtures("long_delays")
def test_a_mail_that_cannot_be_handled_now_is_behind_the_others(
    make: Make, outage: list[Any], undeliverable: queue.Queue
) -> None:
    made = make()
    for number in range(3):
        put(made, number, f"{number}@x")
    made.start(one_shot=True)
    assert numbers(outage) == [0, 1, 2]
    for name in left(made)["later"]:
        let_the_time_come(made, name)
    make().start(one_shot=True)
    assert sorted(numbers(outage)[3:]) == [0, 1]
    assert (left(made), len(undeliverable)) == ({}, 0)


@pytest.mark.usefixtures("long_delays")
def test_nobody_takes_it_before_its_time(make: Make, outage: list[Any]) -> None:
    made = make()
    put(made, 1)
    made.start(one_shot=True)
    (name,) = left(made)["later"]
    due, *rest = name.split(",")
    assert int(due) > time.time() * 1000
    assert rest == ["1700000001.x", "1", "0"]
    again = make()
    again.start(one_shot=True)
    assert (left(again), len(outage)) == ({"later": [name]}, 1)
    let_the_time_come(again, name)
    make().start(one_shot=True)
    assert left(again)["later"][0].split(",")[1:] == ["1700000001.x", "2", "0"]


def test_what_fails_for_too_long_is_set_aside(
    make: Make, outage: list[Any], undeliverable: queue.Queue
) -> None:
    made = make(give_up_after=timedelta(days=1))
    os.utime(put(made, 1), (0, time.time() - 90_000))
    put(made, 2, "b@x")
    made.start(one_shot=True)
    assert (list(left(made)), len(undeliverable)) == (["later"], 1)


@pytest.mark.parametrize("error", [SMTPError(550, "no"), ValueError("a handler broke")], ids=repr)
def test_what_is_refused_is_set_aside(
    error: Exception, make: Make, handle: Handle, undeliverable: queue.Queue
) -> None:
    def refuse(_: object) -> None:
        raise error

    handle(refuse)
    made = make()
    put(made, 1)
    made.start(one_shot=True)
    assert (left(made), len(undeliverable)) == ({}, 1)


def test_without_an_undeliverable_queue_it_stays(make: Make, handle: Handle) -> None:
    def refuse(_: object) -> None:
        raise SMTPError(550, "no")

    handle(refuse)
    made = make()
    put(made, 1)
    made.start(one_shot=True)
    assert left(made) == {"cur": ["1700000001.x,1,1"]}


def test_an_undeliverable_queue_that_is_full_loses_nothing(
    make: Make, undeliverable: queue.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(undeliverable, "push", full)
    made = make()
    Path(made.queue.dir, "new", "1.x").write_bytes(BOMBS["nested 3,000"])
    assert made._next() is None
    assert left(made) == {"new": ["1.x"]}


# ---------------------------------------------------------------- the end of a process


def killed_in_hand(make: Make, handle: Handle) -> int:
    """Begins to handle what there is in a process that is killed in it; returns its status."""
    child = os.fork()
    if child == 0:
        handle(lambda _: os.kill(os.getpid(), signal.SIGKILL))
        make().start(one_shot=True)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def test_a_mail_in_hand_outlives_its_process(
    make: Make, handle: Handle, delivered: list[Any]
) -> None:
    made = make()
    put(made, 1)
    assert killed_in_hand(make, handle) == signal.SIGKILL
    assert left(made) == {"cur": ["1700000001.x,1,1"]}
    made.start(one_shot=True)
    assert (left(made), numbers(delivered)) == ({}, [1])


def test_a_mail_that_ends_processes_is_set_aside(
    make: Make, handle: Handle, undeliverable: queue.Queue
) -> None:
    made = make()
    put(made, 1)
    assert [killed_in_hand(make, handle) for _ in range(6)] == [signal.SIGKILL] * 5 + [0]
    assert (left(made), len(undeliverable)) == ({}, 1)
