"""The server as a process: how it begins, how it ends, what it leaves behind."""

from __future__ import annotations

import dbm.dumb
import os
import signal
import smtplib
import socket
import stat
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Serve, States
from tests.end_to_end.conversation import ask, confirm
from tests.end_to_end.mail_server import HOW, MailServer, of_threads, wait_until
from tests.end_to_end.smtp_sink import SMTPSink
from tests.services import free_port

ANNA, BEN = "anna@example.com", "ben@example.com"


@pytest.fixture
def serve(serve: Serve) -> Serve:
    """Starts it by its command."""
    return partial(serve, how="serve")


def test_the_daemon_as_salmons_documentation_says(serve: Serve) -> None:
    server = serve(how="daemon", state_url="", DISPATCHER="process")
    status = server.salmon("status")
    assert status.stdout == f"Salmon running with PID {server.pid_file.read_text().strip()}\n"
    confirm(server, ANNA, ask(server, ANNA))
    with pytest.raises(Exception, match="550"):
        server.send("stranger@example.com", "news")
    with pytest.raises(smtplib.SMTPRecipientsRefused, match=r"5\.1\.1 Nobody has this address"):
        server.send(ANNA, "nobody@elsewhere.example.com")
    server.send(ANNA, "postmaster@lists.example.com")  # has no route, and is kept
    check_modes(server.directory)

    assert server.salmon("stop").returncode == 0
    wait_until(lambda: not server._listens(), "the daemon to end")
    status = server.salmon("status")
    assert (status.returncode, status.stderr) == (1, "Salmon not running.\n")

    server.start()
    server.send(ANNA, "news", "still subscribed")


def check_modes(directory: Path) -> None:
    """Everything that holds mail, addresses or states is for its owner only."""
    private = [directory / "run" / name for name in ("states.db", "list.secret", "outbox")]
    private += (directory / "run").glob("states.db-*")
    private += (directory / "run" / "undeliverable").rglob("*")
    private += (directory / "run" / "outbox").rglob("*")
    private.append(directory / "logs" / "salmon.log")
    assert len([path for path in private if path.parent.name == "new"]) == 3
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("dispatcher", ["thread", "process"])
def test_what_is_being_sent_is_sent_before_the_end(
    dispatcher: str, serve: Serve, states: States
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def answer(recipients: list[str]) -> str:
        asked.set()
        go_on.wait(30)
        return "250 OK"

    with SMTPSink() as sink:
        sink.final_answer = answer
        server = serve(RELAY=sink.address, DISPATCHER=dispatcher)
        server.send(ANNA, "news-subscribe")
        assert asked.wait(30)
        assert server.process is not None
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: is_caught(server), "the signal to arrive")
        go_on.set()
        assert server.process.wait(30) == 0, server.output()
        server.start()
        server.stop()

    assert [mail[:2] for mail in sink.mails] == [("<>", f"<{ANNA}>")]
    assert states() == {ANNA: "CONFIRMING"}
    assert "Traceback" not in server.output(), server.output()


def test_under_nohup_a_terminal_may_close(serve: Serve, states: States) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does for its command
    try:
        server = serve()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    server.send(ANNA, "news-subscribe")
    assert states() == {ANNA: "CONFIRMING"}
    assert server.stop() == 0


WITHOUT_PROCESSES = """
import subprocess, sys

def refuse(*arguments, **options):
    raise BlockingIOError(11, "Resource temporarily unavailable")

subprocess.Popen = refuse
from config.serve import main
sys.exit(main())
"""


def test_a_server_that_cannot_start_ends(tmp_path: Path) -> None:
    """So that somebody can start it anew; it would listen, and greet nobody."""
    server = MailServer(tmp_path, how="serve", DISPATCHER="process")
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_PROCESSES],
        cwd=tmp_path,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 1
    assert "the server cannot be started" in ended.stderr
    assert "Resource temporarily unavailable" in (tmp_path / "logs" / "salmon.log").read_text()


def test_several_processes(serve: Serve, states: States) -> None:
    server = serve(PROCESSES="2", DISPATCHER="process")
    confirm(server, ANNA, ask(server, ANNA))
    assert states() == {ANNA: "POSTING"}
    wait_until(lambda: len(forks(server)) == 2, "both, of which one answered")
    receiving = forks(server)
    assert server.stop(signal.SIGTERM) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in receiving)


def forks(server: MailServer) -> list[int]:
    """Returns the children of a server that have its program: the dispatcher has not."""
    assert server.process is not None
    pid = server.process.pid
    return [child for child in children(pid) if program_of(child) == program_of(pid)]


def program_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("end", ["kill", "dispatcher"])
def test_a_dispatcher_lives_as_long_as_its_server(end: str, serve: Serve) -> None:
    """It is started anew if it dies, and ends with a server that is killed."""
    with SMTPSink() as sink:
        server = serve(RELAY=sink.address, DISPATCHER="process")
        server.send(ANNA, "news-subscribe")
        wait_until(lambda: sink.mails, "the mail")
        assert server.process is not None
        [child] = children(server.process.pid)
        if end == "kill":
            server.kill()
            wait_until(lambda: not Path(f"/proc/{child}/exe").exists(), "its end")
            return
        os.kill(child, signal.SIGKILL)
        server.send(BEN, "news-subscribe")
        wait_until(lambda: f"<{BEN}>" in [to for _, to, _ in list(sink.mails)], "the other mail")
        assert server.stop() == 0


def children(pid: int) -> list[int]:
    """Returns the processes that a process started."""
    return [int(child) for text in of_threads(pid, "children") for child in text.split()]


