"""Is a mail server well? ``health_check.py HOST:PORT ...`` for a monitor, a timer or a container.

Each server that is named must greet, and `salmon-state health` must find nothing wrong with the
store: that of the working directory's application, or that of ``SALMON_STATE_URL``. Exit status: 0
if all is well, 1 otherwise, with a line for each trouble. It needs the extra ``cli``.
"""

from __future__ import annotations

import smtplib
import subprocess
import sys
from collections.abc import Iterator

PATIENCE = 60.0
"""Seconds: a server greets when it has handled the mail in hand."""


def main(servers: list[str]) -> int:
    """Says what is wrong; returns the status to exit with."""
    troubles = [*_servers(servers), *_store()]
    sys.stdout.writelines(f"{trouble}\n" for trouble in troubles)
    return 1 if troubles else 0


def _servers(servers: list[str]) -> Iterator[str]:
    for server in servers:
        host, _, port = server.rpartition(":")
        host = host.strip("[]")
        if not host:  # smtplib would ask nobody
            yield f"{server!r} is no server: expected host:port, such as 127.0.0.1:8823"
            continue
        try:
            # The greeting of LMTP is that of SMTP, and so is leaving.
            with smtplib.SMTP(host, int(port), timeout=PATIENCE):
                pass
        except (OSError, smtplib.SMTPException, ValueError) as error:
            yield f"{server} does not greet: {error}"


def _store() -> Iterator[str]:
    health = [sys.executable, "-m", "salmon_state", "health"]
    try:
        done = subprocess.run(health, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        yield f"the store: no answer within {PATIENCE:g} s"
        return
    if done.returncode != 0:
        yield f"the store: {done.stdout.strip()}{done.stderr.strip()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
