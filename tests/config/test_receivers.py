"""What our receivers do that Salmon's do not; the rest is tested end to end."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from salmon import queue
from salmon.routing import Router
from salmon.server import SMTPError

from config.channels import Channel
from config.receivers import LMTPReceiver, QueueReceiver, SMTPReceiver
from salmon_state import MemoryStorage, attach, detach
from tests.bombs import BOMBS
from tests.end_to_end.mail_server import wait_until
from tests.services import free_port


@pytest.fixture
def delivered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Gives the mails that reach the router."""
    found: list[Any] = []
    monkeypatch.setattr(Router, "deliver", found.append)
    return found


@pytest.fixture
def receiver() -> Iterator[SMTPReceiver]:
    made = SMTPReceiver("127.0.0.1", free_port())
    yield made
    made.stop()
    made.close()


@pytest.mark.parametrize(
    ("sender", "header"),
    [
        ("anna@example.com", "<anna@example.com>"),
        ("<>", "<>"),
        ("", "<>"),
        ('"a\nBcc: b"@x', '<"a Bcc: b"@x>'),
        ("\udcff@x", None),
        (b"anna@example.com", "<anna@example.com>"),
    ],
)
def test_handlers_hear_of_the_envelope(
    sender: str | bytes, header: str | None, receiver: SMTPReceiver, delivered: list[Any]
) -> None:
    data = b"From: x@y\nSubject: hi\n\nhello\n"
    assert receiver.process_message("peer", sender, "news@x", data) is None
    [mail] = delivered
    headers = mail.base.mime_part
    assert header is None or headers["Return-Path"] == header
    assert (headers["Subject"], mail.body()) == ("hi", "hello\n")
    assert sorted(headers.keys()) == ["From", "Return-Path", "Subject", "To"]


def test_a_mail_that_starts_like_an_mbox_keeps_its_headers(
    receiver: SMTPReceiver, delivered: list[Any]
) -> None:
    receiver.process_message("peer", "a@x", "news@x", "From a@x Mon Jan 1\nSubject: hi\n\nhello\n")
    assert delivered[0]["Subject"] == "hi"


def test_one_failed_accept_does_not_close_the_server(
    receiver: SMTPReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.close()
    assert receiver.accepting
    assert "A connection could not be accepted" in caplog.text


def test_no_more_mails_are_taken_than_workers_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_hand, finish = threading.Semaphore(0), threading.Event()

    def handle(_: object) -> None:
        in_hand.release()
        assert finish.wait(30)

    monkeypatch.setattr(Router, "deliver", handle)
    made = QueueReceiver(str(tmp_path / "queue"), workers=2)
    for _ in range(5):
        made.queue.push("From: a@x\nTo: news@x\n\nhello\n")
    running = threading.Thread(target=made.start)
    running.start()
    assert in_hand.acquire(timeout=30)
    assert in_hand.acquire(timeout=30)
    assert len(made.queue) == 3
    made.stop()
    finish.set()
    running.join()
    assert made.wait(30)


@pytest.mark.parametrize("kind", [SMTPReceiver, LMTPReceiver])
def test_who_says_nothing_is_hung_up_on_and_others_are_not(
    kind: type[SMTPReceiver | LMTPReceiver], delivered: list[Any]
) -> None:
    made = kind("127.0.0.1", free_port())
    made.idle_timeout = 0.5
    made.start()
    silent = socket.create_connection(made.addr, 30)
    talking = socket.create_connection(made.addr, 30)
    with silent, talking, silent.makefile("rb") as heard, talking.makefile("rb") as answers:
        assert heard.readline().startswith(b"220")
        assert answers.readline().startswith(b"220")
        while not select.select([silent], [], [], 0.05)[0]:
            talking.sendall(b"NOOP\r\n")
            assert answers.readline().startswith(b"250")
        assert heard.read() == b"421 4.4.2 Nothing heard for too long\r\n"
        talking.sendall(b"NOOP\r\n")
        assert answers.readline().startswith(b"250")
    made.stop()
    assert made.wait(30)


def test_silence_is_counted_by_the_receivers_own_clock(receiver: SMTPReceiver) -> None:
    """It all but stands still while a handler runs: what clients say then is not heard."""
    receiver.clock += 400.0
    with socket.create_connection(receiver.addr, 30):
        receiver.handle_accept()
        [channel] = [each for each in receiver._map.values() if isinstance(each, Channel)]
        receiver.clock += 300.0
        receiver._hang_up_on_the_silent()
        assert channel.connected
        receiver.clock += 1.0
        receiver._hang_up_on_the_silent()
        assert not channel.connected


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Type: text/plain\nFrom: =?utf-8?b?x?=\n\nhello\n",
        b"From: " + b"(" * 5_000 + b"\n\nhello\n",
        BOMBS["nested 3,000"],
    ],
    ids=["address", "comments", "nested"],
)
def test_a_mail_that_cannot_be_parsed_is_kept(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delivered: list[Any]
) -> None:
    undeliverable = queue.Queue(str(tmp_path / "undeliverable"))
    monkeypatch.setattr(Router, "UNDELIVERABLE_QUEUE", undeliverable)
    made = QueueReceiver(str(tmp_path / "queue"))
    made.queue.push(data)
    made.start(one_shot=True)
    assert (len(made.queue), len(undeliverable), delivered) == (0, 1, [])


