"""doctor: is all well with a store, and with the states that it holds?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import click

from salmon_state.operate.given import Given, application_module
from salmon_state.operate.output import Row, print_rows, shown
from salmon_state.storage import StateStorage

__all__ = ["COMMANDS"]

_ROUND_TRIPS = 5


@click.command()
@click.option("--deep", is_flag=True, help="Read everything, and look each entry up again.")
@click.option(
    "--handlers",
    metavar="MODULE",
    multiple=True,
    help="Import these modules, and report the states that no function of theirs handles.",
)
@click.pass_obj
def doctor(given: Given, deep: bool, handlers: tuple[str, ...]) -> None:
    """Say whether all is well, and what to do about what is not.

    For a monitor: exit status 0 if nothing was found, 1 if something was, 3 if the store cannot be
    reached.
    """
    store = given.store
    began = time.perf_counter()
    for _ in range(_ROUND_TRIPS):
        store.ping()
    took = (time.perf_counter() - began) / _ROUND_TRIPS
    findings = list(_find(store, handlers, deep=deep))
    print_rows(findings, ("finding", "advice"), to_json=given.to_json)
    if not given.to_json:
        click.echo(
            f"{store!r} answers in {took * 1000:.2f} ms; findings: {len(findings):,}", err=True
        )
    if findings:
        raise SystemExit(1)


def _find(store: StateStorage, handlers: tuple[str, ...], *, deep: bool) -> Iterator[Row]:
    if deep:
        for sentence in store.check():
            yield {"finding": sentence, "advice": "restore a copy, or set the entry anew"}
    for module in handlers:
        yield from _unhandled(store, module)


def _unhandled(store: StateStorage, module: str) -> Iterator[Row]:
    """Yields the states of a module that it has no function for: their mail reaches nobody."""
    try:
        functions = vars(application_module(module))
    except ImportError as error:
        advice = "run this where the application is"
        yield {"finding": f"{module} cannot be imported: {error}", "advice": advice}
        return
    counts = Counter(record.state for record in store.records(module=module))
    for state, count in sorted(counts.items()):
        if state == "ERROR":
            finding = f"{count:,} conversations with {module} ended in an error"
            advice = f"mend the handler, then: salmon-state rename {module} ERROR START"
        elif not callable(functions.get(state)):
            finding = f"{count:,} conversations with {module} are in {shown(state)}, which is gone"
            advice = f"salmon-state rename {module} {shown(state)} NEW"
        else:
            continue
        yield {"finding": finding, "advice": advice}


COMMANDS = (doctor,)
