"""Clients that mean harm, or are slow, broken or many."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salmon_state.mail.receivers import Limits, SMTPReceiver
from tests.mail.receivers.serving import HANG, Client, codes, routes, serving

both = pytest.mark.parametrize("kind", ["smtp", "lmtp"])
MAIL = b"Subject: hi\r\n\r\nhello\r\n.\r\n"
LINES = [
    *(b"", b" ", b".", b"EHLO x", b"HELO", b"DATA", b"DATA x", b"RSET", b"AUTH PLAIN", b"STARTTLS"),
    *(b"HELP", b"VRFY x", b"MAIL FROM:", b"MAIL FROM:<a@x>", b"RCPT TO:<a@x> NOTIFY=NEVER"),
    *(b"MAIL FROM:<a@x> SIZE=x", b"MAIL FROM:<a@x> SIZE=99999999999999999999"),
    *(b"MAIL FROM:<a@x> BODY=9BIT", b"MAIL FROM:<a@x> SMTPUTF8=1", b"RCPT TO:<>", b"RCPT TO:<a@x>"),
]


@pytest.fixture(scope="module")
def delivered() -> Iterator[list[Any]]:
    found: list[Any] = []
    with routes(found.append):
        yield found


@pytest.fixture(scope="module")
def receiver(delivered: list[Any]) -> Iterator[SMTPReceiver]:
    with serving("smtp", limits=Limits(size=100_000)) as running:
        yield running


@pytest.fixture
def client(receiver: SMTPReceiver, delivered: list[Any]) -> Iterator[Client]:
    """One that may send its mail now."""
    delivered.clear()
    with Client(receiver) as made:
        made.hello()
        assert codes(made.envelope("a@y", "news@x")) == [250, 250]
        yield made


@pytest.mark.parametrize(
    "end",
    [
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r\n.\r",
        b"\r\n\0.\r\n",
        b"\n\n.\r\n",
    ],
    ids=repr,
)
def test_no_other_end_smuggles_a_mail(end: bytes, client: Client, delivered: list[Any]) -> None:
    smuggled = b"MAIL FROM:<b@y>\r\nRCPT TO:<news@x>\r\nDATA\r\nsmuggled\r\n"
    assert client.send(b"Subject: hi\r\n\r\nhello" + end + smuggled + b".\r\n") == [b"250 2.0.0 OK"]
    assert client.say(b"NOOP") == b"250 2.0.0 OK"
    [mail] = delivered
    assert mail.From == "a@y"
    assert "smuggled" in mail.body()


@given(
    text=st.lists(
        st.sampled_from([b".", b"\r", b"\n", b"\r\n", b"x", b"\0", b"\xff"]), max_size=12
    ),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    follows=st.sampled_from([b"", b"NOOP\r\n"]),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_mail_arrives_as_it_was_sent(
    text: list[bytes],
    sizes: list[int],
    follows: bytes,
    receiver: SMTPReceiver,
    delivered: list[Any],
) -> None:
    """Whatever is in it and wherever it is cut into packets."""
    delivered.clear()
    body = b"".join(text)
    lines = (b"X: y\r\n\r\n" + body).split(b"\r\n")
    sent = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines)
    sent += b"\r\n.\r\n" + follows
    with Client(receiver) as client:
        client.hello()
        client.envelope("a@y", "news@x")
        client.say(b"DATA")
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for size in sizes:
            client.socket.sendall(sent[:size])
            sent = sent[size:]
        client.socket.sendall(sent)
        assert client.answer() == b"250 2.0.0 OK"
        assert not follows or client.answer() == b"250 2.0.0 OK"
    [mail] = delivered
    assert mail.Data == b"Return-Path: <a@y>\r\n" + b"\n".join(lines)


def test_a_mail_may_be_empty(client: Client, delivered: list[Any]) -> None:
    assert client.send(b".\r\n") == [b"250 2.0.0 OK"]
    assert len(delivered) == 1


@given(lines=st.lists(st.binary(max_size=20) | st.sampled_from(LINES), max_size=8))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_client_says_it_is_answered(
    lines: list[bytes], receiver: SMTPReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(receiver) as client:
        client.socket.sendall(b"".join(line + b"\r\n" for line in lines))
        client.socket.shutdown(socket.SHUT_WR)  # it listens on
        while answer := client.answer():
            assert 200 <= int(answer[:3]) < 600
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_client_that_stops_talking_still_hears(client: Client, delivered: list[Any]) -> None:
    client.socket.sendall(b"DATA\r\n" + MAIL + b"RSET\r\n")
    client.socket.shutdown(socket.SHUT_WR)
    assert [client.answer() for _ in range(4)] == [
        b"354 End data with <CR><LF>.<CR><LF>",
        b"250 2.0.0 OK",
        b"250 2.0.0 OK",
        b"",
    ]


def test_a_client_that_says_all_at_once_and_stops_talking_hears_all(
    client: Client, delivered: list[Any]
) -> None:
    """While the first mail is handled, everything has come, and the end as well."""
    again = b"MAIL FROM:<a@y>\r\nRCPT TO:<news@x>\r\nDATA\r\n"
    client.socket.sendall(b"DATA\r\n" + 2 * (MAIL + again) + MAIL + b"QUIT\r\n")
    client.socket.shutdown(socket.SHUT_WR)
    heard = codes(list(iter(client.answer, b"")))
    assert heard == [354, 250, *(2 * [250, 250, 354, 250]), 221]
    assert len(delivered) == 3


def test_a_mail_that_was_not_finished_is_none(client: Client, delivered: list[Any]) -> None:
    client.socket.sendall(b"DATA\r\nSubject: hi\r\n\r\nhello\r\n.")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.answer().startswith(b"354")
    assert client.answer() == b""
    assert delivered == []


def test_a_command_has_a_longest_line(client: Client) -> None:
    assert client.say(b"NOOP " + b"x" * 1_000_000).startswith(b"500 5.0.0 Command line too long")
    assert client.say(b"NOOP " + b"x" * 3_000).startswith(b"500 5.0.0 Command line too long")
    assert client.send(MAIL) == [b"250 2.0.0 OK"]


@pytest.mark.parametrize("line", [b"x" * 200_000, b"x\r\n" * 70_000, b"\r\n" * 100_000])
def test_a_mail_that_is_too_large_is_read_to_its_end(line: bytes, client: Client) -> None:
    assert codes(client.send(line + b"\r\n.\r\n")) == [552]
    assert client.say(b"MAIL FROM:<a@y> SIZE=100001").startswith(b"552")
    assert client.say(b"MAIL FROM:<a@y> SIZE=100000") == b"250 2.1.0 OK"
    client.say(b"RCPT TO:<news@x>")
    assert client.send(b"x" * 99_998 + b"\r\n.\r\n") == [b"250 2.0.0 OK"]


@both
def test_ten_thousand_recipients(kind: str, delivered: list[Any]) -> None:
    with (
        serving(kind, check_recipients=False, limits=Limits(recipients=3)) as running,
        Client(running, kind) as client,
    ):
        client.hello()
        client.say(b"MAIL FROM:<a@y>")
        block = b"RCPT TO:<news@x>\r\n" * 500
        answers = []
        for _ in range(20):
            client.socket.sendall(block)
            answers += [client.answer() for _ in range(500)]
        taken = 3 if kind == "lmtp" else 1  # which there are without an inbox
        assert codes(answers) == [250] * taken + [452] * (10_000 - taken)


def test_memory_is_bounded_over_all_clients(delivered: list[Any]) -> None:
    """What a mail takes in hand is not there while another client sends."""
    with (
        serving("smtp", limits=Limits(size=40_000, memory=320_000)) as running,
        Client(running) as other,
        Client(running) as client,
    ):
        for each in (other, client):
            each.hello()
            each.envelope("a@y", "news@x")
            each.say(b"DATA")
        other.socket.sendall(b"x" * 30_000)
        wait_until(lambda: running._service.memory <= 290_000)
        client.socket.sendall(b"x" * 39_900 + b"\r\n.\r\n")
        assert client.answer().startswith(b"452 4.3.1")
        other.__exit__()
        wait_until(lambda: running._service.memory == 320_000)
        client.envelope("a@y", "news@x")
        assert client.send(b"x" * 39_900 + b"\r\n.\r\n") == [b"250 2.0.0 OK"]
        wait_until(lambda: running._service.memory == 320_000)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_clients_that_vanish_leave_no_trace(
    receiver: SMTPReceiver, delivered: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """With a reset, in the middle of whatever they were saying."""
    hello = b"EHLO x\r\nMAIL FROM:<a@y>\r\nRCPT TO:<news@x>\r\n"
    for said in (b"", b"EHLO x\r\n" * 20_000, hello + b"DATA\r\nhello", hello + b"DATA\r\n" + MAIL):
        for _ in range(3):
            with socket.create_connection(receiver.address, HANG) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.sendall(said)
    with Client(receiver) as next_one:  # which comes in behind all of them
        assert next_one.hello().startswith(b"250")
        wait_until(lambda: len(receiver._service._clients) == 1)
        wait_until(receiver._service._workers.idle.is_set)
        gc.collect()  # a task whose error nobody took says so when it goes
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@both
def test_connections_are_bounded(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    for limits in (Limits(connections=3), Limits(connections_of_address=3)):
        caplog.clear()
        with serving(kind, limits=limits) as running, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(running, kind)) for _ in range(6)]
            assert codes([each.greeting for each in clients]) == [220] * 3 + [421] * 3
            assert len([record for record in caplog.records if "connect" in record.message]) == 1
            clients[0].say(b"QUIT")
            assert clients[0].answer() == b""
            wait_until(lambda: len(running._service._clients) == 2)
            assert stack.enter_context(Client(running, kind)).greeting.startswith(b"220")


@both
@pytest.mark.parametrize(
    "said", [b"", b"NOO", b"MAIL FROM:<a@y>\r\nRCPT TO:<a@x>\r\nDATA\r\nhello"]
)
def test_who_says_nothing_is_hung_up_on(kind: str, said: bytes, delivered: list[Any]) -> None:
    with (
        serving(kind, limits=Limits(silence=0.2)) as running,
        Client(running, kind) as client,
    ):
        heard = []
        with contextlib.suppress(ConnectionError):  # it may be hung up on before it has begun
            client.socket.sendall(client.hello_line + said)
            while answer := client.answer():
                heard.append(answer)
        assert heard[-1] == b"421 4.4.2 Nothing heard for too long"


def test_a_drop_each_moment_is_no_mail(delivered: list[Any]) -> None:
    """Never silent for long, but never done either."""
    with (
        serving("smtp", limits=Limits(silence=20.0, mail_time=0.3)) as running,
        Client(running) as client,
    ):
        client.hello()
        client.envelope("a@y", "news@x")
        client.say(b"DATA")
        client.socket.settimeout(0.02)
        heard = b""
        until = time.monotonic() + HANG
        while not heard:
            assert time.monotonic() < until
            with contextlib.suppress(ConnectionError):  # hung up on, and what was said is there
                client.socket.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                heard = client.socket.recv(100)
        assert heard.startswith(b"421 4.4.2")


@pytest.mark.stress
def test_who_does_not_listen_is_hung_up_on(delivered: list[Any]) -> None:
    with serving("smtp", limits=Limits(silence=0.3)) as running, Client(running) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.socket.settimeout(0.1)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(10_000):
                client.socket.sendall(b"EHLO x\r\n" * 10_000)
        wait_until(lambda: not running._service._clients)


# ------------------------------------------------------------------------ senders and their turns


def test_a_flood_of_one_sender_does_not_stop_others() -> None:
    """There are two workers, and many mails of one sender whose handler hangs."""
    go_on = threading.Event()
    handled: list[str] = []

    def handle(mail: Any) -> None:
        if mail.From == "flood@y":
            assert go_on.wait(HANG)
        handled.append(mail.body())

    with routes(handle), serving("smtp", workers=2) as running, contextlib.ExitStack() as stack:
        flood = [stack.enter_context(Client(running)) for _ in range(10)]
        for number, each in enumerate(flood):
            each.hello()
            each.envelope("flood@y", "news@x")
            each.say(b"DATA")
            each.socket.sendall(b"X: y\r\n\r\n%d\r\n.\r\n" % number)
            until = time.monotonic() + HANG
            while sum(client.has_mail for client in running._service._clients) <= number:
                assert time.monotonic() < until
                time.sleep(0.001)
        with Client(running) as other:
            other.hello()
            for _ in range(5):
                other.envelope("other@y", "news@x")
                assert other.send(b"X: y\r\n\r\nother\r\n.\r\n") == [b"250 2.0.0 OK"]
        go_on.set()
        assert [each.answer() for each in flood] == [b"250 2.0.0 OK"] * 10
    assert handled == ["other"] * 5 + [str(number) for number in range(10)]


def test_a_mail_whose_turn_does_not_come_is_to_come_again() -> None:
    go_on = threading.Event()
    handled: list[Any] = []

    def handle(mail: Any) -> None:
        handled.append(mail)
        assert go_on.wait(HANG)

    with (
        routes(handle),
        serving("smtp", limits=Limits(waiting=0.2)) as running,
        Client(running) as first,
        Client(running) as second,
        Client(running) as gone,
    ):
        for each in (first, second, gone):
            each.hello()
            each.envelope("a@y", "news@x")
            each.say(b"DATA")
            each.socket.sendall(MAIL)
        gone.__exit__()
        until = time.monotonic() + HANG
        while len(running._service._clients) > 2:  # before that it has not gone for the server
            assert time.monotonic() < until
            time.sleep(0.001)
        assert second.answer() == b"451 4.3.2 Too busy, please try again"
        go_on.set()
        assert first.answer() == b"250 2.0.0 OK"
    assert len(handled) == 1
