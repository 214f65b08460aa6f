"""Receivers that are stopped and killed in mid-load, and clients that send far too much."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postfix import Postfix
from tests.services import Missing, free_port

MAILS, SENDERS, ENDINGS = 1_500, 50, 100
PATIENCE = 300.0

SERVER = """\
import logging, os, sys, time
from datetime import timedelta
from salmon.routing import Router
from salmon_state import attach, open_storage
from salmon_state.mail.receivers import Limits, LMTPReceiver, SMTPReceiver

kind, port, processes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
logging.basicConfig(level=logging.INFO, filename="log")
handled = os.open("handled", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def deliver(mail):
    time.sleep(0.01)
    Router.STATE_STORE.set("stress", mail.From, f"SEEN_{mail['Subject']}")
    os.write(handled, mail["Subject"].encode() + b"\\n")

Router.deliver = deliver
store = open_storage("sqlite:///states.db", timeout=20)
attach(Router, store, once_within=timedelta(days=1))
receiver = {"smtp": SMTPReceiver, "lmtp": LMTPReceiver}[kind]
receiver("127.0.0.1", port, processes=processes, check_recipients=False).start()
"""

pytestmark = pytest.mark.stress


class Server:
    """A receiver that is started again whenever it has ended."""

    def __init__(self, directory: Path, kind: str, processes: int) -> None:
        self.directory = directory
        self.port = free_port()
        self._command = [sys.executable, "-c", SERVER, kind, str(self.port), str(processes)]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._command, cwd=self.directory)
        deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 5) as probe,
            ):
                if probe.recv(3) == b"220":
                    return process
            time.sleep(0.01)

    def end(self, number: signal.Signals) -> None:
        """Sends a signal to it, or SIGKILL to one of its children, and has it running again."""
        children = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        pids = [int(pid) for each in children for pid in each.read_text().split()]
        if number == signal.SIGKILL and pids and random.random() < 0.5:
            os.kill(random.choice(pids), number)  # it is started again by the parent
            return
        self._process.send_signal(number)
        status = self._process.wait(PATIENCE)
        assert status == (0 if number != signal.SIGKILL else -number)
        self._process = self._start()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def handled(self) -> Counter[int]:
        return Counter(map(int, (self.directory / "handled").read_text().split()))


@pytest.fixture(params=[("smtp", 1), ("lmtp", 1), ("lmtp", 2)], ids=str)
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, Postfix]]:
    if os.geteuid() != 0:
        pytest.skip("a private Postfix is started by root only: run as root")
    kind, processes = request.param
    server = Server(tmp_path, kind, processes)
    try:
        postfix = Postfix({"x.test": f"{kind}:[127.0.0.1]:{server.port}"})
    except Missing as missing:
        server.close()
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"{missing}, and REQUIRE_SERVICES=1 promises it")
        pytest.skip(f"{missing}: install it to run this test")
    try:
        postfix.start()
        yield server, postfix
    finally:
        postfix.remove()
        server.close()


def test_nothing_is_lost(servers: tuple[Server, Postfix]) -> None:
    """A hundred times SIGTERM, SIGHUP or SIGKILL while a Postfix sends."""
    server, postfix = servers

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", postfix.port) as client:
            for number in range(MAILS):
                mail = f"From: a@x\nTo: b@x.test\nSubject: {number}\n\nhello\n"
                client.sendmail(f"s{number % SENDERS}@x.example", ["b@x.test"], mail)

    sending = threading.Thread(target=send)
    sending.start()
    killed = 0
    for number in range(ENDINGS):
        time.sleep(random.uniform(0.02, 0.3))
        ending = (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)[number % 3]
        killed += ending == signal.SIGKILL
        server.end(ending)
    sending.join(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while postfix.queued():
        assert time.monotonic() < deadline, postfix.log()[-3000:]
        time.sleep(0.1)
    handled = server.handled()
    assert set(handled) == set(range(MAILS))
    # Written to the file and not committed when it was killed: at most what was in hand.
    assert sum(handled.values()) - MAILS <= killed * 2 * 16
    assert "bounced" not in postfix.statuses()


def test_memory_is_bounded_whatever_is_sent(tmp_path: Path) -> None:
    """A hundred clients send 20 MB each at a time, and hear that it was too much."""
    server = Server(tmp_path, "smtp", 1)

    def send() -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
            heard = client.makefile("rb")
            heard.readline()
            for line in (b"HELO x", b"MAIL FROM:<a@x>", b"RCPT TO:<b@x>", b"DATA"):
                client.sendall(line + b"\r\n")
                heard.readline()
            for _ in range(20):
                client.sendall(b"x" * 998 * 1000)
                client.sendall(b"\r\n")
            client.sendall(b"\r\n.\r\n")
            answers.append(heard.readline()[:3])
            return b""

    answers: list[bytes] = []
    threads = [threading.Thread(target=send) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    status = Path(f"/proc/{server._process.pid}/status").read_text()
    server.close()
    [peak] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
    assert Counter(answers).keys() <= {b"552", b"452"}
    assert len(answers) == 100
    assert peak < 512 * 1024  # kB: twice the limit of 256 MiB, Python's buffers included
