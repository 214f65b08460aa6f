"""What other processes do with an outbox."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from salmon_state import StateStorage
from salmon_state.mail import claims, smtp
from salmon_state.mail.dispatcher import Dispatcher
from salmon_state.mail.outbox import Outbox
from salmon_state.mail.relays import SMTPRelay

STEPS = ("claimed", "announced", "taken", "marked")

QUICK: dict[str, Any] = {"first_retry": 0.05, "longest_retry": 0.2, "poll": 0.05}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _dying(function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options) if after else None
        _die()
        return result

    return call


def record(store: StateStorage, sender: str, envelopes: list[tuple[str, str]], text: bytes) -> None:
    """Records a mail together with a state."""
    outbox = Outbox(store)
    with store.conversation(sender):
        store.set("app", sender, "SENT")
        outbox.fan_out(b"Message-ID: <%s>\r\nDate: now\r\n\r\nhello\r\n" % text, envelopes)


def record_and_die_before(store: StateStorage, sender: str, text: bytes) -> None:
    """Is killed right before the commit."""
    _record_and_die(store, sender, text, after=False)


def record_and_die_after(store: StateStorage, sender: str, text: bytes) -> None:
    """Is killed right after the commit."""
    _record_and_die(store, sender, text, after=True)


def _record_and_die(store: StateStorage, sender: str, text: bytes, *, after: bool) -> None:
    unit = type(store._begin())
    unit.commit = _dying(unit.commit, after=after)  # type: ignore[method-assign]
    record(store, sender, [(f"{text.decode()}@x.de", "")], text)


def dispatch_until(store: StateStorage, port: int, step: str, lease: float) -> None:
    """Sends until it is killed at a step: after a claim, before or after the mail, after a mark."""
    session = smtp.SMTPSession
    if step == "claimed":
        store._claim = _claiming(store._claim)  # type: ignore[method-assign]
    elif step == "announced":
        session._give = _dying(session._give, after=False)  # type: ignore[method-assign]
    elif step == "taken":
        session.finish = _dying(session.finish, after=True)  # type: ignore[method-assign]
    elif step == "marked":
        claims.Claim.write = _dying(claims.Claim.write, after=True)  # type: ignore[method-assign]
    dispatch(store, port, lease)


def _claiming(claim: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        entries = claim(*arguments)
        if entries:
            _die()
        return entries

    return call


def dispatch(store: StateStorage, port: int, lease: float) -> None:
    """Sends until it is killed."""
    Dispatcher(Outbox(store, SMTPRelay("127.0.0.1", port)), lease=lease, **QUICK).start()
    signal.pause()


def record_forever(store: StateStorage, round_: int) -> Iterator[tuple[str, int]]:
    """Records one mail after the other, of several senders; acknowledges each that is committed."""
    for number in itertools.count(round_ * 1_000_000):
        # Others in each round: in Redis whoever was killed keeps a sender's lock for some seconds.
        sender = f"{round_}.{number % 3}@example.com"
        envelopes = [(f"{number}@x.de", f"b{number}@y.de"), (f"all-{sender}", "")]
        record(store, sender, envelopes, b"%d" % number)
        yield sender, number
        time.sleep(0.01)  # some stores would take thousands
