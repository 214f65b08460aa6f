"""What is asked to be confirmed, what nobody took, and what is sent from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click import UsageError
from salmon.mail import MailResponse
from salmon.queue import Queue

from salmon_state import Confirmations, MemoryStorage, open_storage
from salmon_state.mail.outbox import Outbox
from salmon_state.operate import undeliverable as commands
from tests.operate.typing_commands import ANNA, APP, BEN, exited, process, rows, typed
from tests.redis_services import wait_until

# ---------------------------------------------------------------- confirmations


@pytest.mark.slow
def test_confirmations(url: str) -> None:
    with open_storage(url) as store:
        Confirmations(store, expires=timedelta(days=9)).store("later", BEN, "Geh3im", None)
        known = Confirmations(store)
        known.store("sub\x1bscribe", ANNA, "Geh3im", known.pending.push("a mail"))
        said = rows(url, "confirmations", "list")
        assert [row["target"] for row in said] == ["sub\x1bscribe", "later"]
        assert "\x1b" not in typed(url, "confirmations", "list").output
        assert rows(url, "confirmations", "list", "-n", "1") == said[:1]
        for printed in (said, rows(url, "show", ANNA), typed(url, "show", ANNA).output):
            assert "Geh3im" not in str(printed)
        assert rows(url, "confirmations", "drop", "later", BEN, "--yes") == [{"dropped": True}]
        assert rows(url, "confirmations", "drop", "later", BEN) == [{"dropped": False}]
        assert known.get("later", BEN) == (None, None)
        assert known.get("sub\x1bscribe", ANNA)[0] == "Geh3im"


def test_waiting_names_no_secret() -> None:
    known = Confirmations(MemoryStorage(), expires=timedelta(days=1))
    known.store("subscribe", ANNA, "Geh3im", None)
    (waiting,) = known.waiting()
    assert (waiting.target, waiting.from_address) == ("subscribe", ANNA)
    assert "Geh3im" not in repr(waiting)


# ---------------------------------------------------------------- modules that are renamed


@pytest.mark.slow
def test_a_module_that_is_renamed(url: str) -> None:
    with open_storage(url) as store:
        for number in range(3):
            store.set("old", f"{number}@x", f"S{number}")
        store.set("new", "2@x", "THERE")
        before = {record[1:] for record in store.records(module="old")}
        assert rows(url, "rename-module", "old", "new", "--dry-run") == [{"moved": 3, "left": 3}]
        assert rows(url, "rename-module", "old", "new") == [{"moved": 2, "left": 1}]
        assert typed(url, "rename-module", "old", "new").exception is not None
        left = {record[1:] for record in store.records(module="old")}
        assert {record[1:] for record in store.records(module="new")} >= before - left
        assert [record[0] for record in left] == ["2@x"]
        assert store.get("new", "2@x") == "THERE"
        assert store.rename_module("new", "new") == 3


# ---------------------------------------------------------------- sending


def test_sending(file: str, tmp_path: Path) -> None:
    with open_storage(file) as store:
        Outbox(store).send(ANNA, "list@example.com", "Hello", "Hello!")
        command = [sys.executable, "-m", "salmon_state", "--store", file, "outbox", "dispatch"]
        options = ["--maildir", str(tmp_path / "sent"), "--poll", "0.05"]
        with subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL) as dispatcher:
            wait_until(lambda: not Outbox(store).backlog().pending, "the mail to be sent")
            dispatcher.send_signal(signal.SIGTERM)
            assert dispatcher.wait(60) == 0
    assert len(list((tmp_path / "sent/new").iterdir())) == 1


def test_how_to_send(file: str) -> None:
    said = typed(file, "outbox", "dispatch", "--help").stdout
    assert said.startswith("usage: salmon-state outbox dispatch [")
    assert "--relay HOST:PORT" in said


# ---------------------------------------------------------------- what nobody took


BOOT = """
from salmon.routing import Router, route
from salmon.server import SMTPError
from salmon_state import attach, open_storage

@route("(what)@host", what=".+")
def START(message, what=None):
    if what == "later":
        raise SMTPError(451, "later")
    if what == "broken":
        raise ValueError("broken")
    return DONE

@route("(what)@host", what="done")
def DONE(message, what=None):
    return DONE

