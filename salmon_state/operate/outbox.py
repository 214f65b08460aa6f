"""outbox: what is to be sent, what was given up, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import click

from salmon_state.mail.batches import Mail
from salmon_state.mail.outbox import Outbox
from salmon_state.operate.given import Given, confirm
from salmon_state.operate.output import Row, print_rows, shown

__all__ = ["COMMANDS"]


@click.group()
def outbox() -> None:
    """Mails that are to be sent, or were given up.

    They are kept and named in batches of up to a hundred recipients.
    """


@outbox.command(short_help="Say how much is to be sent.")
@click.pass_obj
def status(given: Given) -> None:
    """Say how much is to be sent, and since when it has been due.

    What has been due for long is sent by nobody: no dispatcher runs, or the relay is down.
    `outbox pending` shows what the relay said.
    """
    backlog = Outbox(given.store).backlog()
    due = f", the first of them due {shown(backlog.first_due)}" if backlog.pending else ""
    sentence = f"to be sent: {backlog.pending:,} batches{due}; given up: {backlog.dead:,}"
    given.say(sentence, **backlog._asdict())


@outbox.command(short_help="List what is to be sent.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Stop after so many.")
@click.pass_obj
def pending(given: Given, limit: int | None) -> None:
    """List what is to be sent, what is due first at first, with the relay's last words."""
    _print(given, islice(Outbox(given.store).pending(), limit))


@outbox.command(short_help="List what was given up.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Stop after so many.")
@click.pass_obj
def dead(given: Given, limit: int | None) -> None:
    """List what was given up, the oldest first, with the relay's last words."""
    _print(given, islice(Outbox(given.store).dead(), limit))


def _print(given: Given, mails: Iterable[Mail]) -> None:
    columns = ("name", "sender", "to", "attempts", "due", "answer")
    print_rows(map(_row, mails), columns, to_json=given.to_json)


def _row(mail: Mail) -> Row:
    recipients = [recipient for group in mail.groups for recipient in group.recipients]
    return {
        "name": mail.name,
        "sender": mail.sender,
        "to": ", ".join(recipients),
        "attempts": max(group.attempts for group in mail.groups),
        "since": mail.since,
        "due": mail.due,
        "answer": mail.groups[0].answer,
    }


_names = click.argument("names", nargs=-1)
_all = click.option("--all", "everything", is_flag=True, help="All that were given up.")


@outbox.command(short_help="Try batches at once.")
@_names
@_all
@click.pass_obj
def retry(given: Given, names: tuple[str, ...], everything: bool) -> None:
    """Try the batches NAMES at once, those that were given up as if they were new."""
    box = Outbox(given.store)
    done = sum(box.retry(mail) for mail in _chosen(box, names, everything=everything))
    _report(given, "to be tried at once", done, names)


@outbox.command(short_help="Forget batches.")
@_names
@_all
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop(given: Given, names: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Forget the batches NAMES: nobody is sent them any more."""
    box = Outbox(given.store)
    what = "everything that was given up" if everything else f"{len(names):,} batches"
    confirm(f"Forget {what}?", yes=yes)
    done = sum(box.drop(mail) for mail in _chosen(box, names, everything=everything))
    _report(given, "forgotten", done, names)


def _chosen(box: Outbox, names: tuple[str, ...], *, everything: bool) -> Iterator[Mail]:
    if everything == bool(names):
        raise click.UsageError("give the names of batches, or --all for all that were given up")
    wanted = set(names)
    # What is retried is not found again behind: it is no dead letter any more.
    for found in (box.dead(), () if everything else box.pending()):
        yield from (mail for mail in found if everything or mail.name in wanted)


def _report(given: Given, what: str, done: int, names: tuple[str, ...]) -> None:
    given.say(f"{what}: {done:,}", done=done)
    if done < len(names):
        click.echo(f"not found, or being sent now: {len(names) - done:,}", err=True)
        raise SystemExit(1)


@outbox.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Send what is due, until SIGTERM.",
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def dispatch(given: Given, arguments: tuple[str, ...]) -> None:
    """Send what is due until SIGTERM, as a dispatcher beside the server's; --help has more."""
    from salmon_state.mail.dispatch import main  # with all that speaks SMTP

    raise SystemExit(main([*arguments], url=given.which, program="salmon-state outbox dispatch"))


COMMANDS = (outbox,)
