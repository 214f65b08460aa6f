"""What there is: list, count, show, export."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import datetime, timezone
from heapq import nsmallest
from itertools import islice

import click

from salmon_state.entries import Kind
from salmon_state.errors import ConversationBusy
from salmon_state.operate import given as options
from salmon_state.operate.given import Given, tell_if_nothing
from salmon_state.operate.output import Row, duration, print_rows, progress, shown
from salmon_state.storage import Record, StateStorage

__all__ = ["COMMANDS"]


@click.command("list", short_help="List conversations: who is in which state.")
@click.option("--module", help="Only conversations with this handler module.")
@click.option("--sender", help="Only those of this sender.")
@click.option("--state", type=options.state, help="Only those in this state.")
@click.option("--idle", metavar="AGE", help="Only those not set for so long: 90d, 36h, 10m.")
@click.option("--oldest", is_flag=True, help="Of all, those not set for longest; needs -n.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Stop after so many.")
@click.pass_obj
def list_(
    given: Given,
    module: str | None,
    sender: str | None,
    state: str | None,
    idle: str | None,
    oldest: bool,
    limit: int | None,
) -> None:
    """List conversations: who is in which state, and since when.

    In no particular order unless it is asked for, and without reading the store into memory.
    Conversations in their first state have no entry.
    """
    if oldest and limit is None:
        raise click.UsageError("--oldest needs -n: to sort them all takes memory for all")
    older_than = None if idle is None else duration(idle)
    records = given.store.records(module=module, sender=sender, state=state, older_than=older_than)
    found = nsmallest(limit or 1, records, _age) if oldest else islice(records, limit)
    rows = map(_row, found)
    count = print_rows(rows, ("sender", "module", "state", "since"), to_json=given.to_json)
    if not given.to_json:
        click.echo(f"conversations: {count:,}", err=True)


def _age(record: Record) -> tuple[bool, datetime]:
    """Returns what sorts those that were not set for longest first, unknown times last."""
    unknown = record.updated_at is None
    return unknown, record.updated_at or datetime.max.replace(tzinfo=timezone.utc)


def _row(record: Record) -> Row:
    return {
        "sender": record.sender,
        "module": record.module,
        "state": record.state,
        "since": record.updated_at,
    }


@click.command()
@click.option("--module", help="Only conversations with this handler module.")
@click.pass_obj
def count(given: Given, module: str | None) -> None:
    """Count conversations by module and state."""
    counts: Counter[tuple[str, str]] = Counter()
    # For the bar alone, and some stores go through all of it to tell.
    total = len(given.store) if module is None and sys.stderr.isatty() else None
    with progress("conversations", total) as advance:
        for record in given.store.records(module=module):
            counts[record.module, record.state] += 1
            advance()
    rows = (
        {"module": of, "state": state, "count": number}
        for (of, state), number in sorted(counts.items())
    )
    print_rows(rows, ("count", "module", "state"), to_json=given.to_json)


@click.command(short_help="Show everything about a person.")
@click.argument("sender")
@click.pass_obj
def show(given: Given, sender: str) -> None:
    """Show everything that is kept about SENDER, and whether a mail of theirs is in hand.

    Exit status 1 if nothing is kept.
    """
    rows = map(_without_secret, given.store.export(sender))
    found = print_rows(rows, ("kind", "name", "value", "at"), to_json=given.to_json)
    if not given.to_json:
        click.echo(
            f"{shown(sender)}: entries: {found:,}; {_in_hand(given.store, sender)}", err=True
        )
    tell_if_nothing(found, sender)
    if not found:
        raise SystemExit(1)


def _without_secret(row: Row) -> Row:
    """Returns what is kept, but for what only the sender may know, or a process."""
    hidden = row["kind"] in (Kind.CONFIRMATION.name, Kind.LEASE.name)
    return {**row, "value": "(hidden: see export)"} if hidden else row


def _in_hand(store: StateStorage, sender: str) -> str:
    try:
        with store.conversation(sender, timeout=0):
            return "no mail is in hand"
    except ConversationBusy:
        return "a mail is being handled now, or somebody holds the lock"


@click.command(short_help="Print everything about a person as JSON.")
@click.argument("sender")
@click.pass_obj
def export(given: Given, sender: str) -> None:
    """Print everything that is kept about SENDER as JSON, one object a line.

    What is no text is in base64, and its entry says so.
    """
    tell_if_nothing(print_rows(given.store.export(sender), (), to_json=True), sender)


COMMANDS = (list_, count, show, export)
