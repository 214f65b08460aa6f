"""What changes a store: set, set-all, rename, rename-module, purge, erase, clear, lock."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click
from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.errors import StorageError
from salmon_state.operate import given as options
from salmon_state.operate.given import Given, confirm, tell_if_nothing
from salmon_state.operate.output import duration, shown
from salmon_state.storage import StateStorage

__all__ = ["COMMANDS"]

_NOT_RUN = 127
"""What a shell exits with that finds no such command."""

_LOOK, _SHARE = 1.0, 20
"""Seconds between two looks at who waits, and so many times as long as a look takes."""

_dry_run = click.option("--dry-run", is_flag=True, help="Change nothing; say what would be.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds to wait while a mail of the sender is in hand.",
)


@click.command("set", short_help="Put a conversation into a state: START frees it.")
@click.argument("module")
@click.argument("sender")
@click.argument("state", type=options.state)
@click.option("--expect", type=options.state, help="Only if this is the state now.")
@_timeout
@_dry_run
@click.pass_obj
def set_(
    given: Given,
    module: str,
    sender: str,
    state: str,
    expect: str | None,
    timeout: float,
    dry_run: bool,
) -> None:
    """Put the conversation of SENDER with the handlers of MODULE into STATE.

    It waits for a mail of the sender that is in hand. START removes the entry. Exit status 1 if
    the state was not the expected one.
    """
    store = given.store
    with store.conversation(sender, timeout=timeout):
        before = store.get(module, sender)
        happens = expect in (None, before)
        if happens and not dry_run:
            store.set(module, sender, state)
    who = f"{shown(sender)} in {shown(module)}"
    did = f"would go from {before} to {state}" if dry_run else f"{before} → {state}"
    if not happens:
        did = f"is in {shown(before)}, not {shown(expect)}: left alone"
    given.say(f"{who}: {did}", before=before, after=state if happens else before)
    if not happens:
        raise SystemExit(1)


@click.command("set-all", short_help="Put all conversations of a sender into a state.")
@click.argument("sender")
@click.argument("state", type=options.state)
@_timeout
@_dry_run
@click.pass_obj
def set_all(given: Given, sender: str, state: str, timeout: float, dry_run: bool) -> None:
    """Put every conversation that SENDER has, with whatever module, into STATE."""
    store = given.store
    with store.conversation(sender, timeout=timeout):
        if dry_run:
            moved = sum(1 for _ in store.records(sender=sender))
        else:
            moved = store.set_all(sender, state)
    did = "to move" if dry_run else "moved"
    given.say(f"conversations of {shown(sender)} {did}: {moved:,}", moved=moved)


@click.command(short_help="Move all in a state to another: a handler's new name.")
@click.argument("module")
@click.argument("old", type=options.state)
@click.argument("new", type=options.state)
@_dry_run
@click.pass_obj
def rename(given: Given, module: str, old: str, new: str, dry_run: bool) -> None:
    """Move all conversations of MODULE in state OLD to state NEW: a handler got a new name.

    Stopped in the middle, some are moved: run it again.
    """
    if old == ROUTE_FIRST_STATE:
        raise click.BadParameter(f"conversations in {old} have no entry that could be moved")
    if dry_run:
        moved = sum(1 for _ in given.store.records(module=module, state=old))
    else:
        moved = given.store.rename(module, old, new)
    did = "to move" if dry_run else "moved"
    given.say(f"conversations {did} from {shown(old)} to {shown(new)}: {moved:,}", moved=moved)


@click.command("rename-module", short_help="Move all of a module to another: its new name.")
@click.argument("old")
@click.argument("new")
@_dry_run
@click.pass_obj
def rename_module(given: Given, old: str, new: str, dry_run: bool) -> None:
    """Move all conversations of module OLD to module NEW: a handler module got a new name.

    Stopped in the middle, some are moved: run it again. Exit status 1 if some stay, because their
    senders have a conversation with NEW already.
    """
    store = given.store
    moved = 0 if dry_run else store.rename_module(old, new)
    left = sum(1 for _ in store.records(module=old))
    did = f"to move from {shown(old)} to {shown(new)}: {left:,}"
    if not dry_run:
        did = f"moved from {shown(old)} to {shown(new)}: {moved:,}; left: {left:,}"
    given.say(f"conversations {did}", moved=left if dry_run else moved, left=left)
    if left and not dry_run:
        raise SystemExit(1)


@click.command()
@click.option("--older-than", required=True, metavar="AGE", help="Idle for so long: 90d, 36h, 10m.")
@click.option("--module", help="Only conversations with this handler module.")
@click.option("--state", type=options.state, help="Only those in this state.")
@_dry_run
@_yes
@click.pass_obj
def purge(
    given: Given, older_than: str, module: str | None, state: str | None, dry_run: bool, yes: bool
) -> None:
    """Remove conversations that have been idle for long.

    Their senders begin anew with their next mail. Those without a known time stay.
    """
    idle = duration(older_than)
    if not dry_run:
        confirm(f"Remove all conversations that have been idle for {older_than}?", yes=yes)
        removed = given.store.purge(older_than=idle, module=module, state=state)
        given.say(f"conversations removed: {removed:,}", removed=removed)
        return
    found = given.store.records(module=module, state=state, older_than=idle)
    removed = sum(1 for _ in found)
    given.say(f"conversations to remove: {removed:,}", removed=removed)


@click.command(short_help="Remove everything about a person.")
@click.argument("sender")
@_timeout
@_dry_run
@_yes
@click.pass_obj
def erase(given: Given, sender: str, timeout: float, dry_run: bool, yes: bool) -> None:
    """Remove everything that is kept about SENDER: states, marks, mails to be sent.

    `export` shows what that is.
    """
    if dry_run:
        removed = sum(1 for _ in given.store.export(sender))
        given.say(f"entries of {shown(sender)} to remove: {removed:,}", removed=removed)
        tell_if_nothing(removed, sender)
        return
    confirm(f"Remove everything about {shown(sender)}?", yes=yes)
    removed = given.store.erase(sender, timeout=timeout)
    given.say(f"entries of {shown(sender)} removed: {removed:,}", removed=removed)
    tell_if_nothing(removed, sender)


@click.command()
@_yes
@click.pass_obj
def clear(given: Given, yes: bool) -> None:
    """Remove everything of everybody. Refused by a store that is protected."""
    confirm(f"Remove EVERYTHING in {given.store!r}?", yes=yes)
    given.store.clear()
    given.say(f"{given.store!r} is empty", cleared=True)


@click.command(
    context_settings={"ignore_unknown_options": True},
    short_help="Hold a conversation while a command runs.",
)
@click.argument("sender")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@_timeout
@click.pass_obj
def lock(given: Given, sender: str, command: tuple[str, ...], timeout: float) -> None:
    """Hold the conversation of SENDER while COMMAND runs, or until Enter is pressed.

    No mail of the sender is handled meanwhile: the sending servers hear 451 and come again. It
    says who is in a conversation and how many wait, as far as doctor knows. The exit status is the
    command's.
    """
    wait: Callable[[], int] = _wait_for_enter
    if command:
        wait = lambda: subprocess.run(command, check=False).returncode  # noqa: E731, S603
    with given.store.conversation(sender, timeout=timeout):
        click.echo(f"{shown(sender)} is held", err=True)
        with _telling(given.store):
            try:
                status = wait()
            except OSError as error:
                click.echo(f"{shown(command[0])} cannot be run: {error.strerror}", err=True)
                status = _NOT_RUN
    click.echo(f"{shown(sender)} is free again", err=True)
    raise SystemExit(status)


@contextmanager
def _telling(store: StateStorage) -> Iterator[None]:
    """Says meanwhile who is in a conversation, and who waits, whenever that changes."""
    ended = threading.Event()

    def tell() -> None:
        said: list[str] = []
        while True:
            began = time.monotonic()
            with suppress(StorageError):
                found = [each.text for each in store.diagnose() if each.check == "locks"]
                for text in found:
                    if text not in said:
                        click.echo(shown(text), err=True)
                said = found
            if ended.wait(max(_LOOK, _SHARE * (time.monotonic() - began))):
                return

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _wait_for_enter() -> int:
    click.echo("Press Enter to let go.", err=True)
    sys.stdin.readline()
    return 0


COMMANDS = (set_, set_all, rename, rename_module, purge, erase, clear, lock)
