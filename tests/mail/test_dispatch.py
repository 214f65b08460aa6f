"""A dispatcher in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from salmon_state import open_storage
from salmon_state.mail.batches import Mail
from salmon_state.mail.outbox import Outbox
from tests.end_to_end.smtp_sink import SMTPSink, wait_for

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


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    process = start(tmp_path, "nosql://me:hunter2@x", "--maildir=out")
    _, text = process.communicate(timeout=30)
    assert process.returncode == 1
    assert text.startswith("unknown scheme 'nosql'")
    assert "hunter2" not in text


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "salmon_state.mail.dispatch", *arguments],
        cwd=directory,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
