"""The commands, as they are typed, over every store that lasts."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click import UsageError

from salmon_state import (
    ConfigurationError,
    ConversationBusy,
    StateStorage,
    open_storage,
)
from salmon_state.entries import Kind, Write
from salmon_state.mail.outbox import Outbox
from salmon_state.testing.endings import elsewhere
from tests.operate.typing_commands import (
    ANNA,
    APP,
    BEN,
    application_in,
    exited,
    process,
    rows,
    typed,
)
from tests.redis_services import wait_until
from tests.stores.sqlalchemy_places import Place


@pytest.fixture
def store(url: str) -> Iterator[StateStorage]:
    with open_storage(url) as store:
        store.set(APP, ANNA, "POSTING")
        store.set("app.bounces", ANNA, "WATCHING")
        store.set(APP, BEN, "CONFIRMING")
        yield store


# ---------------------------------------------------------------- every store


@pytest.mark.slow
def test_looking(url: str, store: StateStorage) -> None:
    assert {(row["sender"], row["state"]) for row in rows(url, "list", "--module", APP)} == {
        *((ANNA, "POSTING"), (BEN, "CONFIRMING")),
    }
    assert [row["sender"] for row in rows(url, "list", "--state", "CONFIRMING")] == [BEN]
    assert rows(url, "list", "--idle", "1h") == []
    assert len(rows(url, "list", "-n", "2")) == 2
    store._commit([Write(Kind.STATE, BEN, "app.old", "OLD", 5)])
    store._commit([Write(Kind.STATE, BEN, "app.unknown", "UNKNOWN_TIME", None)])
    oldest = [row["state"] for row in rows(url, "list", "--oldest", "-n", "5")]
    assert (oldest[0], oldest[-1]) == ("OLD", "UNKNOWN_TIME")
    assert [row["state"] for row in rows(url, "list", "--oldest", "-n", "1")] == ["OLD"]
    assert [row["state"] for row in rows(url, "list", "--idle", "1h")] == ["OLD"]
    assert rows(url, "list", "--idle", "1h", "--module", APP) == []
    assert rows(url, "purge", "--older-than", "1h", "--dry-run") == [{"removed": 1}]
    with pytest.raises(ValueError, match="negative"):
        store.records(older_than=timedelta(-1))
    for module in ("app.old", "app.unknown"):
        store.set(module, BEN, "START")
    assert rows(url, "count") == [
        {"module": "app.bounces", "state": "WATCHING", "count": 1},
        {"module": APP, "state": "CONFIRMING", "count": 1},
        {"module": APP, "state": "POSTING", "count": 1},
    ]


@pytest.mark.slow
def test_everything_about_a_person(url: str, store: StateStorage) -> None:
    store._commit([Write(Kind.HANDLED, ANNA, "mail", b"\xff", 1)])
    store._commit([Write(Kind.BODY, ANNA, "body", "é".encode(), 1)])
    shown = rows(url, "export", ANNA)
    assert {(row["kind"], row["name"], row["value"], row["encoding"]) for row in shown} == {
        ("STATE", APP, "POSTING", "text"),
        ("STATE", "app.bounces", "WATCHING", "text"),
        ("HANDLED", "mail", "/w==", "base64"),
        ("BODY", "body", "é", "text"),
    }
    assert typed(url, "erase", ANNA, "--dry-run").stdout == f"entries of {ANNA} to remove: 4\n"
    assert rows(url, "export", ANNA) == shown
    assert rows(url, "erase", ANNA, "--yes") == [{"removed": 4}]
    assert rows(url, "export", ANNA) == []
    for command in (["show"], ["export"], ["erase", "--yes"], ["erase", "--dry-run"]):
        said = typed(url, *command, f"Anna <{ANNA.title()}>").stderr
        assert f"Salmon knows that address as {ANNA}" in said
        assert "Salmon knows" not in typed(url, *command, ANNA).stderr
    assert [record.sender for record in store.records()] == [BEN]


@pytest.mark.slow
def test_changing(url: str, store: StateStorage) -> None:
    assert rows(url, "set", APP, ANNA, "START", "--dry-run") == [
        {"before": "POSTING", "after": "START"}
    ]
    assert rows(url, "set", APP, ANNA, "CONFIRMING", "--expect", "POSTING") == [
        {"before": "POSTING", "after": "CONFIRMING"}
    ]
    assert rows(url, "rename", APP, "CONFIRMING", "ASKED", "--dry-run") == [{"moved": 2}]
    assert rows(url, "rename", APP, "CONFIRMING", "ASKED") == [{"moved": 2}]
    assert rows(url, "set-all", ANNA, "SUSPENDED", "--dry-run") == [{"moved": 2}]
    assert rows(url, "set-all", ANNA, "SUSPENDED") == [{"moved": 2}]
    assert {(record.sender, record.state) for record in store.records()} == {
        *((ANNA, "SUSPENDED"), (BEN, "ASKED"))
    }
    assert rows(url, "purge", "--older-than", "1d", "--yes") == [{"removed": 0}]
    assert rows(url, "purge", "--older-than", "0s", "--dry-run") == [{"removed": 3}]
    assert rows(url, "purge", "--older-than", "0s", "--state", "ASKED", "--yes") == [{"removed": 1}]
    assert typed(url, "clear", "--yes").exit_code == 0
    assert len(store) == 0


@pytest.mark.slow
def test_a_mail_in_hand_is_waited_for(url: str, store: StateStorage) -> None:
    with store.conversation(ANNA):
        for command in (["set", APP, ANNA, "X"], ["set-all", ANNA, "X"], ["erase", ANNA, "--yes"]):
            done = elsewhere(typed, url, *command, "--timeout", "0")
            assert isinstance(done.exception, ConversationBusy)
        assert "handled now" in elsewhere(typed, url, "show", ANNA).stderr
    assert {record.state for record in store.records(sender=ANNA)} == {"POSTING", "WATCHING"}


@pytest.mark.slow
def test_the_outbox(url: str, store: StateStorage) -> None:
    outbox = Outbox(store)
    assert rows(url, "outbox", "status") == [{"pending": 0, "first_due": None, "dead": 0}]
    for number in range(2):
        outbox.send(f"{number}@example.com", "list@example.com", "Hello", "Hello!")
    first, second = rows(url, "outbox", "pending")
    assert (first["to"], second["to"]) == ("0@example.com", "1@example.com")
    assert rows(url, "outbox", "status")[0]["pending"] == 2
    assert rows(url, "outbox", "retry", first["name"]) == [{"done": 1}]
    assert rows(url, "outbox", "drop", first["name"], "--yes") == [{"done": 1}]
    assert isinstance(typed(url, "outbox", "drop", "nothing", "--yes").exception, SystemExit)
    assert [row["to"] for row in rows(url, "outbox", "pending", "-n", "5")] == ["1@example.com"]
    assert rows(url, "outbox", "dead") == []
    assert isinstance(typed(url, "outbox", "retry").exception, UsageError)


# ---------------------------------------------------------------- one store


def test_what_came_out_of_a_mail_does_nothing_to_the_screen(file: str) -> None:
    hostile = "a\x1b[2J\u202e\u05d0\r\n" + "x" * 5_000_000 + "@x"
    with open_storage(file) as store:
        store.set(APP, hostile, "POSTING")
    for command in ("list", "show"):
        arguments = [] if command == "list" else [hostile[:9]]
        printed = typed(file, command, *arguments).output
        assert "\x1b" not in printed
        assert "\u202e" not in printed
        assert len(printed) < 1000
    assert rows(file, "list")[0]["sender"] == hostile


def test_nobody_to_ask(file: str) -> None:
    with open_storage(file) as store:
        store.set(APP, ANNA, "POSTING")
    for command in (["clear"], ["erase", ANNA], ["purge", "--older-than", "0s"]):
        refused = typed(file, *command)
        assert isinstance(refused.exception, UsageError)
        assert "--yes" in str(refused.exception)
    assert len(rows(file, "list")) == 1


def test_a_terminal(file: str) -> None:
    with open_storage(file) as store:
        store.set(APP, "a" * 100 + "@example.com", "POSTING")
    for width, lines in ((60, range(5, 12)), (200, range(3, 4))):
        printed = on_terminal("--store", file, "list", COLUMNS=str(width))
        printed = re.sub("\x1b\\[[0-9;]*m", "", printed)
        assert "SENDER" in printed
        assert "POSTING" in printed
        assert max(map(len, printed.splitlines())) <= width
        assert len(printed.splitlines()) in lines


def on_terminal(*arguments: str, **environment: str) -> str:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "salmon_state", *arguments]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | environment
    ):
        os.close(theirs)
        printed = b""
        try:
            while chunk := os.read(ours, 1000):
                printed += chunk
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    return printed.decode()


def test_a_reader_who_has_seen_enough(file: str) -> None:
    with open_storage(file) as store:
        store._commit([Write(Kind.STATE, f"{n:05}@x", APP, "POSTING", n) for n in range(20_000)])
    command = f"{sys.executable} -m salmon_state --store {file} list | head -n 1"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["--store", "sqlit:///x", "list"], 1, "did you mean sqlite"),
        (["--store", "redis://:geheim@127.0.0.1:1/0", "list"], 3, "not now"),
        (["list"], 2, "--store URL"),
        (["--store", "memory://", "show", "nobody@x"], 1, "entries: 0"),
        (["--store", "memory://", "purge", "--older-than", "1y", "--yes"], 2, "such as 90d"),
        (["--store", "memory://", "set", APP, ANNA, "X", "--expect", "Y"], 1, "left alone"),
        (["--store", "memory://", "lock", ANNA, "--", "/no/such"], 127, "cannot be run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_goes_wrong(
    arguments: list[str],
    status: int,
    part: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with application_in(tmp_path):
        code, printed = exited(capsys, *arguments)
    assert (code, part in printed) == (status, True), printed
    assert "geheim" not in printed


def test_what_goes_wrong_in_a_process(tmp_path: Path) -> None:
    done = process("--store", "redis://:geheim@127.0.0.1:1/0", "list", cwd=tmp_path)
    printed = done.stdout + done.stderr
    assert (done.returncode, "not now" in printed) == (3, True)
    assert "geheim" not in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["set", APP, ANNA, ""],
        ["list", "--state", ""],
        ["list", "--oldest"],
        ["rename", APP, "START", "X"],
        ["rename", APP, "", "X"],
        ["purge", "--older-than", "999999999w", "--yes"],
        ["list", "--idle", "999999999w"],
    ],
    ids=" ".join,
)
def test_what_nobody_can_mean(arguments: list[str]) -> None:
    assert isinstance(typed("memory://", *arguments).exception, UsageError)


def test_the_applications_own_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config").mkdir()
    settings = tmp_path / "config/settings.py"
    settings.write_text('state_url = "sqlite:///states.db"\n')
    open_storage(f"sqlite:///{tmp_path}/states.db").close()
    with application_in(tmp_path):
        assert exited(capsys, "set", APP, ANNA, "POSTING")[0] == 0
    settings.write_text('state_url = "sqlite:///states.db"\nstate_protect = True\n')
    with application_in(tmp_path):
        code, printed = exited(capsys, "clear", "--yes")
        assert (code, "protect=True" in printed) == (1, True)
        assert "POSTING" in exited(capsys, "list")[1]


@pytest.mark.parametrize("scheme", ["sqlite", "shelve"])
def test_a_store_that_is_not_there(scheme: str, tmp_path: Path) -> None:
    """A misspelt path makes no empty store, and no other one empty."""
    url = f"{scheme}:///{tmp_path}/mispelt"
    with open_storage(f"sqlite:///{tmp_path}/there.db") as store:
        store.set(APP, ANNA, "POSTING")
        for command in (
            ["list"],
            ["doctor"],
            ["migrate", "--dry-run"],
            ["set", APP, ANNA, "X"],
            ["copy", url, f"sqlite:///{tmp_path}/there.db", "--yes"],
        ):
            refused = typed(url, *command)
            assert isinstance(refused.exception, ConfigurationError)
            assert "salmon-state migrate" in str(refused.exception)
        assert not list(tmp_path.glob("mispelt*"))
        assert typed(url, "migrate").exit_code == 0
        assert rows(url, "list") == []
        refused = typed(url, "copy", url, f"sqlite:///{tmp_path}/there.db", "--yes")
        assert "is empty, and" in str(refused.exception)
        assert store.get(APP, ANNA) == "POSTING"


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Presses Ctrl-C until the process ends: a first one may come right before it reads."""
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)


