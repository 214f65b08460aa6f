"""What our receivers do that Salmon's do not; the rest is tested end to end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from salmon import queue
from salmon.routing import Router

from config.receivers import QueueReceiver, SMTPReceiver
from tests.end_to_end.mail_server import free_port, wait_until


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


def test_a_mail_that_cannot_be_parsed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delivered: list[Any]
) -> None:
    undeliverable = queue.Queue(str(tmp_path / "undeliverable"))
    monkeypatch.setattr(Router, "UNDELIVERABLE_QUEUE", undeliverable)
    made = QueueReceiver(str(tmp_path / "queue"))
    made.queue.push(b"Content-Type: text/plain\nFrom: =?utf-8?b?x?=\n\nhello\n")
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
