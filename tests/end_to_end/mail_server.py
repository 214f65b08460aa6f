"""A real mail server in a process and a directory of its own, and somebody who writes to it."""

from __future__ import annotations

import contextlib
import mailbox
import os
import runpy
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from email.message import EmailMessage, Message
from email.utils import make_msgid
from pathlib import Path
from typing import TypeVar

from salmon_state.testing.processes import forking_context
from tests.services import free_port

CHECKOUT = Path(__file__).parents[2]
DOMAIN = "lists.example.com"
HANG = 60.0
"""Seconds after which a server is taken to be stuck."""

SALMON = str(Path(sys.executable).with_name("salmon"))
HOW = {
    "serve": [sys.executable, "-m", "config.serve"],
    "foreground": [SALMON, "start", "--no-daemon"],
    "debug": [SALMON, "start", "--debug"],
    "daemon": [SALMON, "start"],
    "check": [sys.executable, "-c", "import config.boot"],
}
"""Commands that start a server; ``forked`` does what ``serve`` does."""

# What config.boot imports that is not the application's own.
CONTEXT = forking_context(
    "salmon_state.mail.dispatch",
    "salmon_state.mail.receivers",
    "salmon_state.stores.sqlalchemy",
    *("salmon.confirm", "salmon.view", "logging.config", "email.headerregistry"),
)

_Found = TypeVar("_Found")


def wait_until(condition: Callable[[], _Found], what: str, seconds: float = HANG) -> _Found:
    """Asks again and again until the answer is true, and returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return found


def of_threads(pid: int, name: str) -> list[str]:
    """Returns what Linux says about each thread of a process: the file of that name in /proc."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob(f"*/{name}"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found.append(path.read_text())
    return found


class ForkedServer:
    """``python -m config.serve`` in a process that has imported the libraries already.

    That takes most of the time in which a server starts. All else is as in one started by its
    command, which the tests of how it starts and ends have it started by.

    Args:
        directory: Where it runs.
        environment: All its variables.
        output: The path of the file that it writes to.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], output: Path) -> None:
        place = directory, environment, output
        self._process = CONTEXT.Process(target=_serve, args=place, daemon=True)
        self._process.start()
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Returns its exit status, if it has ended."""
        status: int | None = self._process.exitcode
        return status

    def wait(self, seconds: float = HANG) -> int:
        """Waits for its end; returns its exit status."""
        self._process.join(seconds)
        status = self.poll()
        assert status is not None, f"waited {seconds} s for a server to end"
        return status

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends it SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _serve(directory: Path, environment: Mapping[str, str], output: Path) -> None:
    os.chdir(directory)
    os.umask(0)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    with output.open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.path.insert(0, str(directory))
    runpy.run_module("config.serve", run_name="__main__", alter_sys=True)


