"""The how-to pages: every command is typed, where there is something for it to do."""

from __future__ import annotations

import re
import shelve
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from click.testing import CliRunner

from salmon_state import MemoryStorage, open_storage
from salmon_state.operate.cli import cli
from salmon_state.testing.router import private_router
from tests.documentation import CHECKOUT, files, steps, write
from tests.end_to_end.mail_server import SALMON
from tests.end_to_end.smtp_sink import SMTPSink
from tests.services import PostgreSQLServer, free_port, program
from tests.site.terminal import Terminal
from tests.test_deploy import parameters

HOW_TO = CHECKOUT / "docs" / "how-to"
NEWS = "app.handlers.news"

# What a test cannot do twice: tests/test_packaging.py installs.
LEFT_OUT = {"pip install '/path/to/salmon-state[cli,receivers]'"}


class QuickTerminal(Terminal):
    """Does in this process what only needs salmon-state: starting Python takes most of the time."""

    def type(self, command: str, *, read: bool = False) -> str:
        if command in LEFT_OUT:
            return ""
        ours = re.fullmatch(r"salmon-state ([^|>$&]*)(?:> ([\w.]+))?", command)
        if ours is None:
            return super().type(command, read=read)
        done = CliRunner().invoke(cli, shlex.split(ours[1]), catch_exceptions=False)
        assert done.exit_code == 0, f"{command}\n{done.output}"
        if ours[2]:
            Path(ours[2]).write_text(done.stdout)
        return str(done.output)


@pytest.fixture(autouse=True)
def modules_of_its_own() -> Iterator[None]:
    """Has the command import an application's modules and routes, and nobody after it."""
    before = {name: sys.modules.pop(name) for name in applications_modules()}
    with private_router(MemoryStorage()):
        yield
    for name in applications_modules():
        del sys.modules[name]
    sys.modules.update(before)


def applications_modules() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in ("app", "config")]


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tutorial's list, with conversations, and mails that could not be handled."""
    place = tmp_path / "application"
    write(place, files("docs/tutorial.md"))
    (place / "logs").mkdir()
    (place / "logs" / "salmon.log").write_text("")
    (place / "deploy").symlink_to(CHECKOUT / "deploy")
    for name in ("run/undeliverable/new", "run/undeliverable/cur", "run/undeliverable/tmp"):
        (place / name).mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{place}/run/states.db"
    with open_storage(url) as store:
        store.set(NEWS, "anna@example.com", "CONFIRMING")
        store.set(NEWS, "ben@example.com", "POSTING")
    mail = EmailMessage()
    mail["Return-Path"], mail["To"], mail["Message-ID"] = (
        "carl@example.com",
        "news@example.com",
        "1",
    )
    mail.set_content("hello")
    (place / "run" / "undeliverable" / "new" / "1").write_bytes(bytes(mail))
    monkeypatch.chdir(place)
    monkeypatch.setenv("SALMON_STATE_URL", url)
    return place


@pytest.fixture
def terminal(application: Path) -> QuickTerminal:
    return QuickTerminal(application, {})


def follow(terminal: Terminal, page: str) -> None:
    for step in steps(f"docs/how-to/{page}.md"):
        terminal.follow(step)


PAGES = ("moving", "personal-data", "stuck", "full-disk")


def test_no_page_is_forgotten() -> None:
    others = {"existing-application", "postfix", "systemd", "watching", "backup", "upgrade", "bug"}
    assert {page.stem for page in HOW_TO.glob("*.md")} - {"index"} == others | set(PAGES)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_works(page: str, terminal: QuickTerminal) -> None:
    follow(terminal, page)


@pytest.mark.slow
def test_the_commands_of_the_command(application: Path) -> None:
    """Those that say how it finds its store; tests/operate has those that copy, and the shells."""
    url = "postgresql+psycopg://me:${PASSWORD}@db/states"
    terminal = QuickTerminal(application, {url: f"sqlite:///{application}/run/states.db"})
    first = steps("docs/command.md")[0]
    assert len(first.commands) == 3
    terminal.follow(first)


def test_an_upgrade_with_handlers_that_were_renamed(
    terminal: QuickTerminal, application: Path
) -> None:
    store = open_storage(f"sqlite:///{application}/run/states.db")
    look, rename = steps("docs/how-to/upgrade.md")
    terminal.follow(look)
    store.set(NEWS, "anna@example.com", "CONFIRM")
    terminal.follow(rename)
    assert store.get(NEWS, "anna@example.com") == "CONFIRMING"
    store.close()


