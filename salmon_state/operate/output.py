"""What the commands print: tables for people, JSON lines for programs, nothing that acts.

What came out of a mail may hold control characters, text that runs from right to left, or five
million letters. On a screen all of that is escaped and cut; in JSON it is escaped and whole.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import click

__all__ = ["Row", "as_json", "duration", "print_rows", "progress", "shown"]

Row = Mapping[str, Any]
"""What is printed of one thing: the same names for people and for programs."""

_LONGEST = 200
"""Characters of one text on a screen."""

_CHUNK = 200
"""Rows whose columns are laid out together, so that millions need no memory."""

_LONGEST_AGE = timedelta(days=365_000)
"""A thousand years: what is before it has no date."""

_TOGETHER = 100
"""Steps after which the bar of something long moves."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def shown(value: object, longest: int = _LONGEST) -> str:
    r"""Returns a text that a terminal shows as it is, whatever was in it.

    >>> print(shown("anna\x1b[2J\u202e@example.com"))
    anna\x1b[2J\u202e@example.com
    """
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    text = str(value)
    cut = text[:longest]
    escaped = "".join(c if _is_harmless(c) else ascii(c)[1:-1] for c in cut)
    return escaped if len(cut) == len(text) else f"{escaped}… ({len(text):,} characters)"


def _is_harmless(character: str) -> bool:
    # Strong right-to-left letters would move what stands beside them in the line.
    return (
        character.isprintable()
        and unicodedata.category(character) != "Cf"
        and unicodedata.bidirectional(character) not in ("R", "AL", "AN")
        and not unicodedata.combining(character)
    )


def as_json(row: Row) -> str:
    """Returns a row as one line of ASCII."""
    return json.dumps(row, default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def print_rows(rows: Iterable[Row], columns: Sequence[str], *, to_json: bool) -> int:
    """Prints rows as they come; returns how many.

    A table on a terminal; lines of JSON, or of columns with a tab between, where none is.
    """
    count = 0
    if to_json:
        for row in rows:
            click.echo(as_json(row))
            count += 1
    elif not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(shown(row[column]) for column in columns))
            count += 1
    else:
        for chunk in _chunks(rows):
            _print_table(chunk, columns, header=not count)
            count += len(chunk)
    return count


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _print_table(rows: Sequence[Row], columns: Sequence[str], *, header: bool) -> None:
    # Here and below, because what prints for a program need not wait for it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=header, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    for row in rows:
        style = "bold" if row.get("wrong") else ""
        table.add_row(*(Text(shown(row[column]), style) for column in columns))
    Console().print(table)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Shows on a terminal how far something long has come; gives what says that a step is done.

    Args:
        what: What the steps are.
        total: How many there are, if that is known.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if not steps % _TOGETHER:  # to move the bar takes as long as to read an entry
            bar.advance(task, _TOGETHER)

    columns = (
        *(TextColumn("{task.description}"), BarColumn()),
        *(MofNCompleteColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield step


def duration(text: str) -> timedelta:
    """Returns a duration such as ``90d``, ``36h`` or ``10m``.

    >>> duration("2d")
    datetime.timedelta(days=2)

    Raises:
        click.BadParameter: It is none.
    """
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and unit in _UNITS and len(number) < 10):
        raise click.BadParameter(
            f"expected a whole number and one of {', '.join(_UNITS)}, such as 90d; got {text!r}"
        )
    seconds = int(number) * _UNITS[unit]
    if seconds > _LONGEST_AGE.total_seconds():
        raise click.BadParameter(f"expected at most {_LONGEST_AGE.days}d, got {text!r}")
    return timedelta(seconds=seconds)
