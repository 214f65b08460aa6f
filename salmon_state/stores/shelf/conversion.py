"""Takes over the shelves that Salmon's own ShelveStorage left, of every flavour of dbm.

Killed at any point, a conversion leaves the old shelf as it was, or the whole new one together
with a note of which old files are yet to be moved out of the way; whoever opens it next goes on.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable
from contextlib import closing
from itertools import count, takewhile
from pathlib import Path

from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.entries import Entry, Kind
from salmon_state.errors import ConfigurationError
from salmon_state.keys import Sender
from salmon_state.log import log
from salmon_state.stores.files import OWNER_ONLY, beside, create_private_file, make_private
from salmon_state.stores.shelf.file import database_tables, is_database
from salmon_state.stores.shelf.flavours import (
    OldShelf,
    find_old_shelves,
    names_of,
    read_old_shelf,
)
from salmon_state.stores.shelf.pickled import unpickle_string
from salmon_state.stores.shelf.tables import Shelf, damaged

__all__ = ["prepare_shelf"]


_OF_SQLITE = ("-wal", "-shm", "-journal")
_OLD_SUFFIXES = ("", ".dat", ".dir", ".bak", ".pag", ".db")


def prepare_shelf(path: Path, timeout: float) -> None:
    """Sees to it that there is a shelf in the format of `Shelf`, with all the old states.

    The caller holds the lock between processes.

    Args:
        path: The path that Salmon was given; some flavours add suffixes to it.
        timeout: Seconds to wait for a lock inside SQLite.

    Raises:
        ConfigurationError: There is something else, or a shelf that this Python cannot read.
        StorageError: An entry of the old shelf is damaged; the old shelf is left as it was.
    """
    old = find_old_shelves(path)
    exists = path.exists() and path.stat().st_size > 0
    if exists and is_database(path):
        _prepare_database(path, timeout)
    elif exists and path not in (file for shelf in old for file in shelf.files):
        raise ConfigurationError(
            f"{str(path)!r} is no shelf that any Python can read; "
            "move it away, restore a copy of it, or give another path"
        )
    elif len(old) > 1:
        raise _ambiguous(path, map(names_of, old))
    elif old:
        _convert(path, old[0], timeout)
    else:
        create_private_file(path)
        _sync(path.parent)
        _prepare_database(path, timeout)


def _prepare_database(path: Path, timeout: float) -> None:
    tables = database_tables(path, timeout)
    if tables and "Dict" not in tables:
        raise ConfigurationError(
            f"{str(path)!r} is an SQLite database but no shelf; "
            "open it as sqlite:///..., or give another path"
        )
    with closing(Shelf(path, timeout)) as new:
        new.create()
        for suffix in ("", *_OF_SQLITE):
            make_private(beside(path, suffix))
        _finish_moves(path, new)
        if old := find_old_shelves(path):
            raise _ambiguous(path, [str(path), *map(names_of, old)])
        if _legacy_rows(new):
            _convert_in_place(path, new)
        new.complete()  # afterwards: the backup of a conversion is what Salmon left


# ---------------------------------------------------------------- conversion


def _convert(path: Path, old: OldShelf, timeout: float) -> None:
    temporary = beside(path, ".salmon-new")
    backup = _free_backup(path)
    moves = {
        os.fsencode(file.name): os.fsencode(backup.name + file.name[len(path.name) :])
        for file in old.files
        if file != path
    }
    try:
        _discard(temporary)
        create_private_file(temporary)
        with closing(Shelf(temporary, timeout, journal="DELETE")) as new, new.transaction():
            new.create()
            _adopt(path, read_old_shelf(path, old), new)
            new.complete()
            new.execute("CREATE TABLE Moves (old BLOB, new BLOB)")
            for move in moves.items():
                new.execute("INSERT INTO Moves VALUES (?, ?)", move)
            converted = new.states.count(Kind.STATE)
        for suffix in _OF_SQLITE:  # left of another database, they would spoil this one
            beside(path, suffix).unlink(missing_ok=True)
        if path in old.files:
            os.chmod(path, OWNER_ONLY)
            os.link(path, backup)
        # From here on the new shelf is what counts, even while old files are still beside it.
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        _discard(temporary)
    with closing(Shelf(path, timeout)) as new:
        _finish_moves(path, new)
    _report(path, old.flavour, converted, backup)


def _convert_in_place(path: Path, new: Shelf) -> None:
    temporary = beside(path, ".salmon-new")
    backup = _free_backup(path)
    converted = 0
    try:
        _discard(temporary)
        create_private_file(temporary)
        new.copy_to(temporary)
        _sync(temporary)
        with new.transaction():
            while rows := _legacy_rows(new):
                converted += _adopt(path, rows, new)
                for key, _ in rows:
                    new.execute("DELETE FROM Dict WHERE key = ?", (key,))
            os.rename(temporary, backup)
            _sync(path.parent)
    finally:
        _discard(temporary)
    _report(path, "dbm.sqlite3", converted, backup)


def _finish_moves(path: Path, new: Shelf) -> None:
    """Moves the files of a converted shelf out of the way, as the conversion noted."""
    if not new.has("Moves"):
        return
    for old, backup in new.execute("SELECT old, new FROM Moves").fetchall():
        file = path.with_name(os.fsdecode(old))
        if file.exists():
            os.chmod(file, OWNER_ONLY)
            os.rename(file, path.with_name(os.fsdecode(backup)))
    _sync(path.parent)
    new.execute("DROP TABLE Moves")


def _adopt(path: Path, entries: Iterable[tuple[bytes, bytes]], new: Shelf) -> int:
    adopted = 0
    for key, value in entries:
        try:
            module, sender = _parse_legacy(key)
            state = unpickle_string(value)
            if not state:
                raise ValueError("its state is empty")
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise damaged(
                path, key, f"{error}; remove the entry with Python's shelve, or restore a copy"
            ) from None
        # Two spellings of one key, by Pythons with different Unicode tables: what counts is the
        # one that Salmon on this Python would find.
        usual = repr([module.encode("ascii"), sender]).encode() == key
        entry = Entry(Kind.STATE, sender, module, state, None)
        if state != ROUTE_FIRST_STATE and (usual or not new.states.find(*entry[:3])):
            new.states.put(entry)
            adopted += 1
    return adopted


def _parse_legacy(key: bytes) -> tuple[str, Sender]:
    module, sender = ast.literal_eval(key.decode("utf-8"))
    if not isinstance(module, bytes) or not (sender is None or isinstance(sender, str)):
        raise ValueError("expected the key repr([b'module', 'sender'])")
    return module.decode("ascii"), sender


def _legacy_rows(new: Shelf) -> list[tuple[bytes, bytes]]:
    # The index answers at once: what we write begins with [' or [" and sorts before.
    sql = (
        "SELECT key, value, length(key) + length(value) FROM Dict WHERE key > X'5B62' ORDER BY key"
    )
    rows, _ = new.page(sql, ())
    return [row[:2] for row in takewhile(lambda row: row[0][:3] in (b"[b'", b'[b"'), rows)]


# ---------------------------------------------------------------- files


def _free_backup(path: Path) -> Path:
    """Returns a path that is free with every suffix; it opens as a shelf, as the old one did."""
    for number in count(1):
        backup = beside(path, ".salmon-backup" + (f"-{number}" if number > 1 else ""))
        if not any(beside(backup, suffix).exists() for suffix in _OLD_SUFFIXES):
            break
    return backup


def _discard(temporary: Path) -> None:
    for suffix in ("", *_OF_SQLITE):
        beside(temporary, suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ambiguous(path: Path, names: Iterable[str]) -> ConfigurationError:
    return ConfigurationError(
        f"there are several shelves for {str(path)!r}: {'; '.join(names)}; "
        "move all but the one that counts to another directory"
    )


def _report(path: Path, flavour: str, converted: int, backup: Path) -> None:
    log().warning(
        "converted the shelf %s from %s: %d states; the old one is kept as %s",
        path,
        flavour,
        converted,
        backup,
    )
