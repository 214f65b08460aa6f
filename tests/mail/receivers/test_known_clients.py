"""The clients that people try a mail server with: Postfix's smtp-source, and swaks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.mail.receivers.serving import HANG, routes, serving
from tests.services import Missing, program

KINDS = ("smtp", "lmtp", "unix")


def run(name: str, *arguments: str) -> str:
    try:
        found = program(name, "/usr/sbin", "/usr/bin")
    except Missing as missing:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"{missing}, and REQUIRE_SERVICES=1 promises it")
        pytest.skip(f"{missing}: install it to run this test")
    ended = subprocess.run(
        [found, *arguments], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def options(kind: str, tmp_path: Path) -> dict[str, Any]:
    return {"socket": str(tmp_path / "socket")} if kind == "unix" else {}


@pytest.mark.parametrize("kind", KINDS)
def test_smtp_source(kind: str, tmp_path: Path) -> None:
    delivered: list[Any] = []
    protocol = "smtp" if kind == "smtp" else "lmtp"
    with routes(delivered.append), serving(protocol, **options(kind, tmp_path)) as receiver:
        address = receiver.address
        to = f"unix:{address}" if kind == "unix" else f"inet:127.0.0.1:{address[1]}"
        lmtp = ["-L"] if protocol == "lmtp" else []
        run("smtp-source", *lmtp, "-s", "5", "-m", "50", "-f", "a@y", "-t", "news@x", to)
    assert [(mail.From, mail.To) for mail in delivered] == [("a@y", "news@x")] * 50


@pytest.mark.parametrize("kind", KINDS)
def test_swaks(kind: str, tmp_path: Path) -> None:
    delivered: list[Any] = []
    protocol = "smtp" if kind == "smtp" else "lmtp"
    with routes(delivered.append), serving(protocol, **options(kind, tmp_path)) as receiver:
        address = receiver.address
        at = ["--socket", address] if kind == "unix" else ["--server", f"127.0.0.1:{address[1]}"]
        arguments = ["--protocol", protocol, "--from", "a@y", "--to", "news@x", "--pipeline"]
        said = run("swaks", *at, *arguments, "--body", "hello\n.\n..x")
    assert " ** " not in said
    [mail] = delivered
    assert mail.body().rstrip("\n") == "hello\n.\n..x"
