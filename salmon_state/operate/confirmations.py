"""confirmations: what somebody is to confirm."""

from __future__ import annotations

from itertools import islice

import click

from salmon_state.mail.confirmations import Confirmations
from salmon_state.operate.given import Given, confirm
from salmon_state.operate.output import print_rows, shown

__all__ = ["COMMANDS"]


@click.group(short_help="What somebody is to confirm.")
def confirmations() -> None:
    """What was asked to be confirmed, and is not yet. No secret is shown."""


@confirmations.command("list", short_help="List what is to be confirmed.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Stop after so many.")
@click.pass_obj
def list_(given: Given, limit: int | None) -> None:
    """List what is to be confirmed, what expires first at first."""
    waiting = islice(Confirmations(given.store).waiting(), limit)
    rows = ({"target": of, "sender": whose, "expires": until} for of, whose, until in waiting)
    print_rows(rows, ("target", "sender", "expires"), to_json=given.to_json)


@confirmations.command(short_help="Forget that something is to be confirmed.")
@click.argument("target")
@click.argument("sender")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop(given: Given, target: str, sender: str, yes: bool) -> None:
    """Forget that SENDER is to confirm TARGET: the mail that was sent confirms nothing any more.

    Exit status 1 if there is nothing to confirm.
    """
    known = Confirmations(given.store)
    there = known.get(target, sender) != (None, None)
    if there:
        confirm(f"Forget that {shown(sender)} is to confirm {shown(target)}?", yes=yes)
        known.delete(target, sender)
    did = "is forgotten" if there else "is not to be confirmed"
    given.say(f"{shown(target)} of {shown(sender)} {did}", dropped=there)
    if not there:
        raise SystemExit(1)


COMMANDS = (confirmations,)
