"""A dispatcher in a process of its own."""

from __future__ import annotations

import dbm.dumb
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from salmon_state import MemoryStorage, open_storage
from salmon_state.mail import dispatch
from salmon_state.mail.batches import Mail
from salmon_state.mail.dispatch import DispatcherProcess, main
from salmon_state.mail.dispatcher import Dispatcher
from salmon_state.mail.outbox import Outbox
from salmon_state.mail.relays import MaildirRelay
from tests.end_to_end.smtp_sink import SMTPSink, wait_for
from tests.forking import fork

ANNA, BEN = "anna@example.com", "ben@example.com"


def given_up(mail: Mail) -> None:
    """What an application does with a mail that is given up."""
    [group] = mail.groups
    Path("given_up").write_text(f"{group.recipients[0]}: {group.answer}")


def test_it_sends_what_others_record(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/states.db"
    with SMTPSink() as sink, open_storage(url) as store:
        sink.answer_to = lambda recipient: "550 no" if "ben" in recipient else "250 OK"
        outbox = Outbox(store)
        outbox.deliver("Subject: before\n\n", To=ANNA, From="")
        relay = f"--relay=127.0.0.1:{sink.port}"
        options = [relay, "--poll=0.1", f"--given-up={__name__}:given_up"]
        process = start(tmp_path, url, *options)
        wait_for(lambda: sink.mails, "the first")
        outbox.deliver("Subject: after\n\n", To=[ANNA, BEN], From="")
        wait_for(lambda: not outbox.backlog().pending, "the others")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert [recipient for _, recipient, _ in sink.mails] == [f"<{ANNA}>"] * 2
    assert (tmp_path / "given_up").read_text() == f"{BEN}: 550 no"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nosql://me:hunter2@x", "unknown scheme 'nosql'"),
        ("shelve:///damaged", "damaged entry in the shelf"),
    ],
)
def test_what_cannot_be_opened_is_one_line(url: str, error: str, tmp_path: Path) -> None:
    with closing(dbm.dumb.open(str(tmp_path / "damaged"), "c")) as damaged:
        damaged[b"no key"] = b"no value"
    process = start(tmp_path, url, "--maildir=out")
    _, text = process.communicate(timeout=30)
    assert process.returncode == 1
    assert text.startswith(error)
    assert text.count("\n") == 1
    assert "hunter2" not in text


BESIDE = """
import sys
from salmon_state import open_storage
from salmon_state.mail.dispatch import run
from salmon_state.mail.dispatcher import Dispatcher
from salmon_state.mail.outbox import Outbox
from salmon_state.mail.relays import SMTPRelay
outbox = Outbox(open_storage(sys.argv[1]), SMTPRelay("127.0.0.1", int(sys.argv[2])))
run(Dispatcher(outbox, poll=1000, lease=4000), by_stdin=True)
"""


def test_one_beside_a_server_is_told_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when it cannot be started for a while."""
    monkeypatch.setattr(dispatch, "_RESTART_AFTER", 0.05)
    url = f"sqlite:///{tmp_path}/states.db"
    with SMTPSink() as sink, open_storage(url) as store:
        outbox = Outbox(store)
        command = [sys.executable, "-c", BESIDE, url, str(sink.port)]
        beside = DispatcherProcess(outbox, command)
        beside.start()
        try:
            first = beside._process
            assert first is not None
            outbox.deliver("Subject: 1\n\n", To=ANNA, From="")
            wait_for(lambda: sink.mails and not outbox.backlog().pending, "the first")
            beside._command = [str(tmp_path / "missing")]
            first.kill()
            wait_for(lambda: "cannot be started now" in caplog.text, "an attempt")
            outbox.deliver("Subject: 2\n\n", To=ANNA, From="")
            beside._command = command
            wait_for(lambda: len(sink.mails) == 2, "the second")
        finally:
            beside.stop()
            beside.stop()
        assert beside._process is not None
        assert beside._process.returncode == 0
        assert outbox.listeners == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_tells_the_one_that_was_started_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that receives mail is older than a dispatcher that was started again."""
    monkeypatch.setattr(dispatch, "_RESTART_AFTER", 0.05)
    url = f"sqlite:///{tmp_path}/states.db"
    with SMTPSink() as sink, open_storage(url) as store:
        outbox = Outbox(store)
        beside = DispatcherProcess(outbox, [sys.executable, "-c", BESIDE, url, str(sink.port)])
        beside.start()
        reading, writing = os.pipe()
        child = fork()
        if child == 0:
            os.read(reading, 1)
            outbox.deliver("Subject: 2\n\n", To=BEN, From="")
            os._exit(0)
        try:
            first = beside._process
            assert first is not None
            first.kill()
            wait_for(lambda: beside._process is not first, "the other one")
            outbox.deliver("Subject: 1\n\n", To=ANNA, From="")
            wait_for(lambda: sink.mails and not outbox.backlog().pending, "the first")
            os.write(writing, b"x")
            os.waitpid(child, 0)
            wait_for(lambda: len(sink.mails) == 2, "the second")
        finally:
            beside.stop()
            os.close(reading)
            os.close(writing)