class MailServer:
    """The application in a working directory of its own; end it with `kill`.

    Args:
        directory: Where it runs; several servers may share one.
        state_url: Where it keeps its states; ``''`` leaves it at its default.
        receiver: ``smtp``, ``lmtp`` or ``queue``.
        how: What starts it: one of `HOW`, or ``forked``.
        **settings: More variables, without the ``SALMON_``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        state_url: str = "",
        receiver: str = "smtp",
        how: str = "forked",
        **settings: str,
    ) -> None:
        self.directory = directory
        self.receiver = receiver
        self.how = how
        self.port = free_port()
        self.process: subprocess.Popen[str] | ForkedServer | None = None
        mine = {"STATE_URL": state_url, "RECEIVER": receiver, "PORT": str(self.port)}
        mine |= {"DISPATCHER": "thread", **settings}  # starting a process takes a while
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("SALMON_")},
            **{f"SALMON_{name}": text for name, text in mine.items()},
        }
        self._link_application()

    def _link_application(self) -> None:
        for name in ("config", "examples"):
            with contextlib.suppress(FileExistsError):
                (self.directory / name).symlink_to(CHECKOUT / name)

    # ------------------------------------------------------------ its life

    def start(self) -> MailServer:
        """Starts it and waits until it takes mail."""
        self._remove(self._output)
        self._output.touch()
        if self.how == "forked":
            self.process = ForkedServer(self.directory, self.environment, self._output)
        else:
            self.process = self._run_command()
        if self.how == "daemon":
            assert self.process.wait(HANG) == 0, self.output()
        wait_until(self._is_ready, f"the server to be ready: {self.output()}")
        return self

    def _run_command(self) -> subprocess.Popen[str]:
        with open(self._output, "w") as output:
            return subprocess.Popen(
                HOW[self.how],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                umask=0,  # as in a daemon: what is private must be so all the same
            )

    def stop(self, number: int = signal.SIGINT) -> int:
        """Sends it a signal, waits for its end, and returns its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(HANG)

    def kill(self) -> None:
        """Kills it with SIGKILL, if it runs, and waits for its end."""
        if self.how == "daemon":
            with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
                os.kill(int(self.pid_file.read_text()), signal.SIGKILL)
            self._remove(self.pid_file)
            wait_until(lambda: not self._listens(), "the daemon's port to be closed")
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def salmon(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a ``salmon`` command in the same directory."""
        return subprocess.run(
            [SALMON, *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=HANG,
        )

    def output(self) -> str:
        """Returns everything that it printed or logged."""
        files = [self._output, *sorted(self.directory.glob("logs/*"))]
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())

    @property
    def pid_file(self) -> Path:
        return self.directory / "run" / "smtp.pid"

    # ------------------------------------------------------------ its mail

    def send(self, sender: str, to: str, body: str = "hello") -> None:
        """Sends it a mail of its own; raises what `smtplib` raises if it does not take it."""
        self.hand_in(sender, self.mail(sender, to, body))

    def mail(self, sender: str, to: str, body: str = "hello") -> EmailMessage:
        """Returns a mail that nobody has sent yet."""
        mail = EmailMessage()
        mail["Message-ID"] = make_msgid()
        mail["From"], mail["To"], mail["Subject"] = sender, self.address(to), "hi"
        mail.set_content(body)
        return mail

    def hand_in(self, sender: str, mail: EmailMessage) -> None:
        """Sends it a mail that perhaps was sent before; raises as `send` does."""
        if self.receiver == "queue":
            mailbox.Maildir(self.directory / "run" / "queue").add(mail)
            return
        with self.connection() as connection:
            connection.sendmail(sender, [str(mail["To"])], mail.as_bytes())

    def connection(self) -> smtplib.SMTP:
        """Connects to it as a mail server does."""
        protocol = smtplib.LMTP if self.receiver == "lmtp" else smtplib.SMTP
        return protocol("127.0.0.1", self.port, timeout=HANG)

    def address(self, to: str) -> str:
        """Returns an address of the lists, whose domain may be left out."""
        return to if "@" in to else f"{to}@{DOMAIN}"

    def mail_to(self, recipient: str) -> list[Message]:
        """Returns the mails that it sent to somebody, the oldest first."""
        found: list[Message] = []
        for path in sorted((self.directory / "run" / "outbox" / "new").glob("*"), key=_age):
            with path.open("rb") as file:
                mail = mailbox.MaildirMessage(file)
            if mail["X-Envelope-To"] == f"<{recipient}>":
                found.append(mail)
        return found

    def wait_for_mail(self, recipient: str, subject: str) -> Message:
        """Waits for a mail to somebody whose subject begins like this; returns the newest."""

        def newest() -> Message | None:
            found = [m for m in self.mail_to(recipient) if str(m["Subject"]).startswith(subject)]
            return found[-1] if found else None

        mail = wait_until(newest, f"the mail {subject!r} to {recipient}; {self.output()}")
        assert mail is not None
        return mail

    # ------------------------------------------------------------

    @property
    def _output(self) -> Path:
        return self.directory / f"output.{self.port}"

    def _is_ready(self) -> bool:
        assert self.process is not None
        if self.how != "daemon":
            assert self.process.poll() is None, self.output()
        if self.receiver == "queue":
            return "QueueReceiver started" in self._output.read_text()
        return self._listens()

    def _listens(self) -> bool:
        if self.receiver == "queue":
            return False
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns
