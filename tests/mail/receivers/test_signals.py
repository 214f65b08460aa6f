"""SIGTERM, and SIGHUP as from ``salmon stop``, without anything that handles them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = """\
import socket, sys, threading
from salmon.routing import Router
from salmon_state.mail import receivers

def deliver(mail):
    print("in hand", flush=True)
    sys.stdin.readline()
    print("handled", flush=True)

Router.deliver = deliver
if sys.argv[1] == "queue":
    receiver = receivers.QueueReceiver(sys.argv[2], sleep=0.01)
else:
    receiver = {"smtp": receivers.SMTPReceiver, "lmtp": receivers.LMTPReceiver}[sys.argv[1]](
        port=0, check_recipients=False
    )
    client = socket.create_connection(receiver.address)
    hello = b"LHLO x" if sys.argv[1] == "lmtp" else b"EHLO x"
    lines = [hello, b"MAIL FROM:<a@x>", b"RCPT TO:<b@x>", b"DATA", b"hello", b".", b""]
    client.sendall(b"\\r\\n".join(lines))
receiver.start()
if sys.argv[3:]:  # as `salmon start --debug` does
    threading.Event().wait()
if sys.argv[1] != "queue":
    receiver.wait(60)
    print(client.makefile("rb").read().count(b"250 2.0.0 OK"), flush=True)
"""


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("smtp", signal.SIGHUP),
        ("lmtp", signal.SIGTERM),
        ("queue", signal.SIGHUP),
        ("debug", signal.SIGTERM),
    ],
)
def test_the_mail_in_hand_is_finished(how: str, number: signal.Signals, tmp_path: Path) -> None:
    spool = tmp_path / "queue"
    for name in ("new", "cur", "tmp"):
        (spool / name).mkdir(parents=True)
    (spool / "new" / "1.x").write_text("From: a@x\nTo: b@x\n\nhello\n")
    arguments = ["smtp", str(spool), "debug"] if how == "debug" else [how, str(spool)]
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "in hand\n"
            process.send_signal(number)
            output, _ = process.communicate("go on\n", timeout=30)
        finally:
            process.kill()
    assert output == "handled\n" + ("1\n" if how in ("smtp", "lmtp") else "")
    assert process.returncode == (-number if how == "debug" else 0)