@pytest.mark.slow
def test_mails_that_a_bug_hit_are_handled_again(terminal: QuickTerminal, application: Path) -> None:
    settings = application / "config" / "settings.py"
    settings.write_text(settings.read_text().replace("8823", str(free_port())))
    shutil.copy(CHECKOUT / "config" / "logging.conf", application / "config")
    with open_storage(f"sqlite:///{application}/run/states.db") as store:
        store.set(NEWS, "carl@example.com", "ERROR")
    follow(terminal, "bug")
    assert not list((application / "run" / "undeliverable" / "new").iterdir())
    with open_storage(f"sqlite:///{application}/run/states.db") as store:
        assert store.get(NEWS, "carl@example.com") == "POSTING"
    mails = terminal.type("salmon-state --json outbox pending")
    mails += "".join(path.read_text() for path in application.glob("run/outbox/new/*"))
    for recipient in ("carl@example.com", "ben@example.com"):
        assert recipient in mails


@pytest.mark.slow
def test_a_monitor(application: Path) -> None:
    with SMTPSink() as sink, open_storage(f"sqlite:///{application}/run/states.db"):
        follow(QuickTerminal(application, {"127.0.0.1:8823": sink.address}), "watching")


def test_what_to_look_for_in_the_log() -> None:
    code = "".join(path.read_text() for path in CHECKOUT.glob("salmon_state/**/*.py"))
    text = (HOW_TO / "watching.md").read_text()
    lines = re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)
    assert lines
    for line in lines:
        assert re.sub(r"\d+ s$", "", line) in code, line


@pytest.mark.slow
def test_a_backup(application: Path, postgresql: PostgreSQLServer) -> None:
    url = postgresql.fresh_database()
    with open_storage(url) as store:
        store.set(NEWS, "anna@example.com", "POSTING")
    database = url.replace("postgresql+psycopg://", "postgresql://")
    instead = {name: program(name, *postgresql.places) for name in ("pg_dump", "pg_restore")}
    follow(QuickTerminal(application, instead, DATABASE=database), "backup")
    with open_storage(url) as store:
        assert store.get(NEWS, "anna@example.com") == "POSTING"


@pytest.mark.slow
def test_an_application_with_a_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([SALMON, "gen", tmp_path / "application"], check=True, capture_output=True)
    application = tmp_path / "application"
    with shelve.open(str(application / "run" / "states")) as shelf:  # as Salmon's store writes it
        shelf[repr([b"app.handlers.sample", "anna@example.com"])] = "NEW_USER"
    monkeypatch.chdir(application)
    port = str(free_port())
    settings = application / "config" / "settings.py"
    settings.write_text(settings.read_text().replace("8823", port))
    terminal = QuickTerminal(application, {"8823": port})
    try:
        follow(terminal, "existing-application")
        terminal.type("salmon start")
        command = "salmon send --lmtp true --port 8823 --sender ben@example.com --to a@example.com"
        terminal.type(command)
        found = terminal.type("salmon-state --store shelve:///run/states list")
        assert "anna@example.com" in found
        assert "ben@example.com" in found
        terminal.type("kill $(cat run/smtp.pid)")
    finally:
        terminal.end()


@pytest.mark.slow
def test_which_server_postfix_takes(application: Path, tmp_path: Path) -> None:
    if shutil.which("postmap") is None:
        pytest.skip("postmap is not installed: install postfix to run this test")
    text = (CHECKOUT / "deploy" / "postfix" / "main.cf").read_text()
    table = parameters(text, several=True)["transport_maps"]
    (tmp_path / "main.cf").write_text(f"transport_maps = {table}\n")
    (tmp_path / "master.cf").write_text("")
    follow(QuickTerminal(application, {"/etc/postfix": str(tmp_path)}), "postfix")


def test_the_domain_in_postfixs_lines_is_changed(tmp_path: Path) -> None:
    for path in (CHECKOUT / "deploy" / "postfix").iterdir():
        shutil.copy(path, tmp_path)
    text = (HOW_TO / "postfix.md").read_text()
    (command,) = re.findall(r"^# (sed .*)$", text, flags=re.MULTILINE)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    found = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "example" not in found
    assert "relay_domains = lists.your.domain" in found
    assert r"@lists\.your\.domain$/" in found


def test_what_root_is_asked_to_copy_is_there() -> None:
    text = (HOW_TO / "systemd.md").read_text() + (HOW_TO / "postfix.md").read_text()
    names = re.findall(
        r"^# (?:cp|install -m \d+|cat) (\S+)(?: (lists-\S+|systemd/\S+))?", text, re.M
    )
    assert len(names) == 6
    for name in {each for pair in names for each in pair if each}:
        assert list((CHECKOUT / "deploy").rglob(name)), name