def test_a_terminal_that_closes_is_the_servers_to_obey(tmp_path: Path) -> None:
    """Its SIGHUP goes to both; what is being sent is sent, and then the server ends both."""
    asked, go_on = threading.Event(), threading.Event()

    def answer(recipients: list[str]) -> str:
        asked.set()
        go_on.wait(30)
        return "250 OK"

    url = f"sqlite:///{tmp_path}/states.db"
    with SMTPSink() as sink, open_storage(url) as store:
        sink.final_answer = answer
        outbox = Outbox(store)
        beside = DispatcherProcess(outbox, [sys.executable, "-c", BESIDE, url, str(sink.port)])
        beside.start()
        outbox.deliver("Subject: 1\n\n", To=ANNA, From="")
        assert asked.wait(30)
        assert beside._process is not None
        beside._process.send_signal(signal.SIGHUP)
        go_on.set()
        beside.stop()
        assert beside._process.returncode == 0
        assert not outbox.backlog().pending


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("--relay=localhost", "--relay: expected host:port, such as 127.0.0.1:25"),
        ("--relay=localhost:smtp", "expected host:port"),
        ("--relay=localhost:0", "expected host:port"),
        ("--maildir=out --relay=x:25", "not allowed with"),
        ("--maildir=out --connections=0", "--connections: expected a whole number, 1 or more"),
        ("--maildir=out --poll=-1", "--poll: expected seconds, more than 0, got '-1'"),
        ("--maildir=out --poll=nan", "--poll: expected seconds"),
        ("--maildir=out --given-up=nowhere:f", "expected module:function"),
        (f"--maildir=out --given-up={__name__}:nobody", "expected module:function"),
        (f"--maildir=out --given-up={__name__}", "expected module:function"),
    ],
)
def test_what_it_cannot_be_told(
    given: str, error: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([f"sqlite:///{tmp_path}/states.db", *given.split()])
    assert error in capsys.readouterr().err


def test_what_nobody_else_sees_is_not_dispatched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory://", "--maildir=out"]) == 1
    assert "nothing would be sent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"connections": 0}, "connections must be a whole number, 1 or more, got 0"),
        ({"connections": 1.5}, "connections must be"),
        ({"poll": 0}, "poll must be more than 0 seconds, got 0"),
        ({"lease": -1}, "lease must be more than 0 seconds"),
        ({"first_retry": "5"}, "first_retry must be a number of seconds, not '5'"),
        ({"give_up": 5}, "give_up must be a datetime.timedelta, not 5"),
        ({"keep": timedelta(0)}, "keep must be more than nothing"),
    ],
)
def test_what_is_no_dispatcher(given: dict[str, Any], error: str, tmp_path: Path) -> None:
    outbox = Outbox(MemoryStorage(), MaildirRelay(tmp_path / "out"))
    with pytest.raises((TypeError, ValueError), match=error):
        Dispatcher(outbox, **given)


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "salmon_state.mail.dispatch", *arguments],
        cwd=directory,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
