"""A disk that fails for moments, and then the power: what was acknowledged is there.

``pytest -m stress -o log_cli=1 --log-cli-level=INFO tests/stress/test_disk.py`` shows the figures.
"""

from __future__ import annotations

import logging
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from salmon_state import SQLAlchemyStorage

pytestmark = pytest.mark.stress
log = logging.getLogger(__name__)

ROUNDS, PROCESSES, THREADS = 10, 3, 2
SHARED = 4 + 4 + 65_536
"""In bytes: whether the disk fails, how often it did, and what it has not got."""

WRITER = f"""
import logging, sys, threading
from salmon_state import SQLAlchemyStorage, StorageUnavailable

_, path, name = sys.argv
logging.disable()
store = SQLAlchemyStorage(f"sqlite:///{{path}}")

def write(thread):
    step = 0
    while True:
        step += 1
        try:
            store.set("app", f"{{name}}.{{thread}}", f"S{{step}}")
        except StorageUnavailable:
            continue
        print(f"{{name}}.{{thread}} {{step}}\\n", end="", flush=True)

for thread in range({THREADS}):
    threading.Thread(target=write, args=(thread,)).start()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail("there is no C compiler (cc) here")
        pytest.skip("there is no C compiler (cc) here")
    made = tmp_path_factory.mktemp("disk") / "disk.so"
    source = Path(__file__).with_name("failing_disk.c")
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", made, source, "-ldl"],
        check=True,
    )
    return made


@contextmanager
def writers(library: Path, path: Path) -> Iterator[list[Path]]:
    """Starts processes that write without end; gives the files that say what was acknowledged."""
    environment = {**os.environ, "LD_PRELOAD": str(library), "DISK": str(path.parent)}
    files = [path.with_name(f"acknowledged.{number}") for number in range(PROCESSES)]
    started = []
    try:
        for number, file in enumerate(files):
            with file.open("w") as said:
                arguments = [sys.executable, "-c", WRITER, str(path), str(number)]
                started.append(subprocess.Popen(arguments, env=environment, stdout=said))
        yield files
    finally:
        for process in started:  # none goes on while another one that brings pages there has died
            process.send_signal(signal.SIGSTOP)
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def acknowledged(files: list[Path]) -> dict[str, int]:
    last: dict[str, int] = {}
    for file in files:
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                sender, step = line.split()
                last[sender] = max(last.get(sender, 0), int(step))
    return last


def lose(library: Path, directory: Path) -> tuple[int, int]:
    """Returns how much was acknowledged and how often the disk failed, and fails if any is lost."""
    directory.mkdir()
    path, state = directory / "states.db", directory / "state"
    state.write_bytes(bytes(SHARED))
    (directory / "lock").touch()
    with SQLAlchemyStorage(f"sqlite:///{path}") as keeps_the_log:
        shutil.copy(path.with_name("states.db-wal"), directory / "image")
        with (
            state.open("r+b") as file,
            mmap.mmap(file.fileno(), 0) as disk,
            writers(library, path) as files,
        ):
            while len(acknowledged(files)) < PROCESSES * THREADS:
                time.sleep(0.05)
            for _ in range(5):
                time.sleep(random.uniform(0.05, 0.3))
                disk[:4] = struct.pack("i", 1)
                time.sleep(random.uniform(0, 0.03))
                disk[:4] = struct.pack("i", 0)
            time.sleep(random.uniform(0.005, 0.04))
        failures = struct.unpack("i", state.read_bytes()[4:8])[0]
        copy = directory / "copy" / "states.db"
        copy.parent.mkdir(mode=0o700)
        shutil.copy(path, copy)
        shutil.copy(directory / "image", copy.with_name("states.db-wal"))
        keeps_the_log.ping()
    with SQLAlchemyStorage(f"sqlite:///{copy}") as found:
        assert list(found._examine()) == []
        for sender, step in acknowledged(files).items():
            there = found.get("app", sender)
            assert there != "START", sender
            assert int(there[1:]) >= step, sender
    return sum(acknowledged(files).values()), failures


def test_what_was_acknowledged_outlives_a_disk_that_failed(library: Path, tmp_path: Path) -> None:
    total = failures = 0
    for number in range(ROUNDS):
        count, failed = lose(library, tmp_path / str(number))
        total, failures = total + count, failures + failed
    log.info("%d acknowledged, the disk failed %d times: nothing is lost", total, failures)
    assert failures > ROUNDS
