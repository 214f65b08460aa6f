"""undeliverable: the mails that Salmon's router gave to nobody, or whose handler raised."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import compat32
from pathlib import Path
from typing import NamedTuple

import click
from salmon.mail import MailRequest
from salmon.routing import Router
from salmon.server import SMTPError

from salmon_state.mail.delivery import is_attached
from salmon_state.operate.given import Given, configured, confirm, imported
from salmon_state.operate.output import Row, duration, print_rows, shown

__all__ = ["COMMANDS"]

_HEADERS = 1 << 16
"""How many bytes of a mail are read for its headers."""


class Kept(NamedTuple):
    """One mail in the queue."""

    path: Path
    since: datetime
    size: int
    headers: Message

    @classmethod
    def read(cls, path: Path) -> Kept:
        """Returns what is in a file, but for the mail's body."""
        status = path.stat()
        since = datetime.fromtimestamp(status.st_mtime, timezone.utc)
        with path.open("rb") as file:
            headers = BytesHeaderParser(policy=compat32).parsebytes(file.read(_HEADERS))
        return cls(path, since, status.st_size, headers)

    @property
    def envelope(self) -> tuple[str, str]:
        """The sender and the recipient, or whatever a mail makes Python's parser raise."""
        from salmon_state.mail.receivers.queue import envelope_of  # with all that speaks SMTP

        return envelope_of(self.headers)

    def row(self) -> Row:
        """Returns what is printed of it."""
        try:
            sender, recipient = self.envelope
        except Exception:  # noqa: BLE001 - it may be why the mail is here, and stays readable
            sender = recipient = ""
        subject = str(self.headers.get("Subject", ""))
        row = {"name": self.path.name, "since": self.since, "size": self.size, "from": sender}
        return {**row, "to": recipient, "subject": subject}


_queue = click.option(
    "--queue",
    "directory",
    metavar="DIR",
    help="The Maildir of Router.UNDELIVERABLE_QUEUE; by default undeliverable_directory in "
    "config/settings.py, or run/undeliverable.",
)
_names = click.argument("names", nargs=-1)


@click.group(short_help="Mails that no handler took.")
def undeliverable() -> None:
    """Mails that no handler took, or whose handler raised; Salmon keeps a copy of each."""


def _kept(directory: str | None) -> Iterator[Path]:
    """Yields the files of the queue, the oldest first."""
    queue = Path(directory or str(configured("undeliverable_directory") or "run/undeliverable"))
    if not (queue / "new").is_dir():
        raise click.UsageError(f"{str(queue)!r} is no Maildir: give it by --queue DIR")
    found = [file for part in ("new", "cur") for file in (queue / part).iterdir()]
    yield from sorted(file for file in found if file.is_file())


def _still_there(path: Path) -> Iterator[Kept]:
    """Yields what is in a file, unless somebody has removed it meanwhile."""
    with suppress(FileNotFoundError):
        yield Kept.read(path)


def _named(directory: str | None, names: tuple[str, ...]) -> list[Kept]:
    if not names:
        raise click.UsageError("give the names of mails, as `undeliverable list` says them")
    there = {path.name: path for path in _kept(directory)}
    missing = [name for name in names if name not in there]
    if missing:
        raise click.UsageError(f"no such mail: {', '.join(map(shown, missing))}")
    return [Kept.read(there[name]) for name in names]


@undeliverable.command("list")
@_queue
@click.pass_obj
def list_(given: Given, directory: str | None) -> None:
    """List the mails, the oldest first."""
    rows = (kept.row() for path in _kept(directory) for kept in _still_there(path))
    print_rows(rows, ("name", "since", "from", "to", "subject"), to_json=given.to_json)


