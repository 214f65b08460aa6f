"""The tables of a shelf: that of the states, which is shelve's, and beside it that of the rest."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Protocol

from salmon_state.entries import EVERY, Entry, Kind, Page, Value, Where
from salmon_state.errors import StorageError
from salmon_state.keys import Sender, ascii_key, parse_key
from salmon_state.stores.rows import decode_row, encode_key, name_digest, sender_digest
from salmon_state.stores.shelf.file import ShelfFile
from salmon_state.stores.shelf.pickled import pickle_string, unpickle_string

__all__ = ["Shelf", "Table", "damaged"]


class Table(Protocol):
    """Where entries of some kinds are."""

    def value(self, kind: Kind, sender: Sender, name: str) -> Value | None:
        """Returns what an entry says."""

    def find(self, kind: Kind, sender: Sender, name: str) -> Entry | None:
        """Returns an entry."""

    def load(self, kind: Kind, sender: Sender) -> list[Entry]:
        """Returns the entries of a sender, all of one moment."""

    def page(self, kind: Kind, where: Where, after: Any) -> Page:
        """Returns what matches among the next rows; as `Backend._page`."""

    def put(self, entry: Entry) -> None:
        """Writes an entry."""

    def remove(self, kind: Kind, sender: Sender, name: str) -> int:
        """Removes an entry; returns how many there were."""

    def count(self, kind: Kind) -> int:
        """Returns the number of entries."""

    def clear(self) -> None:
        """Removes every entry of every kind."""


# No longer than what every calendar has: up to the year 5138.
_VALUE = re.compile(r"(-|-?[0-9]{1,16}|[0-9]{17}) (.+)", flags=re.DOTALL)

# What follows the module in a key, cut off at 512 bytes: the index by which a sender is found. It
# has functions of every SQLite only, so that whoever writes, such as dbm.sqlite3, maintains it.
#
# In ['module', 'sender'] the first "', " behind the opening quote ends the module, unless a
# backslash before it says that the quote belongs to the module. Whatever SQL cannot cut at a glance
# (that, a module in double quotes, one of more than 509 bytes, and what is no key at all) is under
# the empty blob, where everybody who looks for a sender looks as well. X'5B27' is [', X'272C20' is
# ', with a space behind it, and X'5C' is the backslash.
_MODULE_END = "instr(substr(key, 3, 512), X'272C20')"
_INDEXED = (
    "CASE WHEN substr(key, 1, 2) = X'5B27' "
    f"AND {_MODULE_END} > 0 AND instr(substr(key, 3, {_MODULE_END}), X'5C') = 0 "
    f"THEN substr(key, {_MODULE_END} + 5, 512) ELSE X'' END"
)

# A row comes with the key by which an index leads to it and with its own: in a damaged file they
# differ, and what is found would be another one's.
_ROW = "SELECT i.key, t.key, t.value FROM Dict AS i CROSS JOIN Dict AS t ON t.rowid = i.rowid WHERE"
_GET = f"{_ROW} i.key = ?"
_ALL = f"{_ROW} i.key > :after ORDER BY i.key"
_OF_MODULE = f"{_ROW} i.key > :after AND i.key < :end ORDER BY i.key"
_OF_SENDER = (
    "SELECT key, (SELECT i.key FROM Dict AS i WHERE i.key = Dict.key), value "  # noqa: S608
    f"FROM Dict WHERE {_INDEXED} IN (substr(:sender, 1, 512), X'') "
    "AND substr(key, -length(:end)) = :end AND +key > :after ORDER BY +key"
)


class States:
    """The table ``Dict`` of ``dbm.sqlite3``: a key is `ascii_key`, a value a pickled string.

    Args:
        file: The file that it is in.
    """

    def __init__(self, file: ShelfFile) -> None:
        self._file = file

    def create(self) -> None:
        """Creates the table unless it is there."""
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)"
        )

    def index_senders(self) -> None:
        """Creates the index of senders unless it is there; a second for a million entries."""
        self._file.execute(f"CREATE INDEX IF NOT EXISTS Senders ON Dict ({_INDEXED})")

    def value(self, kind: Kind, sender: Sender, name: str) -> str | None:
        """Returns a state."""
        row = self._file.execute(_GET, (ascii_key(name, sender).encode("ascii"),)).fetchone()
        return None if row is None else self._parse(*row)[0]

    def find(self, kind: Kind, sender: Sender, name: str) -> Entry | None:
        """Returns an entry."""
        row = self._file.execute(_GET, (_key(name, sender),)).fetchone()
        return None if row is None else Entry(kind, sender, name, *self._parse(*row))

    def load(self, kind: Kind, sender: Sender) -> list[Entry]:
        """Returns the entries of a sender."""
        values = {**_end_of(sender), "after": -math.inf}
        entries = (self._entry(*row) for row in self._file.execute(_OF_SENDER, values).fetchall())
        return [entry for entry in entries if entry.sender == sender]

    def page(self, kind: Kind, where: Where, after: Any) -> Page:
        """Returns what matches among the next rows, in the order of their keys.

        Not in that of the rowids, which change when ``dbm.sqlite3`` writes.
        """
        # Below every blob come SQLite's numbers and texts. They are not keys; they must show up.
        values: dict[str, Any] = {"after": -math.inf if after is None else after}
        sql = _ALL
        if where.sender is not EVERY:
            sql, values = _OF_SENDER, values | _end_of(where.sender)
        elif where.name is not EVERY:
            start = f"[{where.name!a}, ".encode("ascii")
            sql, values["end"] = _OF_MODULE, start[:-1] + b"!"  # which comes after a space
            values["after"] = start if after is None else after
        rows, more = self._file.page(sql, values)
        entries = [self._entry(*row) for row in rows]
        if where != Where():
            entries = [entry for entry in entries if where.matches(entry)]
        return Page(entries, rows[-1][0] if more else None)

    def put(self, entry: Entry) -> None:
        """Writes an entry."""
        _, sender, name, state, at = entry
        # Not REPLACE as in dbm.sqlite3: that writes both B-trees anew for each change.
        self._file.execute(
            "INSERT INTO Dict (key, value) VALUES (?, ?) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (_key(name, sender), pickle_string(f"{'-' if at is None else at} {state!s}")),
        )

    def remove(self, kind: Kind, sender: Sender, name: str) -> int:
        """Removes an entry; returns how many there were."""
        return self._file.execute("DELETE FROM Dict WHERE key = ?", (_key(name, sender),)).rowcount

    def count(self, kind: Kind) -> int:
        """Returns the number of entries."""
        count: int = self._file.execute("SELECT count(*) FROM Dict").fetchone()[0]
        return count

    def clear(self) -> None:
        """Removes every entry."""
        self._file.execute("DELETE FROM Dict")

    def _entry(self, key: Any, own_key: Any, value: Any) -> Entry:
        try:
            name, sender = parse_key(str(key, "ascii"))
            state, at = self._parse(key, own_key, value)
        except (StorageError, ValueError, TypeError) as error:
            raise damaged(self._file.path, key, error) from None
        return Entry(Kind.STATE, sender, name, state, at)

    def _parse(self, key: bytes, own_key: Any, value: Any) -> tuple[str, int | None]:
        """Returns the state and its time in a row; see `put`."""
        try:
            if own_key != key:
                raise ValueError(f"the row that it leads to has the key {_short(own_key)}")
            match = _VALUE.fullmatch(unpickle_string(value))
            if match is None:
                raise ValueError("its value is not '<microseconds since 1970, or -> <state>'")
            return match[2], None if match[1] == "-" else int(match[1])
        except ValueError as error:
            raise damaged(self._file.path, key, error) from None


def _key(module: str, sender: Sender) -> bytes:
    return ascii_key(module, sender).encode("ascii")


def _end_of(sender: Sender) -> dict[str, bytes]:
    end = f"{sender!a}]".encode("ascii")
    return {"sender": end, "end": b", " + end}


_ONE = "FROM Entries WHERE kind = ? AND sender = ? AND name = ?"
_ROWS = "SELECT sender, name, key, value, at FROM Entries WHERE kind = :kind"
_BY_KEY = f"{_ROWS} AND (sender, name) > (:sender, :name) AND sender <= :last ORDER BY sender, name"
_BY_TIME = (
    f"{_ROWS} AND (at, sender, name) > (:at, :sender, :name) AND at < :before "
    "ORDER BY at, sender, name"
)
_BEHIND_ALL = b"\xff" * 33


class Entries:
    """The table of all other kinds, which neither `shelve` nor an earlier version looks at.

    A row is what it is in a SQL database, found by two digests.

    Args:
        file: The file that it is in.
    """

    def __init__(self, file: ShelfFile) -> None:
        self._file = file

    def create(self) -> None:
        """Creates the table and the index of times unless they are there."""
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS Entries (kind INTEGER NOT NULL, sender BLOB NOT NULL, "
            "name BLOB NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, at INTEGER, "
            "PRIMARY KEY (kind, sender, name))"
        )
        self._file.execute("CREATE INDEX IF NOT EXISTS Due ON Entries (kind, at, sender, name)")

    def value(self, kind: Kind, sender: Sender, name: str) -> Value | None:
        """Returns what an entry says."""
        entry = self.find(kind, sender, name)
        return None if entry is None else entry.value

    def load(self, kind: Kind, sender: Sender) -> list[Entry]:
        """Returns the entries of a sender."""
        digest = sender_digest(sender)
        values = {"kind": int(kind), "sender": digest, "name": b"", "last": digest}
        rows = self._file.execute(_BY_KEY, values).fetchall()
        return [self._entry(kind, *row) for row in rows]

    def find(self, kind: Kind, sender: Sender, name: str) -> Entry | None:
        """Returns an entry."""
        sql = f"SELECT sender, name, key, value, at {_ONE}"
        row = self._file.execute(sql, _place(kind, sender, name)).fetchone()
        return None if row is None else self._entry(kind, *row)

    def page(self, kind: Kind, where: Where, after: Any) -> Page:
        """Returns what matches among the next rows, in the order of their time if that counts."""
        values: dict[str, Any] = {"kind": int(kind), "before": where.before, "last": _BEHIND_ALL}
        values |= after or {"at": -math.inf, "sender": b"", "name": b""}
        if where.sender is not EVERY:
            values["last"] = sender_digest(where.sender)
            values["sender"] = values["sender"] or values["last"]
        rows, more = self._file.page(_BY_KEY if where.before is None else _BY_TIME, values)
        entries = [entry for row in rows if where.matches(entry := self._entry(kind, *row))]
        if not more:
            return Page(entries, None)
        sender, name, _, _, at = rows[-1]
        return Page(entries, {"at": at, "sender": sender, "name": name})

    def put(self, entry: Entry) -> None:
        """Writes an entry."""
        kind, sender, name, value, at = entry
        self._file.execute(
            "INSERT INTO Entries (kind, sender, name, key, value, at) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET value = excluded.value, at = excluded.at",
            (*_place(kind, sender, name), encode_key(name, sender), value, at),
        )

    def remove(self, kind: Kind, sender: Sender, name: str) -> int:
        """Removes an entry; returns how many there were."""
        return self._file.execute(f"DELETE {_ONE}", _place(kind, sender, name)).rowcount

    def count(self, kind: Kind) -> int:
        """Returns the number of entries of a kind."""
        sql = "SELECT count(*) FROM Entries WHERE kind = ?"
        count: int = self._file.execute(sql, (int(kind),)).fetchone()[0]
        return count

    def clear(self) -> None:
        """Removes every entry of every kind."""
        self._file.execute("DELETE FROM Entries")

    def _entry(self, kind: Kind, *row: Any) -> Entry:
        try:
            return decode_row(kind, *row)
        except (StorageError, TypeError, AttributeError) as error:
            raise damaged(self._file.path, row[2], error) from None


def _place(kind: Kind, sender: Sender, name: str) -> tuple[int, bytes, bytes]:
    return int(kind), sender_digest(sender), name_digest(name)


class Shelf(ShelfFile):
    """The file of a shelf with both of its tables."""

    def __init__(self, path: Path, timeout: float, *, journal: str = "WAL") -> None:
        super().__init__(path, timeout, journal=journal)
        self.states = States(self)
        self.entries = Entries(self)

    def table(self, kind: Kind) -> Table:
        """Returns where the entries of a kind are."""
        return self.states if kind is Kind.STATE else self.entries

    def complete(self) -> None:
        """Adds what a shelf of ``dbm.sqlite3`` lacks, unless it is there."""
        self.states.index_senders()
        self.entries.create()


def damaged(path: Path, key: object, reason: object) -> StorageError:
    """Returns the error for an entry that nobody can have written properly."""
    return StorageError(f"damaged entry in the shelf {str(path)!r}, key {_short(key)}: {reason}")


def _short(key: object) -> str:
    text = ascii(key)
    return text if len(text) <= 120 else text[:117] + "..."
