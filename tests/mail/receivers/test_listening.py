"""What SMTPReceiver and LMTPReceiver do that Salmon's do not; the rest is tested end to end."""

from __future__ import annotations

import select
import smtplib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from salmon.routing import Router

from salmon_state.mail.receivers import LMTPReceiver, SMTPReceiver
from salmon_state.mail.receivers.channels import Channel
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


@pytest.mark.filterwarnings("ignore:Access to __:DeprecationWarning")  # which Salmon's does
@pytest.mark.parametrize(
    ("kind", "client"),
    [(SMTPReceiver, smtplib.SMTP), (LMTPReceiver, smtplib.LMTP)],
    ids=["smtp", "lmtp"],
)
def test_the_mail_in_hand_is_finished_before_the_end(
    kind: type[SMTPReceiver | LMTPReceiver],
    client: type[smtplib.SMTP],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_hand, go_on = threading.Event(), threading.Event()

    def handle(_: object) -> None:
        in_hand.set()
        assert go_on.wait(30)

    monkeypatch.setattr(Router, "deliver", handle)
    made = kind("127.0.0.1", free_port())
    made.start()
    answers: list[int] = []

    def send() -> None:
        connection = client(*made.addr, timeout=30)
        connection.ehlo_or_helo_if_needed()
        connection.mail("a@x")
        connection.rcpt("news@x")
        answers.append(connection.data("Subject: hi\n\nhello\n")[0])
        connection.close()

    sending = threading.Thread(target=send)
    sending.start()
    arrived = in_hand.wait(30)
    made.stop()
    ended_early = made.wait(0.0)
    go_on.set()
    sending.join()
    assert (arrived, ended_early) == (True, False)
    assert made.wait(30)
    assert answers == [250]