def is_caught(server: MailServer) -> bool:
    """Returns whether the server has handled its first SIGINT: the next one would kill it."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return not int(caught, 16) & 1 << (signal.SIGINT - 1)


def test_a_relay_that_is_down_costs_no_mail(serve: Serve, states: States) -> None:
    port = free_port()
    server = serve(RELAY=f"127.0.0.1:{port}")
    server.send(ANNA, "news-subscribe")
    assert states() == {ANNA: "CONFIRMING"}
    wait_until(lambda: "the relay is down" in server.output(), "an attempt")
    with SMTPSink(port) as sink:
        wait_until(lambda: sink.mails, "the mail")
    assert [mail[:2] for mail in sink.mails] == [("<>", f"<{ANNA}>")]


NEWCOMER = "Please confirm", "Welcome", "You have left"
"""What the mails hear that the banner says how to send."""


def test_what_a_newcomer_reads(serve: Serve) -> None:
    server = serve()
    wait_until(lambda: "Ctrl-C stops" in server.output(), "the welcome")
    text = server.output()
    assert f"SMTP on 127.0.0.1:{server.port}" in text
    assert "<SQLAlchemyStorage sqlite" in text
    assert "started again, it goes on from there.\n" in text

    commands = [line.strip() for line in text.splitlines() if " send " in line]
    for command, answer in zip(commands, NEWCOMER, strict=True):
        there = os.path.relpath(Path(HOW["foreground"][0]).parent, server.directory)
        assert command.startswith(there)
        subprocess.run(command, shell=True, cwd=server.directory, check=True, timeout=30)
        server.wait_for_mail("you@example.com", answer)


def test_a_newcomer_whose_states_are_in_memory_reads_so(serve: Serve) -> None:
    server = serve(state_url="memory://")
    wait_until(lambda: "Ctrl-C stops" in server.output(), "the welcome")
    assert "started again, it begins anew: its states are in memory.\n" in server.output()


def test_what_a_newcomer_with_a_queue_reads(serve: Serve) -> None:
    server = serve(receiver="queue")
    wait_until(lambda: "Ctrl-C stops" in server.output(), "the welcome")
    commands = [line for line in server.output().splitlines() if "printf" in line]
    for command, answer in zip(commands, NEWCOMER, strict=True):
        subprocess.run(command, shell=True, cwd=server.directory, check=True, timeout=30)
        server.wait_for_mail("you@example.com", answer)


@pytest.mark.parametrize("how", ["serve", "foreground", "check"])
def test_a_port_that_is_taken_is_one_line(how: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = MailServer(tmp_path, how=how)
        server.environment["SALMON_PORT"] = str(port)
        ended = run(server)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"SALMON_HOST=127.0.0.1 SALMON_PORT={port}: cannot listen there: Address already in use\n"
    )


def test_a_daemon_that_cannot_work_says_so_where_it_can(tmp_path: Path) -> None:
    """Salmon's command has ended by then; what can be asked before says it on the terminal."""
    server = MailServer(tmp_path, how="daemon", state_url="nosql://x")
    assert run(server).returncode == 0
    error = tmp_path / "logs" / "salmon.err"
    wait_until(lambda: error.exists() and error.read_text(), "the reason")
    assert error.read_text().startswith("SALMON_STATE_URL: unknown scheme 'nosql'")
    wait_until(lambda: not server.pid_file.exists(), "its end")
    server.how = "check"
    asked = run(server)
    assert (asked.returncode, asked.stderr) == (1, error.read_text())
    server.environment["SALMON_STATE_URL"] = "memory://"
    assert run(server).returncode == 0


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("SALMON_STATE_URL", "nosql://user:hunter2@x", "SALMON_STATE_URL: unknown scheme 'nosql'"),
        ("SALMON_STATE_URL", "sqlite:///missing/x.db", "SALMON_STATE_URL: cannot keep states in"),
        ("SALMON_SOCKET", "x", "SALMON_SOCKET: expected SALMON_RECEIVER=lmtp beside it"),
        ("SALMON_TLS_CERTIFICATE", "no.pem", "SALMON_TLS_CERTIFICATE=no.pem: expected a certif"),
        ("SALMON_STATE_URL", "shelve:///damaged", "SALMON_STATE_URL: damaged entry in the shelf"),
        ("SALMON_HOST", "127.0.0..1", "SALMON_HOST=127.0.0..1 SALMON_PORT={port}: cannot listen"),
        ("SALMON_PORT", "smtp", "SALMON_PORT: expected a TCP port between 1 and 65535, got 'smtp'"),
    ],
)
def test_a_setting_that_cannot_work_is_one_line(
    name: str, given: str, message: str, tmp_path: Path
) -> None:
    server = MailServer(tmp_path, how="serve")
    server.environment[name] = given
    with closing(dbm.dumb.open(str(tmp_path / "damaged"), "c")) as damaged:
        damaged[b"no key"] = b"no value"
    ended = run(server)
    assert ended.returncode == 1
    assert ended.stderr.startswith(message.format(port=server.port))
    assert ended.stderr.count("\n") == 1
    assert "hunter2" not in ended.stderr


@pytest.mark.parametrize("how", ["serve", "foreground"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("logs/salmon.log", "cannot write the log to {path}: Is a directory\n"),
        ("run/list.secret", "run/list.secret: expected ASCII text; delete it to get a new one\n"),
    ],
)
def test_a_file_that_cannot_work_is_one_line(
    how: str, name: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir()
    if "log" in name:
        path.mkdir()
    else:
        path.write_bytes(bytes(range(128, 192)))
        path.chmod(0o600)
    ended = run(MailServer(tmp_path, how=how))
    assert (ended.returncode, ended.stderr) == (1, message.format(path=path))


def run(server: MailServer) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        HOW[server.how],
        cwd=server.directory,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