def test_holding_a_conversation(file: str) -> None:
    open_storage(file).close()
    inside = f"{sys.executable} -m salmon_state --store {file} set {APP} {ANNA} X --timeout 0"
    done = process("--store", file, "lock", ANNA, "--", "sh", "-c", inside)
    assert done.returncode == 3
    assert done.stderr.index("is held") < done.stderr.index("not now") < done.stderr.index("free")
    command = [sys.executable, "-m", "salmon_state", "--store", file, "lock", ANNA]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as holder:
        assert holder.stderr is not None
        assert b"is held" in holder.stderr.readline()
        interrupt(holder)
        assert holder.returncode == 1
    with open_storage(file) as store:
        elsewhere(store.set, APP, ANNA, "FREE")


def test_whom_it_keeps_waiting(file: str) -> None:
    """As doctor says it, of every store."""

    def wait_for_it() -> None:
        with open_storage(file) as other, other.conversation(ANNA, timeout=60):
            pass

    open_storage(file).close()
    waiting = threading.Thread(target=wait_for_it)
    command = [sys.executable, "-m", "salmon_state", "--store", file, "lock", ANNA]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stderr is not None
        assert "is held" in holder.stderr.readline()
        waiting.start()
        assert any(re.search("others: 1$", line) for line in iter(holder.stderr.readline, ""))
        holder.communicate("\n")
        assert holder.returncode == 0
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_terminal_with_findings(file: str, tmp_path: Path) -> None:
    open_storage(file).close()
    tmp_path.chmod(0o777)
    printed = on_terminal("--store", file, "doctor", COLUMNS="60")
    printed = re.sub("\x1b\\[[0-9;]*m", "", printed)
    assert max(map(len, printed.splitlines())) <= 60
    assert "chmod o-w" in printed


