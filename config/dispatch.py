"""The dispatcher beside the server, which starts it: ``python -m config.dispatch``."""

from __future__ import annotations

import logging.config
import os
import signal
from pathlib import Path

from config import settings
from config.patience import when_there
from config.sending import make_relay
from config.serve import log_to_terminal
from salmon_state import StateStorage, open_storage
from salmon_state.mail.dispatch import run
from salmon_state.mail.dispatcher import Dispatcher
from salmon_state.mail.outbox import Outbox

__all__ = ["main"]


def main() -> None:
    """Sends what is in the outbox until the server ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    logging.config.fileConfig(
        Path(__file__).with_name("logging.conf"), disable_existing_loggers=False, encoding="utf-8"
    )
    log_to_terminal()
    opened: list[StateStorage] = []
    when_there(lambda: opened.append(open_storage(settings.state_url)), settings.state_patience)
    with opened[0] as store:
        outbox = Outbox(store, make_relay())
        run(Dispatcher(outbox, connections=settings.relay_connections), by_stdin=True)


if __name__ == "__main__":
    main()
