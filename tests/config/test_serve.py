"""What ``make run`` tells to type, wherever things are."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from config import serve, settings

PLACE = "it's in here; $HOME"


def test_the_command_that_puts_a_mail_into_a_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "receiver_kind", "queue")
    monkeypatch.setattr(settings, "queue_directory", PLACE)
    for name in ("tmp", "new"):
        (tmp_path / PLACE / name).mkdir(parents=True)
    subprocess.run(["sh", "-c", serve._command("news@x")], cwd=tmp_path, check=True)
    [mail] = (tmp_path / PLACE / "new").iterdir()
    assert "To: news@x\n" in mail.read_text()


def test_the_command_that_sends_to_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "receiver_kind", "lmtp")
    monkeypatch.setattr(settings, "receiver_socket", PLACE)
    assert PLACE in shlex.split(serve._command("news@x"))


def test_the_command_of_an_environment_in_any_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", f"/{PLACE}/bin/python")
    command = shlex.split(serve._command("news@x"))
    assert command[0].endswith(f"/{PLACE}/bin/salmon")
    assert command[1] == "send"
