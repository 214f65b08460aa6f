"""Clients that mean harm, or do it, and a queue directory that holds what is no mail."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import smtplib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bombs import nested
from tests.end_to_end.conftest import Serve, States
from tests.end_to_end.conversation import ask, confirm
from tests.end_to_end.mail_server import MailServer, of_threads, wait_until

ANNA = "anna@example.com"
LIMIT = 100_000

both = pytest.mark.parametrize("receiver", ["smtp", "lmtp"])


@contextlib.contextmanager
def clients(server: MailServer, number: int) -> Iterator[list[socket.socket]]:
    """Connects many clients that say nothing."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30))
            for _ in range(number)
        ]


def test_many_clients_may_come_at_once(serve: Serve) -> None:
    server = serve()
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)  # it accepts nobody: the kernel does
    try:
        with clients(server, 200):
            server.process.send_signal(signal.SIGCONT)
            server.send(ANNA, "news-subscribe")
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_without_descriptors_it_waits_and_goes_on(serve: Serve) -> None:
    server = serve()
    assert server.process is not None
    ask(server, ANNA)  # and what is sent needs no descriptors later
    opened = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (opened + 20, hard))
    with clients(server, 60):
        wait_until(lambda: "no more clients are accepted" in server.output(), "a line in the log")
        before = turns(server)
        wait_until(lambda: turns(server) > before + 2, "it to look again and again")
        assert server.output().count("no more clients are accepted") == 2  # log and terminal
        assert "Traceback" not in server.output(), server.output()
    server.send("ben@example.com", "news-subscribe")
    server.wait_for_mail("ben@example.com", "Please confirm")
    assert server.stop() == 0


def turns(server: MailServer) -> int:
    """Returns how often the server's threads have waited for something."""
    assert server.process is not None
    lines = [line for text in of_threads(server.process.pid, "status") for line in text.split("\n")]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def test_some_descriptors_are_left_for_handlers(serve: Serve) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        server = serve(how="serve")  # a process that is started by this one has its limits
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    with server.connection() as early, clients(server, 150):
        wait_until(lambda: "50 clients are connected" in server.output(), "a line in the log")
        early.sendmail(ANNA, [server.address("news-subscribe")], "From: a@x\r\n\r\nhello\r\n")
    server.wait_for_mail(ANNA, "Please confirm")


@both
def test_a_mail_has_a_size_limit_and_what_is_beyond_is_not_kept(
    receiver: str, serve: Serve
) -> None:
    server = serve(receiver=receiver, SIZE_LIMIT=str(LIMIT))
    before = peak(server)
    with server.connection() as connection:
        connection.ehlo_or_helo_if_needed()
        assert connection.esmtp_features["size"] == str(LIMIT)
        assert connection.mail(ANNA, ["size=100001"])[0] == 552
        assert connection.mail(ANNA)[0] == 250
        assert connection.rcpt(server.address("news-subscribe"))[0] == 250
        assert connection.data(b"Subject: hi\r\n\r\n" + b"x\r\n" * 20_000_000)[0] == 552
        assert peak(server) - before < 20_000  # kB
        assert server.mail_to(ANNA) == []
        connection.sendmail(
            ANNA, [server.address("news-subscribe")], b"X: y\r\n\r\n" + b"x" * (LIMIT - 20)
        )
    server.wait_for_mail(ANNA, "Please confirm")


def test_a_line_that_never_ends(serve: Serve) -> None:
    server = serve()
    before = peak(server)
    with clients(server, 1) as [client], contextlib.suppress(ConnectionError):
        for _ in range(1_000):
            client.sendall(b"x" * 65_536)
    assert peak(server) - before < 20_000  # kB
    server.send(ANNA, "news-subscribe")


def peak(server: MailServer) -> int:
    """Returns the most memory that the server ever had, in kB."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


@both
@pytest.mark.parametrize("depth", [300, 3_000])
def test_a_forged_mail_costs_a_subscriber_nothing(
    depth: int, receiver: str, serve: Serve, states: States
) -> None:
    server = serve(receiver=receiver)
    confirm(server, ANNA, ask(server, ANNA))
    with server.connection() as connection:
        with pytest.raises(smtplib.SMTPDataError) as refused:
            connection.sendmail(ANNA, [server.address("news")], nested(depth))
        assert refused.value.smtp_code == 554
        assert isinstance(refused.value.smtp_error, bytes)
        assert refused.value.smtp_error.startswith(b"5.6.0 This mail ")
    assert states() == {ANNA: "POSTING"}
    assert list((server.directory / "run" / "undeliverable" / "new").iterdir()) == []


def test_what_is_no_mail_is_left_in_the_queue(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(receiver="queue", SIZE_LIMIT=str(LIMIT))
    new = server.directory / "run" / "queue" / "new"
    os.mkfifo(new / "1.fifo")
    (new / "1.directory").mkdir()
    (new / "1.dangling").symlink_to("nowhere")
    (new / "1.device").symlink_to("/dev/zero")
    (server.directory / "large").write_bytes(b"x" * (LIMIT + 1))
    (server.directory / "large").rename(new / "1.large")  # and is never seen while it is small
    with socket.socket(socket.AF_UNIX) as listening:
        with monkeypatch.context() as patch:
            patch.chdir(new)  # a socket's whole path may be too long for its address
            listening.bind("1.socket")
        server.send(ANNA, "news-subscribe")
        server.wait_for_mail(ANNA, "Please confirm")
    log = (server.directory / "logs" / "salmon.log").read_text()
    names = {path.name for path in new.iterdir()}
    assert names == {
        f"1.{n}" for n in ("fifo", "directory", "dangling", "device", "large", "socket")
    }
    for name in names:
        assert log.count(f"{new / name} is left alone") == 1
    assert server.stop(signal.SIGTERM) == 0
