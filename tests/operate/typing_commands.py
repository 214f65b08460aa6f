"""Commands as they are typed: in this process, or in one of their own."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from salmon_state.operate.cli import cli, main

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


def exited(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """What a process would exit with and print, without one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["salmon-state", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out + printed.err


@contextmanager
def application_in(directory: Path) -> Iterator[None]:
    """Has ``config`` be that of a directory, which becomes the working directory."""
    (directory / "config").mkdir(exist_ok=True)
    (directory / "config/__init__.py").touch()  # or ours would be found, as a package
    names = [name for name in sys.modules if name.partition(".")[0] in ("config", "handlers")]
    ours = {name: sys.modules.pop(name) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            for name in ("config", "config.settings", "handlers"):
                sys.modules.pop(name, None)
            sys.modules.update(ours)
