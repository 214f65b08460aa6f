"""Somebody who types what a page says."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.documentation import Step, appear_in
from tests.end_to_end.mail_server import wait_until

HANG = 60.0
BIN = Path(sys.executable).parent


class Terminal:
    """A shell whose directory and variables stay from one command to the next.

    Args:
        directory: Where it begins.
        instead: What takes the place of what stands on the page: ports, paths.
        variables: More of the environment.
    """

    def __init__(self, directory: Path, instead: dict[str, str], **variables: str) -> None:
        self.directory = directory
        self._instead = instead
        self._kept = directory / ".terminal"
        self._kept.write_text("")
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("SALMON_")},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "NO_COLOR": "1",
            "COLUMNS": "120",
            **variables,
        }

    def follow(self, step: Step) -> None:
        """Types the commands of a step, or writes its file.

        Raises:
            AssertionError: A command failed, or did not say what stands below it.
        """
        if step.language == "python":
            self._write(step)
            return
        for command, expected in step.commands:
            output = self.type(command, read=bool(expected))
            expected = [self._here(line) for line in expected]
            assert appear_in(expected, output), f"{command}\n{output}"

    def type(self, command: str, *, read: bool = False) -> str:
        """Runs a command, which must succeed, and returns what it prints.

        Args:
            command: What is typed.
            read: Whether it prints to a terminal, where tables have headlines. A terminal that is
                gone when the command ends takes a daemon along that is about to leave it.
        """
        kept = f". {self._kept}; set -e -o pipefail\n"
        keep = (
            f"\nset +e; {{ echo cd $PWD; declare -p confirm || true; }} >{self._kept} 2>/dev/null"
        )
        script = f"{kept}{self._here(command)}{keep}"
        shell = ["bash", "-c", script]
        done = subprocess.run(
            ["script", "-qec", shlex.join(shell), "/dev/null"] if read else shell,
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HANG,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        for line in self._kept.read_text().splitlines():
            if line.startswith("cd "):
                self.directory = Path(line[3:])
        if command.startswith("salmon start"):
            self._wait_for_server()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", done.stdout)

    def end(self) -> None:
        """Kills the server that was left running."""
        for file in self.directory.glob("run/*.pid"):
            # It may be about to end by itself, and has just removed its file.
            with contextlib.suppress(ValueError, FileNotFoundError, ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGKILL)

    def _wait_for_server(self) -> None:
        port = int(self._instead["8823"])

        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return any(file.read_text() for file in self.directory.glob("run/*.pid"))
            return False

        wait_until(listens, "the server, and its run/smtp.pid")

    def _write(self, step: Step) -> None:
        how, _, name = self._here(step.headline).rpartition(" ")
        path = self.directory / name
        text = self._here(step.text)
        if how == "end of":
            text = path.read_text() + text
        elif how.startswith("instead of the import of "):
            line = rf"^from .* import .*{how.split()[5]}.*\n"
            text, found = re.subn(line, lambda _: text, path.read_text(), flags=re.MULTILINE)
            assert found == 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _here(self, text: str) -> str:
        for ours, theirs in self._instead.items():
            text = text.replace(ours, theirs)
        return text
