"""Mails through a queue directory: our receiver beside Salmon's, with the same store.

``python -m benchmarks.queue [MAILS]``; each receiver is a process of its own and takes all that is
there, from 100 senders, with a handler that changes its sender's state.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

MAILS = 500

RUN = """\
import sys, time
from salmon.routing import Router
from salmon import server
from salmon_state import attach, open_storage
from salmon_state.mail import receivers

url, spool, kind, count = sys.argv[1:]
Router.STATE_STORE = open_storage(url)
handled = 0

def deliver(mail):
    global handled
    handled += 1
    Router.STATE_STORE.set("app.handlers", mail.From, f"STATE_{handled}")

Router.deliver = deliver
attach(Router)
receiver = (receivers if kind == "ours" else server).QueueReceiver(spool, sleep=0.01, workers=4)
began = time.perf_counter()
receiver.start(one_shot=True)
took = time.perf_counter() - began
assert handled == int(count), handled
print(took)
"""


def measure(kind: str, store: str, mails: int) -> float:
    """Returns how many mails a second one receiver handled."""
    with tempfile.TemporaryDirectory() as directory:
        spool = Path(directory, "queue")
        for name in ("new", "cur", "tmp"):
            (spool / name).mkdir(parents=True)
        for number in range(mails):
            mail = f"From: {number % 100}@x\nTo: news@x\nSubject: {number}\n\nhello\n"
            (spool / "new" / f"{1_700_000_000 + number}.x").write_text(mail)
        url = "memory://" if store == "memory" else f"sqlite:///{directory}/states.db"
        command = [sys.executable, "-c", RUN, url, str(spool), kind, str(mails)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return mails / float(ended.stdout)


def main() -> None:
    """Prints the rates and their ratio."""
    mails = int(sys.argv[1]) if len(sys.argv) > 1 else MAILS
    for store in ("memory", "sqlite"):
        ours, salmons = (measure(kind, store, mails) for kind in ("ours", "salmon"))
        print(
            f"{store}: {mails:,} mails: ours {ours:,.0f} a second, Salmon's {salmons:,.0f}, "
            f"ratio {ours / salmons:.1f}"
        )


if __name__ == "__main__":
    main()
