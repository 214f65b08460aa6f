"""Two processes on one Maildir, one of which is killed again and again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

MAILS, KILLS = 3_000, 20

SERVER = """\
import os, sys, time
from salmon.routing import Router
from salmon_state.mail.receivers import QueueReceiver

log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def deliver(mail):
    time.sleep(0.03)
    os.write(log, mail["Subject"].encode() + b"\\n")

Router.deliver = deliver
QueueReceiver(sys.argv[1], sleep=0.01, workers=4).start()
"""


@pytest.mark.stress
def test_no_mail_is_lost(tmp_path: Path) -> None:
    """What a killed one had in hand is handled by another, and may be handled twice."""
    spool, log = tmp_path / "queue", tmp_path / "log"
    for name in ("new", "cur", "tmp"):
        (spool / name).mkdir(parents=True)
    for number in range(MAILS):
        mail = f"From: {number % 100}@x\nTo: news@x\nSubject: {number}\n\nhello\n"
        (spool / "new" / f"{number}.x").write_text(mail)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SERVER, str(spool), str(log)])

    servers = [start(), start()]
    try:
        for _ in range(KILLS):
            time.sleep(1.0)
            with servers.pop(0) as killed:
                killed.kill()
            servers.append(start())
        until = time.monotonic() + 300
        while any(any((spool / name).iterdir()) for name in ("new", "cur", "later")):
            assert time.monotonic() < until, "mails are left"
            time.sleep(0.1)
    finally:
        for server in servers:
            server.kill()
            server.wait()
    handled = Counter(map(int, log.read_text().split()))
    assert set(handled) == set(range(MAILS))
    assert sum(handled.values()) - MAILS <= KILLS * 4
