"""Commands as they are typed: in this process, or in one of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from click.testing import CliRunner, Result

from salmon_state.operate.cli import cli

APP, ANNA, BEN = "app.handlers", "anna@example.com", "ben@example.com"


def typed(url: str, *arguments: str, answer: str | None = None) -> Result:
    """What a command prints and exits with."""
    given = ["--store", url, *arguments]
    return CliRunner().invoke(cli, given, answer, standalone_mode=False)


def rows(url: str, *arguments: str) -> list[dict[str, Any]]:
    """What it prints for a program."""
    result = typed(url, "--json", *arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The same as a process of its own."""
    command = [sys.executable, "-m", "salmon_state", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, **options
    )
