"""Finds and reads the shelves of other Pythons: the flavours of dbm."""

from __future__ import annotations

import ast
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from salmon_state.errors import ConfigurationError
from salmon_state.stores.files import beside, may_pass
from salmon_state.stores.shelf.file import is_database

__all__ = ["OldShelf", "find_old_shelves", "names_of", "read_old_shelf"]

_GDBM_MAGIC = (0x13579ACE, 0x13579ACD, 0x13579ACF)
_BERKELEY_MAGIC = 0x00061561


class OldShelf(NamedTuple):
    """A shelf in another format than ours."""

    flavour: str
    """The module of Python that reads it."""

    files: tuple[Path, ...]


def find_old_shelves(path: Path) -> list[OldShelf]:
    """Finds what ``dbm.whichdb`` would, without opening a database that is in use.

    Unlike it, all that there are, and also what this Python has no module for.
    """
    pag, dir_, dat, bak, db = (beside(path, end) for end in (".pag", ".dir", ".dat", ".bak", ".db"))
    found = []
    if pag.exists() and dir_.exists():
        found.append(OldShelf("dbm.ndbm", (pag, dir_)))
    if dat.exists() and (dir_.exists() or bak.exists()):
        found.append(OldShelf("dbm.dumb", (dat, dir_, bak)))
    if _BERKELEY_MAGIC in _integers(db, 12):
        found.append(OldShelf("dbm.ndbm", (db,)))
    if any(number in _GDBM_MAGIC for number in _integers(path, 0)):
        found.append(OldShelf("dbm.gnu", (path,)))
    return found


def _integers(path: Path, offset: int) -> list[int]:
    """Returns the number at an offset of a file in both byte orders; empty for a database."""
    if not path.is_file() or path.stat().st_size < offset + 4 or is_database(path):
        return []
    with open(path, "rb") as file:
        file.seek(offset)
        number = file.read(4)
    return [int.from_bytes(number, "little"), int.from_bytes(number, "big")]


def read_old_shelf(path: Path, old: OldShelf) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of an old shelf, which is not changed.

    Raises:
        ConfigurationError: This Python cannot read it, or it is damaged as a whole.
    """
    try:
        dbm = importlib.import_module(old.flavour)
    except ImportError as error:
        raise ConfigurationError(
            f"{names_of(old)} is a shelf of {old.flavour}, which this Python cannot read "
            f"({error}): install that module (Debian: python3-gdbm), or open it once with a Python "
            "that has it; after the conversion every Python can read it"
        ) from error
    try:
        if old.flavour == "dbm.dumb":
            _check_dumb_index(*old.files[1:])
        with dbm.open(os.fspath(path), "r") as shelf:
            for key in shelf.keys():  # noqa: SIM118 - a gdbm object is not iterable
                yield key, shelf[key]
    except ConfigurationError:
        raise
    except Exception as error:  # a damaged index makes dbm raise nearly anything
        if may_pass(error):
            raise
        raise ConfigurationError(
            f"cannot read {names_of(old)}, a shelf of {old.flavour}: {type(error).__name__}: "
            f"{error}; stop what else uses it, or restore a copy"
        ) from error


def _check_dumb_index(index: Path, previous: Path) -> None:
    """Refuses an index that a SIGKILL cut short while dbm.dumb was writing it anew.

    A proper deletion leaves at most one entry in the previous index that the present one has not.
    """
    lost = len(_dumb_keys(previous) - _dumb_keys(index))
    if lost > 1 or not index.exists():
        raise ConfigurationError(
            f"{str(index)!r} was cut short when a process died while writing it: {lost} entries "
            f"are in {str(previous)!r} only; copy that file over it to get them back, "
            "or remove that file to go on without them"
        )


def _dumb_keys(index: Path) -> set[str]:
    if not index.exists():
        return set()
    with open(index, encoding="latin-1") as lines:
        return {ast.literal_eval(line.rstrip())[0] for line in lines}


def names_of(old: OldShelf) -> str:
    """Returns the files of a shelf, for messages."""
    return " + ".join(str(file) for file in old.files if file.exists())