Router.STATE_STORE = open_storage({file!r})
Router.LOG_EXCEPTIONS = True
{attach}
"""


def mail(to: str, sender: str = ANNA) -> MailResponse:
    return MailResponse(To=to, From=sender, Subject=f"for \x1b[2J {to}", Body="Hello!")


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(str(tmp_path / "undeliverable"))


def undeliverable(file: str, queue: Queue, *arguments: str) -> list[dict[str, Any]]:
    command, *rest = arguments
    return rows(file, "undeliverable", command, "--queue", queue.dir, *rest)


def test_looking_at_what_nobody_took(file: str, queue: Queue, tmp_path: Path) -> None:
    first = queue.push(mail("a@host"))
    queue.push(mail("b@host", BEN))
    (tmp_path / "salmon.log").write_text(f"one line\nof {ANNA}\x1b[2J\nanother\n")
    said = undeliverable(file, queue, "list")
    assert [(row["from"], row["to"]) for row in said] == [(ANNA, "a@host"), (BEN, "b@host")]
    with open_storage(file) as store:
        store.set(APP, ANNA, "GONE")
    log = ["--log", str(tmp_path / "salmon.log")]
    why = undeliverable(file, queue, "why", first, *log)
    assert [row["what"] for row in why] == ["GONE", f"of {ANNA}\x1b[2J"]
    for command in (["list"], ["why", first, *log]):
        shown = typed(file, "undeliverable", command[0], "--queue", queue.dir, *command[1:])
        assert (shown.exception, "\x1b" in shown.output) == (None, False)
    for wrong in (["why"], ["why", "nothing"], ["again", "nothing", "--boot", "x"]):
        with pytest.raises(UsageError):
            undeliverable(file, queue, *wrong)
    with pytest.raises(UsageError, match="no Maildir"):
        rows(file, "undeliverable", "list", "--queue", str(tmp_path / "nothing"))


def test_what_somebody_removes_meanwhile(
    file: str, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the directory was listed."""
    kept = commands._kept

    def removed(directory: str | None) -> Iterator[Path]:
        first, *others = kept(directory)
        first.unlink()
        return iter([first, *others])

    for to in "abc":
        queue.push(mail(f"{to}@host"))
    monkeypatch.setattr(commands, "_kept", removed)
    said = undeliverable(file, queue, "list")
    assert [row["to"] for row in said] == ["b@host", "c@host"]
    pruned = undeliverable(file, queue, "prune", "--older-than", "1d", "--yes")
    assert pruned == [{"removed": 0}]
    assert len(queue) == 1


@pytest.mark.parametrize("attached", [True, False])
def test_again_through_the_router(file: str, queue: Queue, attached: bool, tmp_path: Path) -> None:
    attach = "attach(Router)" if attached else ""
    (tmp_path / "boot.py").write_text(BOOT.format(file=file, attach=attach))
    names = {to: queue.push(mail(f"{to}@host", f"{to}@x")) for to in ("well", "later", "broken")}
    (tmp_path / "config").mkdir()
    (tmp_path / "config/settings.py").write_text("undeliverable_directory = 'undeliverable'\n")
    command = ["--store", file, "--json", "undeliverable", "again", *names.values()]
    done = process(*command, "--boot", "boot", cwd=tmp_path)
    outcome = {row["name"]: row["outcome"] for row in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1, done.stderr
    assert outcome[names["well"]] == "handled"
    assert "later" in outcome[names["later"]]
    assert "raised" in outcome[names["broken"]]
    assert sorted(queue.keys()) == sorted([names["later"], names["broken"]])
    with open_storage(file) as store:
        states = {record.sender: record.state for record in store.records()}
    assert states == {"well@x": "DONE", "broken@x": "ERROR"}


def test_a_mail_that_cannot_be_parsed(file: str, queue: Queue, tmp_path: Path) -> None:
    """It is listed with the others, and keeps none of them from the router."""
    Path(queue.dir, "new", "0.bad").write_text(f"To: {'(' * 20_000}\nSubject: bad\n\n")
    good = queue.push(mail("well@host"))
    said = undeliverable(file, queue, "list")
    assert [(row["to"], row["subject"]) for row in said] == [
        ("", "bad"),
        ("well@host", "for \x1b[2J well@host"),
    ]
    (tmp_path / "boot.py").write_text(BOOT.format(file=file, attach=""))
    command = ["--store", file, "--json", "undeliverable", "again", "0.bad", good]
    done = process(*command, "--queue", queue.dir, "--boot", "boot", cwd=tmp_path)
    outcomes = [json.loads(line)["outcome"] for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert outcomes == ["stays: RecursionError: maximum recursion depth exceeded", "handled"]
    assert queue.keys() == ["0.bad"]


def test_files_that_are_not_ours_to_read(
    file: str, queue: Queue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)  # root may read all
    status, text = exited(capsys, "--store", file, "undeliverable", "list", "--queue", queue.dir)
    assert status == 1
    assert text == f"PermissionError: [Errno 13] Permission denied: '{queue.dir}/new'\n"


def test_pruning(file: str, queue: Queue) -> None:
    old, new = queue.push(mail("a@host")), queue.push(mail("b@host"))
    then = time.time() - 86_400 * 3
    os.utime(Path(queue.dir, "new", old), (then, then))
    assert undeliverable(file, queue, "prune", "--older-than", "2d", "--dry-run") == [
        {"removed": 1}
    ]
    with pytest.raises(UsageError, match="--yes"):
        undeliverable(file, queue, "prune", "--older-than", "2d")
    assert len(queue) == 2
    assert undeliverable(file, queue, "prune", "--older-than", "2d", "--yes") == [{"removed": 1}]
    assert queue.keys() == [new]
