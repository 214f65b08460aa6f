"""bench: what a store does on this machine, beside its driver."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle
from statistics import median

import click

from salmon_state.operate.bare import Calls, bare_calls
from salmon_state.operate.given import Given
from salmon_state.operate.output import Row, print_rows
from salmon_state.storage import StateStorage

__all__ = ["COMMANDS"]

_MODULE = "salmon-state bench"
_SENDERS = [f"{number}@salmon-state-bench.invalid" for number in range(100)]
_ROUNDS = 5


@click.command(short_help="Say how quick this store is, beside its driver.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1, max=600),
    default=10.0,
    show_default=True,
    help="How long to measure.",
)
@click.pass_obj
def bench(given: Given, seconds: float) -> None:
    """Say how often a second this store gets, sets, and handles a mail, beside its driver.

    From one thread. Both sides in turn, five times, and the median of each: what else the machine
    does concerns both. A mail is a conversation that gets and sets; the driver does the same in
    one transaction. It writes a hundred senders at salmon-state-bench.invalid, and for the driver a
    table, a key or a file of its own, and removes all of it. A server that works meanwhile is
    slower.
    """
    with ExitStack() as stack:
        sides = {"store": _calls(given.store)}
        stack.callback(_remove, given.store)
        try:
            sides["driver"] = stack.enter_context(bare_calls(given.which))
        except NotImplementedError as error:
            click.echo(f"{error}", err=True)
        rates = _measured(sides, seconds)
    rows = [_row(what, rates) for what in Calls._fields]
    print_rows(rows, ("what", "store", "driver", "ratio"), to_json=given.to_json)


def _measured(sides: dict[str, Calls], seconds: float) -> dict[tuple[str, str], list[float]]:
    """Returns how often a second each was called, in each round."""
    share = seconds / (_ROUNDS * len(Calls._fields) * len(sides))
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(_ROUNDS):
        for what in Calls._fields:
            for side, calls in sides.items():
                rates.setdefault((what, side), []).append(_rate(getattr(calls, what), share))
    return rates


def _rate(call: Callable[[], object], seconds: float) -> float:
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds or not count:
        call()
        count += 1
    return count / took


def _row(what: str, rates: dict[tuple[str, str], list[float]]) -> Row:
    ours = median(rates[what, "store"])
    theirs = median(rates[what, "driver"]) if (what, "driver") in rates else None
    ratio = None if theirs is None else round(ours / theirs, 3)
    driver = None if theirs is None else round(theirs)
    return {"what": what, "store": round(ours), "driver": driver, "ratio": ratio}


def _calls(store: StateStorage) -> Calls:
    senders = cycle(_SENDERS)

    def mail() -> None:
        sender = next(senders)
        with store.conversation(sender):
            store.get(_MODULE, sender)
            store.set(_MODULE, sender, "POSTING")

    return Calls(
        lambda: store.get(_MODULE, next(senders)),
        lambda: store.set(_MODULE, next(senders), "POSTING"),
        mail,
    )


def _remove(store: StateStorage) -> None:
    for sender in _SENDERS:
        store.set(_MODULE, sender, "START")


COMMANDS = (bench,)
