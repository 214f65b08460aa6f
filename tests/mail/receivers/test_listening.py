"""What SMTPReceiver and LMTPReceiver hear and answer; the rest is tested end to end."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from salmon.queue import Queue
from salmon.routing import Router
from salmon.server import SMTPError

from salmon_state import ConfigurationError, MemoryStorage, attach, detach
from salmon_state.mail.receivers import Limits, LMTPReceiver, SMTPReceiver
from tests.mail.receivers.serving import HANG, Client, codes, routes, serving

both = pytest.mark.parametrize("kind", ["smtp", "lmtp"])


@pytest.fixture
def delivered() -> Iterator[list[Any]]:
    """Gives the mails that reach the router, which has a route for each address of x."""
    found: list[Any] = []
    with routes(found.append):
        yield found


@pytest.mark.parametrize(
    ("sender", "header"),
    [
        ("anna@example.com", "<anna@example.com>"),
        ("", "<>"),
        ('"a b <c>"@x', '<"a b <c>"@x>'),
    ],
)
def test_handlers_hear_of_the_envelope(sender: str, header: str, delivered: list[Any]) -> None:
    with serving("smtp") as receiver, Client(receiver) as client:
        client.hello()
        assert codes(client.envelope(sender, "news@x")) == [250, 250]
        data = b"From: y@z\r\nSubject: hi\r\n\r\nhello\r\n..dot\r\n.\r\n"
        assert client.send(data) == [b"250 2.0.0 OK"]
    [mail] = delivered
    assert (mail.From, mail.To) == (sender or "y@z", "news@x")
    headers = mail.base.mime_part
    assert headers["Return-Path"] == header
    assert (headers["Subject"], mail.body()) == ("hi", "hello\n.dot")
    assert mail.Peer[0] == "127.0.0.1"


def test_a_mail_that_starts_like_an_mbox_keeps_its_headers(delivered: list[Any]) -> None:
    with serving("smtp") as receiver, Client(receiver) as client:
        client.hello()
        client.envelope("a@x", "news@x")
        client.send(b"From a@x Mon Jan 1\r\nSubject: hi\r\n\r\nhello\r\n.\r\n")
    assert delivered[0]["Subject"] == "hi"


@both
def test_what_is_offered_comes_at_once(kind: str) -> None:
    with serving(kind, limits=Limits(size=1000)) as receiver, Client(receiver, kind) as client:
        assert client.greeting.startswith(b"220 here ")
        client.socket.sendall(b"LHLO x\r\n" if kind == "lmtp" else b"EHLO x\r\n")
        assert client.socket.recv(4096).split(b"\r\n") == [
            b"250-here",
            b"250-SIZE 1000",
            b"250-8BITMIME",
            b"250-SMTPUTF8",
            b"250-PIPELINING",
            b"250 ENHANCEDSTATUSCODES",
            b"",
        ]


# ------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    "address",
    [
        "o'neil+tag=1@x",
        '"quoted \\" local"@x',
        "a..b@x",
        "a@[192.0.2.1]",
        "a@[ipv6:2001:db8::1]",
        "\u212a\u00e4@x.\u00e4.example",
    ],
)
def test_addresses_arrive_as_they_are_written(address: str, delivered: list[Any]) -> None:
    with serving("smtp") as receiver, Client(receiver) as client:
        client.hello()
        assert client.say(f"MAIL FROM:<{address}> SMTPUTF8 SIZE=10".encode()) == b"250 2.1.0 OK"
        assert client.say(b"RCPT TO: <news@x>") == b"250 2.1.5 OK"
        client.send(b"Subject: hi\r\n\r\nhello\r\n.\r\n")
    assert delivered[-1].From == address


def test_capital_letters_are_small_as_with_salmon(delivered: list[Any]) -> None:
    with serving("smtp") as receiver, Client(receiver) as client:
        client.hello()
        client.envelope("Anna@Example.COM", "News@X")
        client.send(b"Subject: hi\r\n\r\nhello\r\n.\r\n")
    assert (delivered[0].From, delivered[0].To) == ("anna@example.com", "news@x")


@both
@pytest.mark.parametrize(
    "address",
    [
        b"<a@b.com.>",
        b"<a@b@c>",
        b"<a@>",
        b"<@b>",
        b"<a>",
        b"<a b@x>",
        b"<a@x",
        b"a@x",
        b"<a@x>b",
        b"<a@-x>",
        b"<a@x..y>",
        b"<a\0b@x>",
        b"<a\rb@x>",
        b"<\xff@x>",
        b"<(comment)a@x>",
        b'<"a@x>',
        b"<@a,@b:c@x>",
    ],
    ids=repr,
)
def test_what_is_no_address_is_refused(kind: str, address: bytes) -> None:
    with serving(kind) as receiver, Client(receiver, kind) as client:
        client.hello()
        assert client.say(b"MAIL FROM:" + address) == b"553 5.1.3 Error: malformed address"
        assert client.say(b"MAIL FROM:<a@x>") == b"250 2.1.0 OK"
        assert client.say(b"RCPT TO:" + address) == b"553 5.1.3 Error: malformed address"


def test_other_letters_need_smtputf8() -> None:
    with serving("smtp") as receiver, Client(receiver) as client:
        client.hello()
        refused = b"553 5.6.7 An address with such letters needs SMTPUTF8"
        assert client.say("MAIL FROM:<\u212a@x>".encode()) == refused
        assert client.say(b"MAIL FROM:<a@x>") == b"250 2.1.0 OK"
        assert client.say("RCPT TO:<\u212a@x>".encode()) == refused


# ------------------------------------------------------------------------ recipients


@both
def test_a_recipient_without_a_route_is_refused(
    kind: str, delivered: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = b"550 5.1.1 Nobody has this address here"
    with serving(kind) as receiver, Client(receiver, kind) as client:
        client.hello()
        answers = client.envelope("a@x", "nobody@elsewhere", "postmaster", "postmaster@x")
        assert answers == [b"250 2.1.0 OK", unknown, unknown, b"250 2.1.5 OK"]
        client.say(b"RSET")
        monkeypatch.setattr(Router, "UNDELIVERABLE_QUEUE", Queue(str(tmp_path / "undeliverable")))
        assert codes(client.envelope("a@x", "Postmaster")) == [250, 250]
    with serving(kind, check_recipients=False) as receiver, Client(receiver, kind) as client:
        client.hello()
        assert codes(client.envelope("a@x", "nobody@elsewhere")) == [250, 250]


MAIL = b"Subject: hi\r\n\r\nhello\r\n.\r\n"


def test_lmtp_answers_each_recipient() -> None:
    def handle(mail: Any) -> None:
        if mail.To != "fine@x":
            raise SMTPError(int(mail.To[:3]), f"no {mail.To}\r\n250 smuggled \u00e4")

    with routes(handle), serving("lmtp") as receiver, Client(receiver, "lmtp") as client:
        client.hello()
        assert codes(client.envelope("a@y", "450@x", "fine@x", "nobody@y", "550@x"))[3] == 550
        assert client.send(MAIL, 3) == [
            b"450 4.0.0 no 450@x 250 smuggled",
            b"250 2.0.0 OK",
            b"550 5.0.0 no 550@x 250 smuggled",
        ]
        assert client.say(b"NOOP") == b"250 2.0.0 OK"


def test_with_smtp_it_is_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who got the mail does not get it again when it comes back; a refusal is heard at last."""
    handled: list[str] = []
    failing = {"b@x"}

    def deliver(mail: Any) -> None:
        if mail.To in failing:
            raise SMTPError(450, "4.3.0 not now")
        if mail.To == "refused@x":
            raise SMTPError(550, "5.7.1 no")
        handled.append(mail.To)

    with routes(deliver), serving("smtp") as receiver, Client(receiver) as client:
        client.hello()
        assert codes(client.envelope("a@y", "a@x", "b@x")) == [250, 250, 452]
        client.say(b"RSET")
        attach(Router, MemoryStorage(), once_within=timedelta(days=1))
        try:
            for answer in (b"450 4.3.0 not now", b"550 5.7.1 no"):
                assert codes(client.envelope("a@y", "a@x", "b@x", "refused@x"))[1:] == [250] * 3
                assert client.send(MAIL) == [answer]
                failing.clear()
        finally:
            detach(Router)
    assert handled == ["a@x", "b@x"]


