"""Runs the server in the foreground: ``make run``, or ``python -m config.serve``.

It is the server that ``salmon start`` would start, with something to read on the terminal and an
end that lets the mail in hand finish. Ctrl-C, SIGTERM and SIGHUP end it; a second one kills it.
Under ``nohup`` it goes on when its terminal closes.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from salmon.routing import Router

from config.logs import log_to_terminal
from salmon_state import MemoryStorage

__all__ = ["main"]

LOG = logging.getLogger("config.serve")

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SENDER = "you@example.com"

WELCOME = """\
Mailing list  {list}
Listens       {place}
States        {store}
Replies       {replies}

Send the first mail from another terminal, in this directory:

  {first}

The answer asks to confirm. Read it, then reply to the address that it comes from:

  cat {outbox}/new/*
  {second}

Then write to {list}. To leave the list:

  {leave}

Ctrl-C stops the server; started again, {again}.
"""


def main() -> int:
    """Serves until a signal comes; returns the status to exit with."""
    ending = [number for number in ENDING if not _is_nohup(number)]
    for number in ending:
        signal.signal(number, _leave)

    # Importing it boots the server: not before Ctrl-C has its handler.
    import config.boot  # noqa: F401
    from config import settings

    receiver = settings.receiver
    stopped_by: list[int] = []
    failed = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped_by.append(number)
        for each in ending:
            signal.signal(each, signal.SIG_DFL)
        receiver.stop()

    def start() -> None:
        try:
            receiver.start()
        except Exception:
            LOG.exception("the server cannot be started")
            failed.set()

    log_to_terminal()
    for number in ending:  # before there are threads, which would outlive _leave
        signal.signal(number, stop)
    sys.stdout.write(_welcome())
    sys.stdout.flush()
    # A queue's start() blocks; this thread must be free for the signals.
    threading.Thread(target=start, name="start").start()
    while not receiver.wait(0.5) and not failed.is_set():
        pass
    Router.STATE_STORE.close()
    if not stopped_by:
        LOG.error("the receiver ended by itself, see logs/salmon.log")
        return 1
    LOG.info("stopped by %s", signal.Signals(stopped_by[0]).name)
    return 0


def _is_nohup(number: int) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _welcome() -> str:
    from config import settings
    from examples.mailing_list import settings as lists

    name, domain = settings.list_names[0], settings.list_domain
    place = f"{settings.receiver_kind.upper()} on {settings.receiver_host}:{settings.receiver_port}"
    if settings.receiver_socket:
        place = f"LMTP on {settings.receiver_socket}"
    if settings.receiver_kind == "queue":
        place = f"the Maildir {settings.queue_directory}"
    replies = f"in the Maildir {settings.outbox_directory}; SALMON_RELAY=host:port sends them"
    if settings.relay_address:
        replies = f"sent through {lists.relay.relay!r}"
    subscribe, outbox = f"{name}-subscribe@{domain}", settings.outbox_directory
    confirm = f"grep -ho '{name}-confirm-[0-9a-z]*@{domain}' {outbox}/new/* | tail -n 1"
    swaks = "" if settings.receiver_socket else _swaks(subscribe)
    in_memory = isinstance(Router.STATE_STORE, MemoryStorage)
    return WELCOME.format(
        list=f"{name}@{domain}",
        place=place,
        store=repr(Router.STATE_STORE),
        replies=replies,
        first=(swaks and f"{swaks}\n\nor without swaks:\n\n  ") + _command(subscribe),
        outbox=outbox,
        again="it begins anew: its states are in memory" if in_memory else "it goes on from there",
        second=_command(f'"$({confirm})"'),
        leave=_command(f"{name}-unsubscribe@{domain}"),
    )


def _swaks(recipient: str) -> str:
    from config import settings

    if settings.receiver_kind == "queue":
        return ""
    lmtp = " --protocol LMTP" if settings.receiver_kind == "lmtp" else ""
    server = f"--server {settings.receiver_host} --port {settings.receiver_port}"
    if settings.receiver_socket:
        server = f"--socket {shlex.quote(settings.receiver_socket)}"
    return f"swaks{lmtp} {server} --from {SENDER} --to {recipient}"


def _command(recipient: str) -> str:
    """Returns a shell command that sends a mail and, but for a Unix socket, needs nothing else."""
    from config import settings

    if settings.receiver_socket:
        return _swaks(recipient)
    if settings.receiver_kind == "queue":
        # Moved into new/ when it is complete, as every program that writes to a Maildir must do.
        mail = f'printf "From: {SENDER}\\nTo: %s\\n\\n$(date)\\n" {recipient}'
        places = (os.path.join(settings.queue_directory, name) for name in ("tmp", "new"))
        tmp, new = map(shlex.quote, places)
        return f"{mail} > {tmp}/1 && mv {tmp}/1 {new}/$(date +%s)"
    program = os.path.relpath(os.path.join(os.path.dirname(sys.executable), "salmon"))
    server = f"--host {settings.receiver_host} --port {settings.receiver_port}"
    lmtp = " --lmtp true" if settings.receiver_kind == "lmtp" else ""
    envelope = f"--sender {SENDER} --to {recipient}"
    # The date, because the same mail is not handled again.
    return f'{shlex.quote(program)} send {server}{lmtp} {envelope} --subject hello --body "$(date)"'


if __name__ == "__main__":
    sys.exit(main())
