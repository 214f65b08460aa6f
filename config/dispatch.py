"""The dispatcher beside the server, which starts it: ``python -m config.dispatch``."""

from __future__ import annotations

import logging
import os
import signal
import sys
from functools import partial

from config import settings
from config.logs import log_to_file, log_to_terminal
from config.patience import when_there
from config.sending import make_relay
from salmon_state import StorageError, open_storage
from salmon_state.mail.dispatch import run
from salmon_state.mail.dispatcher import Dispatcher
from salmon_state.mail.outbox import Outbox

__all__ = ["main"]

LOG = logging.getLogger("config.dispatch")


def main() -> None:
    """Sends what is in the outbox until the server ends."""
    for number in (signal.SIGINT, signal.SIGHUP):  # of the terminal, and the server's to obey
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    log_to_file()
    log_to_terminal()
    try:
        store = when_there(partial(open_storage, settings.state_url), settings.state_patience)
    except StorageError as error:
        LOG.error("the store cannot be opened: %s", error.detail)
        sys.exit(1)
    with store:
        outbox = Outbox(store, make_relay())
        run(Dispatcher(outbox, connections=settings.relay_connections), by_stdin=True)


if __name__ == "__main__":
    main()