def test_interrupted_while_it_copies(file: str, tmp_path: Path) -> None:
    """One line and no traceback; nothing that the next one would stumble over."""
    target = f"sqlite:///{tmp_path}/copied.db"
    with open_storage(file) as store, open_storage(target) as new:
        store.set(APP, ANNA, "POSTING")
        command = [sys.executable, "-m", "salmon_state", "copy", file, target]
        with new.paused(), subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            wait_until(lambda: "copied.db" in opened_by(process.pid), "it to open the other one")
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        assert (process.returncode, said.strip()) == (1, "stopped")
        assert rows(file, "copy", file, target)[0]["equal"]


def opened_by(process: int) -> str:
    links = Path("/proc", str(process), "fd").iterdir()
    found = []
    for link in links:
        with contextlib.suppress(OSError):
            found.append(os.readlink(link))
    return " ".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_user_who_may_only_read(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(kind)
    place = Place(kind, server.fresh_database(), server)
    open_storage(place.url).close()
    schema = f"{place.database}." if kind == "mariadb" else ""
    tables = ("salmon_state", "salmon_state_entries", "salmon_state_version")
    user = place.user(*(f"SELECT ON {schema}{table}" for table in tables))
    for command in ("list", "doctor", "health"):
        refused = typed(user, command)
        assert isinstance(refused.exception, ConfigurationError)
        assert "must be granted SELECT, INSERT, UPDATE and DELETE" in str(refused.exception)


def test_letters_that_a_terminal_has_not(file: str) -> None:
    """What was changed is told, and a sender that somebody made up ends no list."""
    odd = "\u03c9@example.com"
    open_storage(file).close()
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    for command in (["set", APP, odd, "POSTING"], ["list"]):
        done = process("--store", file, *command, env=environment, encoding="latin-1")
        assert (done.returncode, "\\u03c9@example.com" in done.stdout) == (0, True), done.stderr


def test_settings_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings.py").write_text("state_url = nothing")
    environment = {name: os.environ[name] for name in os.environ if name != "SALMON_STATE_URL"}
    done = process("list", cwd=tmp_path, env=environment)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: config.settings cannot be imported: NameError: name 'nothing' is not defined\n"
    )