@undeliverable.command(short_help="Say what is known about mails.")
@_names
@_queue
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Files that the server logs to; by default logs/salmon.log if there is one.",
)
@click.pass_obj
def why(given: Given, names: tuple[str, ...], directory: str | None, logs: tuple[str, ...]) -> None:
    """Say what is known about the mails NAMES: the sender's states, and lines of the log.

    Those are the lines that hold the name of the file, the Message-ID or the sender.
    """
    usual = Path("logs/salmon.log")
    files = [Path(log) for log in logs] or [usual] * usual.exists()
    for kept in _named(directory, names):
        row = kept.row()
        states = [
            {"name": kept.path.name, "where": record.module, "what": record.state}
            for record in given.store.records(sender=row["from"])
        ]
        wanted = [kept.path.name, str(kept.headers.get("Message-ID", "")).strip(), row["from"]]
        lines = (
            {"name": kept.path.name, "where": file.name, "what": line}
            for file in files
            for line in _lines(file, [each for each in wanted if each])
        )
        columns = ("name", "where", "what")
        found = print_rows(states, columns, to_json=given.to_json)
        found += print_rows(lines, columns, to_json=given.to_json)
        if not found and not given.to_json:
            click.echo(f"{kept.path.name}: its sender has no state, and no log tells of it")


def _lines(file: Path, wanted: list[str]) -> Iterator[str]:
    with file.open(encoding="utf-8", errors="backslashreplace") as lines:
        yield from (line.rstrip("\n") for line in lines if any(each in line for each in wanted))


@undeliverable.command(short_help="Give mails to the router once more.")
@_names
@_queue
@click.option(
    "--boot",
    required=True,
    metavar="MODULE",
    help="What makes the router ready, such as config.boot; on a port of its own if it listens.",
)
@click.pass_obj
def again(given: Given, names: tuple[str, ...], directory: str | None, boot: str) -> None:
    """Give the mails NAMES to the application's router once more, here and now.

    What is handled leaves the queue; what is not stays, with one line that says why. It is handled
    though it is known, and into the store of the application. Exit status 1 if some stay.
    """
    chosen = _named(directory, names)
    imported(boot)
    rows = [{"name": kept.path.name, "outcome": _deliver(kept)} for kept in chosen]
    print_rows(rows, ("name", "outcome"), to_json=given.to_json)
    if any(row["outcome"] != "handled" for row in rows):
        raise SystemExit(1)


class _Refusal:
    """Stands in the router's undeliverable queue, where the mail is already."""

    came_back = False

    def push(self, message: object) -> str:
        self.came_back = True
        return ""


def _deliver(kept: Kept) -> str:
    """Returns what became of a mail; only if it was handled it is removed."""
    try:
        # A tuple as by SMTP: a mail with the name of a directory would be put back there.
        mail = MailRequest(("undeliverable", kept.path.name), None, None, kept.path.read_bytes())
        mail.From, mail.To = kept.envelope
    except Exception as error:  # noqa: BLE001 - Python's parser lets out what a mail provokes
        return f"stays: {type(error).__name__}: {error}"
    before, Router.UNDELIVERABLE_QUEUE = Router.UNDELIVERABLE_QUEUE, _Refusal()
    refusal = Router.UNDELIVERABLE_QUEUE
    options = {"again": True} if is_attached(Router) else {}
    try:
        Router.deliver(mail, **options)
    except SMTPError as error:
        return f"stays: {getattr(error, 'detail', error)}"
    except Exception as error:  # noqa: BLE001 - a handler lets out what it likes
        return f"stays: {type(error).__name__}: {error}"
    finally:
        Router.UNDELIVERABLE_QUEUE = before
    if refusal.came_back:
        return "stays: no handler took it, or one raised: see the log"
    kept.path.unlink(missing_ok=True)
    return "handled"


@undeliverable.command()
@click.option("--older-than", required=True, metavar="AGE", help="Kept for so long: 90d, 36h, 10m.")
@_queue
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def prune(given: Given, older_than: str, directory: str | None, dry_run: bool, yes: bool) -> None:
    """Remove the mails that have been there for long."""
    since = time.time() - duration(older_than).total_seconds()
    old = [path for path in _kept(directory) if _is_older(path, since)]
    if old and not dry_run:
        confirm(f"Remove {len(old):,} mails?", yes=yes)
        for path in old:
            path.unlink(missing_ok=True)
    did = "to remove" if dry_run else "removed"
    given.say(f"mails {did}: {len(old):,}", removed=len(old))


def _is_older(path: Path, since: float) -> bool:
    """Returns whether a file is there, and is older than that."""
    with suppress(FileNotFoundError):
        return path.stat().st_mtime < since
    return False


COMMANDS = (undeliverable,)