def test_two_servers_share_a_queue(tmp_path: Path, delivered: list[Any]) -> None:
    servers = [QueueReceiver(str(tmp_path / "queue"), sleep=0.01) for _ in range(2)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for number in range(50):
        servers[0].queue.push(f"From: a@x\nTo: news@x\nSubject: {number}\n\nhello\n")
    wait_until(lambda: len(delivered) >= 50, "the mails")
    for server in servers:
        server.stop()
    for thread in threads:
        thread.join()
    assert sorted(int(mail["Subject"]) for mail in delivered) == list(range(50))


class Rest:
    """Stands in for the time that a worker rests after it has put a mail back."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.over = threading.Event()

    def sleep(self, _: float) -> None:
        self.begun.release()
        assert self.over.wait(30)


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Attaches a router that cannot handle the first two mails; gives those that reach it."""
    found: list[Any] = []

    def deliver(mail: Any) -> None:
        found.append(mail)
        if len(found) <= 2:
            raise SMTPError(451, "4.3.0 Not now")

    monkeypatch.setattr(Router, "deliver", deliver)
    monkeypatch.setattr(Router, "STATE_STORE", MemoryStorage())
    attach(Router)
    yield found
    detach(Router)


@pytest.fixture
def rest(monkeypatch: pytest.MonkeyPatch) -> Rest:
    made = Rest()
    monkeypatch.setattr("salmon_state.mail.delivery.time", SimpleNamespace(sleep=made.sleep))
    return made


def test_a_mail_that_was_put_back_comes_again_as_it_was(
    tmp_path: Path, outage: list[Any], rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    undeliverable = queue.Queue(str(tmp_path / "undeliverable"))
    monkeypatch.setattr(Router, "UNDELIVERABLE_QUEUE", undeliverable)
    rest.over.set()
    made = QueueReceiver(str(tmp_path / "queue"), workers=1)
    data = b"Return-Path: <Anna@x>\nFrom: Ben <b@y>\nTo: A list <c@y>\n\nh\xe9llo\n"
    made.queue.push(data)
    running = threading.Thread(target=made.start)
    running.start()
    wait_until(lambda: len(outage) == 3, "the mail to be taken")
    made.stop()
    running.join()
    assert {(mail.From, mail.To, mail.Data) for mail in outage} == {("anna@x", "c@y", data)}
    assert (len(made.queue), len(undeliverable)) == (0, 0)


def test_in_an_outage_all_workers_rest(tmp_path: Path, outage: list[Any], rest: Rest) -> None:
    made = QueueReceiver(str(tmp_path / "queue"), workers=2)
    made.queue.push("From: a@x\nTo: news@x\n\nhello\n")
    running = threading.Thread(target=made.start)
    running.start()
    for _ in range(2):
        assert rest.begun.acquire(timeout=30)
    assert (len(outage), len(made.queue)) == (2, 1)
    assert not made._free.acquire(blocking=False)  # nobody is left to try again

    rest.over.set()
    wait_until(lambda: len(outage) == 3, "the mail to be taken")
    made.stop()
    running.join()
    assert len(made.queue) == 0


def test_a_mail_that_was_put_back_is_behind_the_others(
    tmp_path: Path, outage: list[Any], rest: Rest
) -> None:
    rest.over.set()
    made = QueueReceiver(str(tmp_path / "queue"), workers=1)
    for number in range(3):
        new = tmp_path / "queue" / "new" / f"170000000{number}.x"
        new.write_text(f"From: a@x\nTo: news@x\nSubject: {number}\n\nhello\n")
    running = threading.Thread(target=made.start)
    running.start()
    wait_until(lambda: len(outage) == 5, "the mails to be taken")
    made.stop()
    running.join()
    assert [mail["Subject"] for mail in outage] == ["0", "1", "2", "0", "1"]


def test_mails_come_in_the_order_of_their_times(
    tmp_path: Path, outage: list[Any], rest: Rest
) -> None:
    """Salmon, and Python's mailbox, write microseconds without leading zeros."""
    rest.over.set()
    made = QueueReceiver(str(tmp_path / "queue"), workers=1)
    for number, microseconds in enumerate((9, 99_999, 100_000, 999_999)):
        new = tmp_path / "queue" / "new" / f"1700000000.M{microseconds}P1Q{20 - number}.x"
        new.write_text(f"From: a@x\nTo: news@x\nSubject: {number}\n\nhello\n")
    running = threading.Thread(target=made.start)
    running.start()
    wait_until(lambda: len(outage) >= 4, "the mails to be taken")
    made.stop()
    running.join()
    assert [mail["Subject"] for mail in outage[:4]] == ["0", "1", "2", "3"]
