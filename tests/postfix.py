"""A private Postfix: own configuration, queue and ports on loopback, removed at the end."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.services import JANITOR, Missing, free_port, program

AS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="a private Postfix is started by root only: run as root"
)

MASTER = """\
{port}    inet  n - n - 50 smtpd
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 1 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
lmtp      unix  - - n - - lmtp
error     unix  - - n - - error
retry     unix  - - n - - error
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
showq     unix  n - n - - showq
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """A mail server that takes every mail, and retries every few seconds what was deferred.

    Args:
        routes: By domain, where its mail goes: ``lmtp:[127.0.0.1]:2400``.
        settings: Parameters of ``main.cf`` that take the place of those for `routes`.
        services: More lines of ``master.cf``.
    """

    def __init__(
        self,
        routes: Mapping[str, str],
        *,
        settings: Mapping[str, str] | None = None,
        services: str = "",
    ) -> None:
        self._program = program("postfix", "/usr/sbin", "/usr/local/sbin")
        try:
            self._owner = pwd.getpwnam("postfix")
        except KeyError:
            raise Missing("the user of postfix is not installed") from None
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="salmon-state-postfix-"))
        self.directory.chmod(0o755)
        self._write_settings(routes, settings or {}, services)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0

    def _write_settings(
        self, routes: Mapping[str, str], changed: Mapping[str, str], services: str
    ) -> None:
        base = self.directory
        for name in ("etc", "queue", "data"):
            (base / name).mkdir()
        os.chown(base / "data", self._owner.pw_uid, self._owner.pw_gid)
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": base / "queue",
            "data_directory": base / "data",
            "maillog_file": base / "log",
            "maillog_file_prefixes": base,
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "myhostname": "relay.test",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "relay_domains": ", ".join(routes),
            "transport_maps": "inline:{ "
            + ", ".join(f"{domain}={route}" for domain, route in routes.items())
            + " }",
            "smtpd_peername_lookup": "no",
            "smtpd_client_connection_rate_limit": "0",
            "smtp_dns_support_level": "disabled",
            "minimal_backoff_time": "1s",
            "maximal_backoff_time": "3s",
            "queue_run_delay": "1s",
            "maximal_queue_lifetime": "1d",
            # One mail that is told to come again does not make the server a dead one.
            "default_destination_concurrency_failed_cohort_limit": "100",
            "default_destination_concurrency_limit": "5",
        }
        lines = [f"{name} = {value}\n" for name, value in {**settings, **changed}.items()]
        (base / "etc" / "main.cf").write_text("".join(lines))
        master = MASTER.format(port=f"127.0.0.1:{self.port}") + services
        (base / "etc" / "master.cf").write_text(master)

    def complaints(self) -> str:
        """Returns what Postfix finds wrong with its settings, a parameter without use included."""
        found = ""
        for command in ([self._program, "check"], ["postconf", "-n"], ["postconf", "-M"]):
            command[1:1] = ["-c", str(self.directory / "etc")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found += done.stderr
        return found

    def start(self) -> None:
        """Starts it and waits until it takes mail."""
        with (self.directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self.directory / "etc"), "start-fg"],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        before = self._started
        while self.log().count("daemon started") == before:
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self.directory / "output").read_text(errors="replace")
                raise RuntimeError(f"postfix did not start: {text}\n{self.log()}")
            time.sleep(0.05)
        self._started = self.log().count("daemon started")
        JANITOR.watch(self.directory, self._master())  # with which all of its processes end

    def _master(self) -> int:
        return int((self.directory / "queue" / "pid" / "master.pid").read_text())

    def log(self) -> str:
        """Returns everything that it logged."""
        file = self.directory / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def statuses(self) -> dict[str, int]:
        """Returns how often it logged each status of a delivery: sent, deferred, bounced."""
        found: dict[str, int] = {}
        for status in re.findall(r"status=(\w+)", self.log()):
            found[status] = found.get(status, 0) + 1
        return found

    def queued(self) -> int:
        """Returns how many mails it has."""
        queue = self.directory / "queue"
        return sum(
            len(files)
            for name in ("maildrop", "incoming", "active", "deferred", "hold")
            for _, _, files in os.walk(queue / name)
        )

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it and all its processes; its mails stay for the next start."""
        if self._process is not None:
            # The master leads a process group of its own, and does not end with what started it.
            with contextlib.suppress(FileNotFoundError):
                _end_group(self._master(), self._process, number)
            self._process.kill()
            self._process.wait()

    def remove(self) -> None:
        """Ends it, and removes its mails."""
        self.end()
        shutil.rmtree(self.directory, ignore_errors=True)
        JANITOR.forget(self.directory)


def _end_group(leader: int, started_by: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Sends a signal to a group of processes, kills what has not ended in time, and waits."""
    deadline = time.monotonic() + 30
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(leader, number)
            started_by.poll()  # so that none stays as a zombie
            if time.monotonic() > deadline:
                number = signal.SIGKILL
            time.sleep(0.05)
