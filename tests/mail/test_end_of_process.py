"""A process that ends with a dispatcher in it, as an application's server does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from salmon_state import open_storage
from salmon_state.mail.outbox import Outbox

PROGRAM = """
import sys, threading, time
from salmon_state import open_storage
from salmon_state.mail.dispatcher import Dispatcher
from salmon_state.mail.outbox import Outbox

asked = threading.Event()

class Relay:
    def deliver(self, message, To, From):
        asked.set()
        time.sleep(0.2)  # it has the mail, and its answer is under way

outbox = Outbox(open_storage(sys.argv[1]), Relay())
Dispatcher(outbox).start()
outbox.send("anna@example.com", "list@example.com", "Hello", "Hello!")
asked.wait()
"""


def test_what_is_in_hand_has_its_answer(tmp_path: Path) -> None:
    """Or it would be sent once more after each restart."""
    url = f"sqlite:///{tmp_path}/states.db"
    subprocess.run([sys.executable, "-c", PROGRAM, url], check=True, timeout=60)
    with open_storage(url) as store:
        assert Outbox(store).backlog().pending == 0
