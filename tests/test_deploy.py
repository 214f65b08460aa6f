"""The files of deploy/: Postfix and systemd read them, and mail goes through them."""

from __future__ import annotations

import re
import shutil
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import health_check
from salmon_state import open_storage
from tests.documentation import CHECKOUT
from tests.end_to_end.conversation import ask
from tests.end_to_end.mail_server import MailServer, wait_until
from tests.end_to_end.smtp_sink import SMTPSink
from tests.postfix import AS_ROOT, Postfix
from tests.services import Missing, free_port, program, provide

DEPLOY = CHECKOUT / "deploy"
LISTS = "lists.example.com"
ANNA = "anna@example.com"


def parameters(text: str, *, several: bool) -> dict[str, str]:
    """Returns the parameters in main.cf, by name; with the lines for several servers, or without.

    Args:
        text: What is in the file.
        several: Whether the lines for several servers take the place of the one for one.
    """
    if several:
        text = re.sub(r"^#(?=transport_maps| {4}\{a=)", "", text, flags=re.MULTILINE)
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    return dict(re.findall(r"^(\w+) = (.*(?:\n .*)*)$", text, flags=re.MULTILINE))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MailServer]:
    server = MailServer(tmp_path, receiver="lmtp", how="serve")
    yield server
    server.kill()


@pytest.fixture
def postfix(server: MailServer) -> Iterator[Postfix]:
    """A Postfix with the lines of deploy/postfix, for two servers of which one is away."""
    recipients = server.directory / "recipients"
    shutil.copy(DEPLOY / "postfix" / "salmon-recipients", recipients)
    text = (DEPLOY / "postfix" / "main.cf").read_text()
    for ours, theirs in (
        ("/etc/postfix/salmon-recipients", str(recipients)),
        (":8823", f":{free_port()}"),
        (":8824", f":{server.port}"),
        ("backoff_time = 60s", "backoff_time = 1s"),
        ("backoff_time = 10m", "backoff_time = 1s"),
        ("queue_run_delay = 60s", "queue_run_delay = 1s"),
    ):
        assert ours in text
        text = text.replace(ours, theirs)
    settings = parameters(text, several=True)
    services = (DEPLOY / "postfix" / "master.cf").read_text()
    for running in provide(lambda: Postfix({}, settings=settings, services=services)):
        running.start()
        yield running


@AS_ROOT
@pytest.mark.slow
def test_a_mail_behind_postfix_survives_a_restart(postfix: Postfix, server: MailServer) -> None:
    assert postfix.complaints() == ""
    server.start()
    server.receiver, port, server.port = "smtp", server.port, postfix.port  # what clients speak to
    address = ask(server, ANNA)
    server.kill()
    server.send(ANNA, address)  # nobody is there to take it: Postfix keeps it
    wait_until(lambda: postfix.statuses().get("deferred"), f"its absence: {postfix.log()[-2000:]}")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        server.send(ANNA, "nobody")
    server.port = port
    server.start()
    wait_until(lambda: postfix.queued() == 0, "Postfix to have nothing left")
    # Not her welcome: the claim of the mail before, perhaps cut short, comes first and lasts.
    with open_storage(f"sqlite:///{server.directory}/run/states.db") as store:
        assert {record.state for record in store.records(sender=ANNA)} == {"POSTING"}


@pytest.mark.slow
def test_postfix_sends_to_one_server_and_to_any_of_several() -> None:
    text = (DEPLOY / "postfix" / "main.cf").read_text()
    one = parameters(text, several=False)["transport_maps"]
    assert ask_postfix(one) == "salmon:[127.0.0.1]:8823"
    table = parameters(text, several=True)["transport_maps"].replace("\n", "")
    both = {
        "salmon:[127.0.0.1]:8823, [127.0.0.1]:8824",
        "salmon:[127.0.0.1]:8824, [127.0.0.1]:8823",
    }
    found: set[str] = set()
    while found != both:
        found.add(ask_postfix(table))
        assert found <= both


def ask_postfix(table: str) -> str:
    if shutil.which("postmap") is None:
        pytest.skip("postmap is not installed: install postfix to run this test")
    done = subprocess.run(
        ["postmap", "-q", LISTS, table], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_systemd_reads_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: install systemd to run this test")
    (tmp_path / "env").write_text("")
    for unit in (DEPLOY / "systemd").glob("lists*.[st]*"):
        text = unit.read_text().replace("/srv/lists/.venv/bin/python", sys.executable)
        (tmp_path / unit.name.replace("@", "@8823")).write_text(text)
    units = sorted(str(unit) for unit in tmp_path.glob("*.[st]*"))
    assert len(units) == 3
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_units_know_every_setting() -> None:
    known = re.findall(r"``(SALMON_\w+)``", (CHECKOUT / "config" / "settings.py").read_text())
    named = re.findall(r"^(SALMON_\w+)=", (DEPLOY / "systemd" / "lists.env").read_text(), re.M)
    assert named
    assert set(named) <= set(known)


def test_logrotate_reads_its_lines(tmp_path: Path) -> None:
    try:
        logrotate = program("logrotate", "/usr/sbin")
    except Missing as missing:
        pytest.skip(f"{missing}: install it to run this test")
    text = (DEPLOY / "logrotate" / "lists").read_text()
    (tmp_path / "salmon.log").write_text("a line\n")
    lines = text.replace("/srv/lists/logs", str(tmp_path)).replace("lists lists", "root root")
    (tmp_path / "lines").write_text(lines)
    (tmp_path / "lines").chmod(0o644)
    state = ["--state", str(tmp_path / "state")]
    subprocess.run([logrotate, "--force", *state, str(tmp_path / "lines")], check=True)
    assert (tmp_path / "salmon.log.1").read_text() == "a line\n"


def test_a_monitor_that_names_no_host_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hear for ever that all is well, from nobody."""
    monkeypatch.setenv("SALMON_STATE_URL", "memory://")
    assert health_check.main(["8823", ":8823", "[]:8823"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" is no server")[0] for line in lines] == [
        "'8823'",
        "':8823'",
        "'[]:8823'",
    ]


@pytest.mark.slow
def test_a_monitor_is_told_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nothing is wrong, tests/site/test_how_to.py asks."""
    away = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("SALMON_STATE_URL", f"sqlite:///{tmp_path}/nowhere/states.db")
    with SMTPSink() as sink:
        assert health_check.main([sink.address, away]) == 1
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first.startswith(f"{away} does not greet: ")
    assert second.startswith("the store: ")
