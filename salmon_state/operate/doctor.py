"""doctor and health: is all well with a store, and with the states that it holds?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone

import click

from salmon_state.errors import MigrationPending
from salmon_state.findings import Finding
from salmon_state.mail.outbox import Outbox
from salmon_state.operate.application import diagnose_application, diagnose_states
from salmon_state.operate.given import Given, configured
from salmon_state.operate.output import Row, print_rows, shown
from salmon_state.storage import StateStorage

__all__ = ["COMMANDS"]

_ROUND_TRIPS = 5

_OVERDUE = timedelta(minutes=15)
"""How long a mail may have been due: a relay that greylists answers later than at once."""


@click.command(short_help="Say what is wrong, and what to do about it.")
@click.option("--deep", is_flag=True, help="Read everything, and look each entry up again.")
@click.option(
    "--handlers",
    metavar="MODULE",
    multiple=True,
    help="Import these modules, and report the states that no function of theirs handles; by "
    "default the handlers in config/settings.py.",
)
@click.option(
    "--boot",
    metavar="MODULE",
    help="Import what makes the router ready, such as config.boot (on a port of its own), and "
    "report what is missing there.",
)
@click.pass_obj
def doctor(given: Given, deep: bool, handlers: tuple[str, ...], boot: str | None) -> None:
    """Say what there is to say about the store, and what to do about what is not well.

    It changes nothing. What has no advice is well. For a monitor: exit status 0 if nothing is
    wrong, 1 if something is, 3 if the store cannot be reached.
    """
    try:
        store = given.store
    except MigrationPending as error:
        found: Iterable[Finding] = [Finding("schema", _first_line(error), "salmon-state migrate")]
    else:
        found = _look(store, handlers, boot, deep=deep)
    wrong = 0

    def rows() -> Iterator[Row]:
        nonlocal wrong
        for finding in found:
            wrong += bool(finding.advice)
            check, text, advice = finding
            yield {"check": check, "wrong": bool(advice), "finding": text, "advice": advice}

    print_rows(rows(), ("check", "finding", "advice"), to_json=given.to_json)
    if not given.to_json:
        click.echo(f"what is wrong: {wrong:,}", err=True)
    if wrong:
        raise SystemExit(1)


def _first_line(error: Exception) -> str:
    return str(error).partition(";")[0]


def _look(
    store: StateStorage, handlers: tuple[str, ...], boot: str | None, *, deep: bool
) -> Iterator[Finding]:
    yield Finding("reachable", f"{store!r} answers in {_answers_in(store) * 1000:.2f} ms")
    yield from store.diagnose()
    yield from _outbox(store)
    if boot is not None:
        yield from diagnose_application(boot)
    yield from diagnose_states(store, handlers or _handlers())
    if deep:
        for sentence in store.check():
            yield Finding("entries", sentence, "restore a copy, or set the entry anew")


def _answers_in(store: StateStorage) -> float:
    began = time.perf_counter()
    for _ in range(_ROUND_TRIPS):
        store.ping()
    return (time.perf_counter() - began) / _ROUND_TRIPS


def _handlers() -> tuple[str, ...]:
    modules = configured("handlers")
    return tuple(map(str, modules)) if isinstance(modules, (list, tuple)) else ()


def _outbox(store: StateStorage) -> Iterator[Finding]:
    backlog = Outbox(store).backlog()
    text, advice = f"batches to be sent: {backlog.pending:,}", ""
    if backlog.first_due is not None:
        text += f", the first of them due {shown(backlog.first_due)}"
        if datetime.now(timezone.utc) - backlog.first_due > _OVERDUE:
            advice = "is a dispatcher running, and the relay? See: salmon-state outbox pending"
    yield Finding("outbox", text, advice)
    if backlog.dead:
        advice = "salmon-state outbox dead; then outbox retry, or outbox drop"
        yield Finding("outbox", f"batches that were given up: {backlog.dead:,}", advice)


@click.command(short_help="Say in one line whether all is well.")
@click.pass_obj
def health(given: Given) -> None:
    """Say in one line whether the store answers and mail leaves: for systemd and load balancers.

    Quick, whatever the store holds. Exit status as for doctor.
    """
    try:
        store = given.store
    except MigrationPending as error:
        given.say(f"NOT ok: {_first_line(error)}", ok=False, milliseconds=None, wrong=[str(error)])
        raise SystemExit(1) from None
    took = _answers_in(store) * 1000
    wrong = [finding.text for finding in _outbox(store) if finding.advice]
    sentence = "; ".join([f"{'NOT ' if wrong else ''}ok: answers in {took:.2f} ms", *wrong])
    given.say(sentence, ok=not wrong, milliseconds=round(took, 3), wrong=wrong)
    if wrong:
        raise SystemExit(1)


COMMANDS = (doctor, health)
