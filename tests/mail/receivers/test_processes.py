"""Several processes that receive on one socket."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from salmon.routing import Router

from salmon_state import ConfigurationError, MemoryStorage
from salmon_state.mail.receivers import SMTPReceiver
from salmon_state.mail.receivers.processes import Processes
from tests.end_to_end.mail_server import of_threads

SERVER = """\
import os, socket, sys, time
from salmon.routing import Router
from salmon_state import attach, open_storage
from salmon_state.mail.receivers import SMTPReceiver

def deliver(mail):
    if mail.To == "slow@x":
        with open("in hand", "w"):
            pass
        while not os.path.exists("go on"):
            time.sleep(0.01)
    with open(f"handled.{os.getpid()}", "a") as log:
        log.write("x")

Router.deliver = deliver
attach(Router, open_storage("sqlite:///states.db"))
receiver = SMTPReceiver(port=0, check_recipients=False, processes=2)
receiver.start()
print(receiver.address[1], flush=True)
"""
HANG = 30.0
MAIL = b"EHLO x\r\nMAIL FROM:<a%d@x>\r\nRCPT TO:<%b@x>\r\nDATA\r\nhello\r\n.\r\n"


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)


class Server:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        wait_until(lambda: len(self.children()) == 2, "two processes")

    def children(self) -> set[int]:
        texts = of_threads(self.process.pid, "children")
        return {int(pid) for text in texts for pid in text.split()}

    def send(self, number: int = 0, to: bytes = b"news") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), HANG)
        client.sendall(MAIL % (number, to))
        return client

    def served_by(self) -> set[int]:
        """Sends mails over connections that are there at the same time; returns who took them."""
        before = self.handled()
        clients = [self.send(number) for number in range(20)]
        for client in clients:
            with client:
                assert answer(client) == b"250 2.0.0 OK\r\n"
        now = self.handled()
        return {pid for pid, count in now.items() if count > before.get(pid, 0)}

    def handled(self) -> dict[int, int]:
        found = self.directory.glob("handled.*")
        return {int(path.suffix[1:]): path.stat().st_size for path in found}


def answer(client: socket.socket) -> bytes:
    """Returns the answer to a mail: five others come before."""
    answers = 0
    with client.makefile("rb") as heard:
        for line in heard:
            answers += line[3:4] == b" "
            if answers == 6:
                return line
    return b""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    yield running
    running.process.kill()
    running.process.communicate()


def test_processes_share_a_socket_and_are_started_again(server: Server) -> None:
    """A killed one comes back, and a stop lets the mail in hand finish in whichever has it."""
    first = server.children()
    wait_until(lambda: server.served_by() == first, "both to take mail")
    killed = first.pop()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(server.children() - {killed}) == 2, "another process")
    wait_until(lambda: server.served_by() == server.children(), "both to take mail")

    children = server.children()
    slow = server.send(to=b"slow")
    wait_until((server.directory / "in hand").exists, "the mail to be in hand")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(server.children()) == 1, "the idle one to end")
    (server.directory / "go on").touch()
    assert answer(slow) == b"250 2.0.0 OK\r\n"
    slow.close()
    assert server.process.wait(HANG) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_a_process_that_cannot_be_started_now_is_later(server: Server) -> None:
    before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    killed, other = server.children()
    os.kill(killed, signal.SIGKILL)
    assert server.process.stderr is not None
    lines = iter(server.process.stderr.readline, "")
    assert any("no process can be started" in line for line in lines)
    assert server.served_by() == {other}
    wait_until(lambda: server.children() == {other}, "what cannot be watched to end")
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
    wait_until(lambda: len(server.served_by()) == 2, "another process")


def test_a_second_stop_writes_nowhere(tmp_path: Path) -> None:
    """The descriptor of the first may be that of somebody else's file by then."""
    processes = Processes(0, lambda told: None, HANG)
    running = threading.Thread(target=processes.run)
    running.start()
    processes.stop()
    running.join(HANG)
    with ExitStack() as stack:
        paths = [tmp_path / str(number) for number in range(4)]
        for path in paths:
            stack.enter_context(path.open("wb"))
        processes.stop()
    assert [path.read_bytes() for path in paths] == [b""] * 4


def test_processes_end_with_their_parent(server: Server) -> None:
    children = server.children()
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in children), "their end")


def test_processes_cannot_share_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Router, "STATE_STORE", MemoryStorage())
    with pytest.raises(ConfigurationError, match="processes: 2 cannot share states in memory"):
        SMTPReceiver(port=0, processes=2)
    with pytest.raises(ConfigurationError, match="processes: expected 1 or more, got 0"):
        SMTPReceiver(port=0, processes=0)