@both
def test_what_a_handler_lets_out_keeps_the_mail(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(mail: Any) -> None:
        raise ZeroDivisionError

    queue = Queue(str(tmp_path / "undeliverable"))
    with routes(handle), serving(kind) as receiver, Client(receiver, kind) as client:
        client.hello()
        client.envelope("a@y", "a@x")
        assert codes(client.send(MAIL)) == [451]
        monkeypatch.setattr(Router, "UNDELIVERABLE_QUEUE", queue)
        client.envelope("a@y", "a@x")
        assert codes(client.send(MAIL)) == [250]
    assert len(queue) == 1


# ------------------------------------------------------------------------ TLS, sockets, extras


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate for localhost and its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = path.with_name("key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(path)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    path.write_text(path.read_text() + key.read_text())
    return path


def test_tls(certificate: Path, delivered: list[Any]) -> None:
    """What was said in the clear behind STARTTLS is not heard: somebody may have put it there."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with serving("smtp", tls=context) as receiver, Client(receiver) as client:
        assert b"250-STARTTLS" in client.hello()
        client.socket.sendall(b"STARTTLS\r\nMAIL FROM:<smuggled@x>\r\n")
        assert client.answer().startswith(b"220")
        client._file.close()
        client.socket = trusting.wrap_socket(client.socket, server_hostname="localhost")
        client._file = client.socket.makefile("rb")
        assert b"STARTTLS" not in client.hello()
        assert b"AUTH" not in client.hello()
        client.envelope("a@y", "news@x")
        assert codes(client.send(MAIL)) == [250]
    assert [mail.From for mail in delivered] == ["a@y"]


def test_who_cannot_tls_is_let_go(certificate: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with serving("smtp", tls=context) as receiver:
        for garbage in (b"EHLO x\r\n", b"\x16\x03\x01\xff\xff", b""):
            with Client(receiver) as client:
                client.hello()
                assert client.say(b"STARTTLS").startswith(b"220")
                client.socket.sendall(garbage)
        with Client(receiver) as client:
            assert client.hello().startswith(b"250")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_unix_socket_with_permissions(tmp_path: Path, delivered: list[Any]) -> None:
    path = tmp_path / "lmtp"
    for _ in range(2):  # and what one left there is no obstacle
        with (
            serving("lmtp", socket=str(path), socket_mode=0o620) as receiver,
            Client(receiver, "lmtp") as client,
        ):
            assert stat.S_IMODE(path.stat().st_mode) == 0o620
            with pytest.raises(OSError, match="in use"):
                LMTPReceiver(socket=str(path))
            client.hello()
            client.envelope("a@y", "news@x")
            assert codes(client.send(MAIL)) == [250]
    assert len(delivered) == 2
    with socket.socket(socket.AF_UNIX) as killed_before_it_was_named:
        killed_before_it_was_named.bind(f"{path}.{os.getpid()}")
    with serving("lmtp", socket=str(path)) as receiver, Client(receiver, "lmtp") as client:
        client.hello()
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match="in use"):
        LMTPReceiver(socket=str(tmp_path / "file"))
    too_long = str(tmp_path / ("x" * 100))
    with pytest.raises(OSError, match=r"too long for a Unix socket: '.*xxx'") as refused:
        LMTPReceiver(socket=too_long)
    assert refused.value.strerror  # which an application shows


def test_a_proxy_says_who_the_client_is(delivered: list[Any]) -> None:
    with (
        serving("smtp", proxy_protocol=True) as receiver,
        socket.create_connection(receiver.address, HANG) as client,
        client.makefile("rb") as heard,
    ):
        client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 25\r\n")
        lines = [b"EHLO x", b"MAIL FROM:<a@y>", b"RCPT TO:<news@x>", b"DATA", MAIL[:-2]]
        client.sendall(b"\r\n".join(lines) + b"\r\nQUIT\r\n")
        assert heard.read().endswith(b"250 2.0.0 OK\r\n221 2.0.0 Bye\r\n")
    assert delivered[0].Peer == ("192.0.2.7", 4711)


def test_without_aiosmtpd_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiosmtpd", None)
    with pytest.raises(ConfigurationError, match="pip install aiosmtpd"):
        SMTPReceiver(port=0)


def test_what_cannot_work_is_said() -> None:
    with pytest.raises(ConfigurationError, match="workers: expected 1 or more, got 0"):
        SMTPReceiver(port=0, workers=0)
    with pytest.raises(ValueError, match="size must be a positive number, got 0"):
        Limits(size=0)


# ------------------------------------------------------------------------ the end


@both
def test_the_mail_in_hand_is_finished_before_the_end(kind: str) -> None:
    """Others hear that they should come again: who is connected, and who comes then."""
    in_hand, go_on = threading.Event(), threading.Event()

    handled: list[object] = []

    def handle(mail: object) -> None:
        handled.append(mail)
        in_hand.set()
        assert go_on.wait(HANG)

    with (
        routes(handle),
        serving(kind) as receiver,
        Client(receiver, kind) as client,
        Client(receiver, kind) as idle,
    ):
        client.hello()
        client.envelope("a@y", "news@x")
        client.say(b"DATA")
        again = b"MAIL FROM:<a@y>\r\nRCPT TO:<news@x>\r\nDATA\r\n" + MAIL
        client.socket.sendall(MAIL + again)
        assert in_hand.wait(HANG)
        receiver.stop()
        assert idle.answer().startswith(b"421 4.3.2")
        with Client(receiver, kind) as late:
            assert late.greeting.startswith(b"421 4.3.2")
        assert not receiver.wait(0.0)
        go_on.set()
        assert client.answer() == b"250 2.0.0 OK"
        assert client.answer().startswith(b"421 4.3.2")
        assert receiver.wait(HANG)
    assert len(handled) == 1


def test_a_mail_that_takes_too_long_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    in_hand, go_on = threading.Event(), threading.Event()

    def handle(_: object) -> None:
        in_hand.set()
        go_on.wait(HANG)

    with routes(handle):
        with (
            serving("smtp", limits=Limits(ending=0.2)) as receiver,
            Client(receiver) as client,
        ):
            client.hello()
            client.envelope("a@y", "news@x")
            client.say(b"DATA")
            client.socket.sendall(MAIL)
            assert in_hand.wait(HANG)
            receiver.stop()
            assert client.answer().startswith(b"421 4.3.2")
        go_on.set()
    assert "given up" in caplog.text
