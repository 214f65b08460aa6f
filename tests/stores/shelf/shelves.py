"""Shelves for the tests: what Salmon wrote, what is in a file, and what is wrong with it."""

from __future__ import annotations

import hashlib
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from salmon_state import ShelveStorage
from salmon_state.entries import Kind, Write
from tests.stores.shelf import old_shelves
from tests.stores.shelf.old_shelves import call, python_with

MODULE = "app.handlers"
SENDER = "anna@example.com"
OLD_STATES = [
    (MODULE, SENDER, "CONFIRMING"),
    (MODULE, SENDER.upper(), "POSTING"),
    (MODULE, None, "NULL"),
    (MODULE, "", "EMPTY"),
    (MODULE, "None", "NONE"),
    ('it\'s [a] "module"', "o'neil@x", "QUOTED"),
    (MODULE, "é@x", "ACUTE"),
    (MODULE, "\udcff@x", "SURROGATE"),
    (MODULE, "\N{GRINNING FACE}@x", "EMOJI"),
    (MODULE, "\U0001fae8@x", "NEW_EMOJI"),
    (MODULE, "nul\0line\nend @x ", "CONTROL"),
    (MODULE, "', b'", "COMMA"),
]


def written_by_salmon(path: Path, flavour: str = "dbm.dumb") -> str:
    python = python_with(flavour) or pytest.skip(f"no Python on this machine has {flavour}")
    call(python, old_shelves.salmon_writes, str(path), flavour, OLD_STATES)
    return python


def contents(store: ShelveStorage) -> set[tuple[str, str | None, str]]:
    return {(record.module, record.sender, record.state) for record in store}


def modes(directory: Path) -> dict[str, str]:
    return {file.name: stat.filemode(file.stat().st_mode) for file in directory.iterdir()}


def digests(directory: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in directory.iterdir()
        if file.suffix != ".lock"
    }


def execute(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement, values)


def insert(path: Path, key: object, value: object) -> None:
    execute(
        path,
        "REPLACE INTO Dict VALUES (?, ?)",
        key.encode("ascii") if isinstance(key, str) else key,
        value,
    )


def damage(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 20)


def state(module: str, sender: str | None, value: str, at: int | None) -> Write:
    return Write(Kind.STATE, sender, module, value, at)
