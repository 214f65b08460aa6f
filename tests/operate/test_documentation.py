"""docs/command.md and the help texts: what they show is there, and works."""

from __future__ import annotations

import importlib
import os
import re
import shelve
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from salmon_state import open_storage
from salmon_state.operate.cli import cli
from tests.documentation import CHECKOUT, blocks
from tests.operate.typing_commands import ANNA, APP

FILE = "docs/command.md"


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", [(), *commands()], ids=" ".join)
def test_help(path: tuple[str, ...]) -> None:
    """It fits a narrow terminal, and its first line says in one sentence what it is for."""
    done = CliRunner().invoke(cli, ["--store", "memory://", *path, "--help"], terminal_width=80)
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 80
    assert "..." not in done.output.partition("Commands:")[2]
    if path != ("outbox", "dispatch"):  # whose help is argparse's
        about = done.output.split("\n\n")[1]
        assert re.match(r" +[A-Z].*[.:]", " ".join(about.split("\n")))


def test_every_command_is_told_of() -> None:
    text = (CHECKOUT / FILE).read_text()
    left = [" ".join(path) for path in commands() if f"`{' '.join(path)}" not in text]
    assert left == []


def test_what_is_told_of_is_there() -> None:
    known = {path[0] for path in commands()}
    lines = "".join(blocks(FILE, "console")).splitlines()
    for line in lines:
        words = shlex.split(line.removeprefix("$ "))
        if "salmon-state" in words and len(words) > words.index("salmon-state") + 1:
            rest = words[words.index("salmon-state") + 1 :]
            given = rest[2] if rest[0] == "--store" else rest[0]
            assert given in known | {"--help"} or given == ">", line


def test_the_examples(tmp_path: Path) -> None:
    """Those that need no server, as they are typed, with a store and a shelf beside them."""
    (tmp_path / "run").mkdir()
    with open_storage(f"sqlite:///{tmp_path}/run/states.db") as store:
        store.set(APP, ANNA, "CONFIRMING")
    dumb: Any = importlib.import_module("dbm.dumb")
    shelf: shelve.Shelf[str] = shelve.Shelf(dumb.open(str(tmp_path / "run/states"), "c"))
    with shelf:
        shelf[repr([APP.encode(), ANNA])] = "POSTING"
    local = [
        line.removeprefix("$ ")
        for block in blocks(FILE, "console")[:2]
        for line in block.splitlines()
        if "postgresql" not in line
    ]
    assert len(local) == 3
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = run("; ".join(local), cwd=tmp_path, env=environment)
    assert "the stores are equal" in done.stdout


def run(command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["sh", "-e", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    return done


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    assert f"_SALMON_STATE_COMPLETE={shell}_source salmon-state" in (CHECKOUT / FILE).read_text()
    environment = {"_SALMON_STATE_COMPLETE": f"{shell}_source"}
    script = CliRunner(env=environment).invoke(cli, prog_name="salmon-state").stdout
    assert f"_SALMON_STATE_COMPLETE={shell}_complete" in script


def test_completion_of_a_command() -> None:
    environment = {"COMP_WORDS": "salmon-state outbox re", "COMP_CWORD": "2"}
    environment["_SALMON_STATE_COMPLETE"] = "bash_complete"
    completed = CliRunner(env=environment).invoke(cli, prog_name="salmon-state").stdout
    assert completed == "plain,retry\n"
