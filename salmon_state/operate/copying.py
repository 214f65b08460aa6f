"""copy: everything from one store into another, and the proof that it is all there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import click

from salmon_state.entries import Entry, Kind, Where, Write, in_order
from salmon_state.operate.given import Given, confirm
from salmon_state.operate.output import progress
from salmon_state.registry import open_storage
from salmon_state.storage import StateStorage

__all__ = ["COMMANDS", "Digest", "copy_entries", "digest"]

KINDS = tuple(kind for kind in Kind if kind is not Kind.LEASE)
"""What moves: a lock that somebody holds in one store says nothing in another."""


class Digest(NamedTuple):
    """What two stores have in common if they hold the same, in whatever order they list it."""

    entries: int
    total: int
    """The sum of the SHA-256 of each."""

    def __str__(self) -> str:
        return f"{self.entries:,} entries ({self.total:064x})"


def digest(store: StateStorage, step: Callable[[], object]) -> Digest:
    """Reads a whole store and returns the digest of its entries.

    Args:
        store: Which one.
        step: Called after each entry.
    """
    count = total = 0
    for kind in KINDS:
        for number in store._go_through(kind, Where(), partial(map, _number)):
            count += 1
            total += number
            step()
    return Digest(count, total % 2**256)


def _number(entry: Entry) -> int:
    text = ascii([int(entry.kind), *entry[1:]])
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def copy_entries(source: StateStorage, target: StateStorage, step: Callable[[], object]) -> int:
    """Writes every entry of one store into another, with its time; returns how many.

    What is there already is written over, so that it can be run again: after a crash, or because
    the source has changed meanwhile. What only the target has stays.

    Args:
        source: Where they are; only read.
        target: Where they shall be as well.
        step: Called after each entry.
    """
    count = 0
    for kind in KINDS:
        for entries in source._go_through(kind, Where(), target._atomic):
            target._call(target._commit, in_order(Write(*entry) for entry in entries))
            for _ in entries:
                step()
            count += len(entries)
    return count


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--dry-run", is_flag=True, help="Copy nothing; say what there is.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def copy(given: Given, source: str, target: str, dry_run: bool, yes: bool) -> None:
    """Copy everything from the store FROM into the store TO, both given as URLs.

    States and all else, each with its time; then both are read and compared. It can be stopped and
    run again at any time. Mail that is handled meanwhile may change what was copied already: run
    it once while the server works, then once more while it is stopped, before TO takes over.

    Exit status 1 if the two are not equal in the end.
    """
    with open_storage(source) as old, open_storage(target) as new:
        total, there = (_size(store) for store in (old, new))
        if dry_run:
            sentence = f"{total:,} entries in {old!r}; {there:,} in {new!r}"
            given.say(sentence, entries=total, before=there, equal=None)
            return
        if there:
            confirm(f"{new!r} has {there:,} entries: write over those of the same key?", yes=yes)
        with progress("copied", total) as step:
            copied = copy_entries(old, new, step)
        with progress("compared", 2 * total) as step:
            first, second = digest(old, step), digest(new, step)
    equal = first == second
    outcome = "equal" if equal else f"NOT equal: FROM has {first}; TO has {second}"
    sentence = f"entries copied: {copied:,}; the stores are {outcome}"
    given.say(sentence, entries=copied, before=there, equal=equal)
    if not equal:
        raise SystemExit(1)


def _size(store: StateStorage) -> int:
    return sum(store._call(store._count, kind) for kind in KINDS)


COMMANDS = (copy,)
