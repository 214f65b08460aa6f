"""A million conversations: each command in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from salmon_state import open_storage
from salmon_state.entries import STATE, Write
from tests.operate.typing_commands import APP
from tests.services import fresh_url

pytestmark = pytest.mark.stress

MILLION = 1_000_000
MORE = 60_000
"""Kilobytes that a command may take more than for a thousand: fifty bytes for each entry that is
copied, and on Redis thirty for each sender that was seen: a scan may give one repeatedly."""

COMMANDS = {
    "list": ["--json", "list"],
    "list-some": ["list", "-n", "10"],
    "list-state": ["list", "--state", "RARE"],
    "list-idle": ["list", "--idle", "1d", "-n", "10"],
    "count": ["count"],
    "show": ["show", "7@x"],
    "export": ["export", "7@x"],
    "doctor": ["doctor"],
    "health": ["health"],
    "rename": ["rename", APP, "RARE", "SELDOM", "--dry-run"],
    "rename-module": ["rename-module", "nothing", "other"],
    "purge": ["purge", "--older-than", "1d", "--dry-run"],
    "outbox": ["outbox", "status"],
}


def fill(url: str, count: int) -> None:
    with open_storage(url) as store:
        for start in range(0, count, 10_000):
            end = min(start + 10_000, count)
            store._commit(
                [
                    Write(STATE, f"{n}@x", APP, "RARE" if n % 10_000 == 7 else "POSTING", n)
                    for n in range(start, end)
                ]
            )


MEASURED = """
import sys, time
from salmon_state.__main__ import run
try:
    run()
finally:
    status = open("/proc/self/status").read()
    print(status.partition("VmHWM:")[2].split()[0], time.process_time(), file=sys.stderr)
"""


def taken(url: str, *arguments: str, output: Path) -> tuple[int, int]:
    """How many kilobytes a command took at most, and how many lines it printed."""
    command = [sys.executable, "-c", MEASURED, "--store", url, *arguments]
    with output.open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    most, seconds = done.stderr.split()[-2:]
    with output.open("rb") as file:
        lines = sum(1 for _ in file)
    sys.stdout.write(f"{' '.join(arguments)}: {most} kB, {seconds} s, {lines} lines\n")
    return int(most), lines


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "redis_server"])
def test_a_million(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    output = tmp_path / "output"
    url = fresh_url(request, kind, tmp_path)
    fill(url, 1_000)
    few, _ = taken(url, *COMMANDS["list"], output=output)
    fill(url, MILLION)
    for name, command in COMMANDS.items():
        most, lines = taken(url, *command, output=output)
        assert name != "list" or lines == MILLION
        assert most - few < MORE, name
    if kind == "sqlite":
        copy = ["copy", url, f"sqlite:///{tmp_path}/copy.db"]
        assert taken(url, *copy, output=output)[0] - few < MORE
