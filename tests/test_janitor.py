"""What is left of the servers of a run that was killed: nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.end_to_end.mail_server import wait_until

A_RUN = """
import subprocess, sys
from pathlib import Path
from tests.janitor import Janitor

janitor = Janitor()
for name in sys.argv[1:]:
    Path(name).mkdir()
    server = subprocess.Popen(
        ["sleep", "60"], cwd=name, stdout=subprocess.DEVNULL, start_new_session=True
    )
    janitor.watch(Path(name), server.pid)
    print(server.pid, flush=True)
janitor.forget(Path(sys.argv[1]))
sys.stdin.read()
"""


def test_servers_end_when_the_run_is_killed(tmp_path: Path) -> None:
    forgotten, watched = tmp_path / "forgotten", tmp_path / "watched"
    run = subprocess.Popen(
        [sys.executable, "-c", A_RUN, str(forgotten), str(watched)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    survivor, server = (int(run.stdout.readline()) for _ in range(2))
    try:
        assert runs(server)
        run.kill()
        run.communicate()
        wait_until(lambda: not runs(server) and not watched.exists(), "the janitor to clean up")
        assert runs(survivor)
        assert forgotten.exists()
    finally:
        subprocess.run(["kill", str(survivor)], check=True)


def runs(pid: int) -> bool:
    """Returns whether a process is there and no zombie."""
    said = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(said.stdout.strip()) and not said.stdout.startswith("Z")
