"""The tables of a shelf: that of the states, which is shelve's, and beside it that of the rest."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, ClassVar

from salmon_state.entries import EVERY, STATE, Entry, Kind, Page, Where
from salmon_state.errors import StorageError
from salmon_state.keys import Sender, ascii_key, parse_key
from salmon_state.stores.encoding import decode_row, encode_key, name_digest, sender_digest
from salmon_state.stores.shelf.file import ShelfFile
from salmon_state.stores.shelf.pickled import pickle_string, unpickle_string

__all__ = ["Shelf", "Table", "damaged"]


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
_SENDER = (
    "CASE WHEN substr(key, 1, 2) = X'5B27' "
    f"AND {_MODULE_END} > 0 AND instr(substr(key, 3, {_MODULE_END}), X'5C') = 0 "
    f"THEN substr(key, {_MODULE_END} + 5, 512) ELSE X'' END"
)

# What the option `indexes` finds: a state, and the time before it, behind the head of its pickle. A
# head of 13 bytes (protocol, frame, and the length of a short text in the last one) and an end of
# two are what every Python writes by itself if the text has less than 256 bytes. Whatever SQL
# cannot cut at a glance is again under the empty blob, and before all times. X'20' is the space
# behind the time, and X'2D20' is what a state has whose time is not known.
_SPACE = "instr(substr(value, 14, 18), X'20')"
_PLAIN = (
    "substr(value, 1, 1) = X'80' AND substr(value, 3, 1) = X'95' AND substr(value, 12, 1) = X'8C' "
    f"AND hex(substr(value, 13, 1)) = printf('%02X', length(value) - 15) AND {_SPACE} > 0"
)
_STATE = (
    f"CASE WHEN {_PLAIN} THEN substr(value, 14 + {_SPACE}, length(value) - 15 - {_SPACE}) "
    "ELSE X'' END"
)
_NO_TIME = -(2**63)
_TIME = (
    f"CASE WHEN NOT ({_PLAIN}) THEN {_NO_TIME} WHEN substr(value, 14, 2) = X'2D20' THEN NULL "
    f"ELSE CAST(substr(value, 14, {_SPACE} - 1) AS INTEGER) END"
)

# A row comes with the key by which an index leads to it and with its own: in a damaged file they
# differ, and what is found would be another one's. At last comes how long it is.
_ROW = (
    "SELECT i.key, t.key, t.value, length(t.key) + length(t.value) "
    "FROM Dict AS i CROSS JOIN Dict AS t ON t.rowid = i.rowid WHERE"
)
_ALL = f"{_ROW} i.key > :after ORDER BY i.key"
_OF_MODULE = f"{_ROW} i.key > :after AND i.key < :end ORDER BY i.key"
_KEYS = "SELECT key, (SELECT i.key FROM Dict AS i WHERE i.key = Dict.key), value,"
_FOUND = f"{_KEYS} length(key) + length(value) FROM Dict WHERE"
_OF_SENDER = (
    f"{_FOUND} {_SENDER} IN (substr(:sender, 1, 512), X'') "
    "AND substr(key, -length(:end)) = :end AND +key > :after ORDER BY +key"
)
_OF_STATE = " UNION ALL ".join(
    f"{_FOUND} {_STATE} = {state} AND key > :after AND key < :end" for state in (":state", "X''")
)
_OF_STATE += " ORDER BY 1"  # both come in this order, and are merged
_BEFORE = (
    f"{_KEYS} {_TIME}, length(key) + length(value) FROM Dict "
    f"WHERE {_TIME} >= :at AND {_TIME} < :before AND ({_TIME} > :at OR key > :after) "
    f"AND key > :start AND key < :end ORDER BY {_TIME}, key"
)


class Table:
    """A table, found by a key: what that of the states and that of the rest have in common.

    Args:
        file: The file that it is in.
    """

    FIND: ClassVar[str]
    PUT: ClassVar[str]
    REMOVE: ClassVar[str]
    COUNT: ClassVar[str]

    def __init__(self, file: ShelfFile) -> None:
        self._file = file

    def find(self, kind: Kind, sender: Sender, name: str) -> Entry | None:
        """Returns an entry."""
        row = self._file.execute(self.FIND, self._place(kind, sender, name)).fetchone()
        return None if row is None else self._entry(kind, *row)

    def load(self, kind: Kind, sender: Sender) -> list[Entry]:
        """Returns the entries of a sender, all of one moment."""
        where = Where(sender=sender)
        rows = self._file.execute(*self._query(kind, where, None)).fetchall()
        return self._matching(kind, where, rows)

    def page(self, kind: Kind, where: Where, after: Any) -> Page:
        """Returns what matches among the next rows; as `Backend._page`."""
        rows, more = self._file.page(*self._query(kind, where, after))
        return Page(self._matching(kind, where, rows), self._position(rows[-1]) if more else None)

    def put(self, entry: Entry) -> None:
        """Writes an entry."""
        self._file.execute(self.PUT, self._place(*entry[:3]) + self._rest(entry))

    def remove(self, kind: Kind, sender: Sender, name: str) -> int:
        """Removes an entry; returns how many there were."""
        return self._file.execute(self.REMOVE, self._place(kind, sender, name)).rowcount

    def count(self, kind: Kind) -> int:
        """Returns the number of entries of a kind."""
        count: int = self._file.execute(self.COUNT, {"kind": int(kind)}).fetchone()[0]
        return count

    def _matching(self, kind: Kind, where: Where, rows: list[Any]) -> list[Entry]:
        entries = [self._entry(kind, *row) for row in rows]
        if where == Where():
            return entries
        return [entry for entry in entries if where.matches(entry)]

    def _query(self, kind: Kind, where: Where, after: Any) -> tuple[str, dict[str, Any]]:
        """Returns what selects the next rows, among which are all that match."""
        raise NotImplementedError

    def _position(self, row: Any) -> Any:
        """Returns where a page ends, as `_query` takes it."""
        raise NotImplementedError

    def _place(self, kind: Kind, sender: Sender, name: str) -> tuple[Any, ...]:
        """Returns the key of a row."""
        raise NotImplementedError

    def _rest(self, entry: Entry) -> tuple[Any, ...]:
        """Returns what a row says besides its key."""
        raise NotImplementedError

    def _entry(self, kind: Kind, *row: Any) -> Entry:
        """Returns what a row says, or raises if it is damaged."""
        raise NotImplementedError


class States(Table):
    """The table ``Dict`` of ``dbm.sqlite3``: a key is `ascii_key`, a value a pickled string."""

    FIND = f"{_ROW} i.key = ?"
    # Not REPLACE as in dbm.sqlite3: that writes both B-trees anew for each change.
    PUT = (
        "INSERT INTO Dict (key, value) VALUES (?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
    REMOVE = "DELETE FROM Dict WHERE key = ?"
    COUNT = "SELECT count(*) FROM Dict"

    def find(self, kind: Kind, sender: Sender, name: str) -> Entry | None:
        """Returns an entry, whose key need not be read."""
        row = self._file.execute(self.FIND, self._place(kind, sender, name)).fetchone()
        return None if row is None else Entry(kind, sender, name, *self._said(*row))

    def _query(self, kind: Kind, where: Where, after: Any) -> tuple[str, dict[str, Any]]:
        # Not in the order of the rowids, which change when dbm.sqlite3 writes. Below every blob
        # come SQLite's numbers and texts. They are not keys; they must show up.
        start: float | bytes = -math.inf
        end = b"\xff"
        if where.name is not EVERY:
            # What comes after a space is an exclamation mark.
            start, end = (f"[{where.name!a},{mark}".encode("ascii") for mark in " !")
        values = {"start": start, "end": end, "after": start, "at": _NO_TIME, **(after or {})}
        if where.sender is not EVERY:
            end = f"{where.sender!a}]".encode("ascii")
            return _OF_SENDER, {**values, "sender": end, "end": b", " + end}
        if where.value is not None and self._file.has("States"):
            state = str(where.value).encode("utf-8", "surrogatepass")
            return _OF_STATE, {**values, "state": state}
        if where.before is not None and self._file.has("Times"):
            return _BEFORE, {**values, "before": where.before}
        return _ALL if where.name is EVERY else _OF_MODULE, values

    def _position(self, row: Any) -> Any:
        key, _, _, *time, _ = row
        return {"after": key, "at": time[0]} if time else {"after": key}

    def _place(self, kind: Kind, sender: Sender, name: str) -> tuple[bytes]:
        return (ascii_key(name, sender).encode("ascii"),)

    def _rest(self, entry: Entry) -> tuple[bytes]:
        return (pickle_string(f"{'-' if entry.at is None else entry.at} {entry.value!s}"),)

    def _entry(self, kind: Kind, *row: Any) -> Entry:
        key = row[0]
        try:
            name, sender = parse_key(str(key, "ascii"))
        except (StorageError, ValueError, TypeError) as error:
            raise damaged(self._file.path, key, error) from None
        return Entry(kind, sender, name, *self._said(*row))

    def _said(self, key: bytes, own_key: Any, value: Any, *_: int) -> tuple[str, int | None]:
        """Returns the state and its time; see `_rest`."""
        try:
            if own_key != key:
                raise ValueError(f"the row that it leads to has the key {_short(own_key)}")
            match = _VALUE.fullmatch(unpickle_string(value))
            if match is None:
                raise ValueError("its value is not '<microseconds since 1970, or -> <state>'")
        except ValueError as error:
            raise damaged(self._file.path, key, error) from None
        return match[2], None if match[1] == "-" else int(match[1])


_ROWS = "SELECT sender, name, key, value, at, length(key) + length(value) FROM Entries"
_OF_KIND = f"{_ROWS} WHERE kind = :kind AND"
_BY_KEY = f"{_OF_KIND} (sender, name) > (:sender, :name) AND sender <= :last ORDER BY sender, name"
_BY_TIME = (
    f"{_OF_KIND} (at, sender, name) > (:at, :sender, :name) AND at < :before "
    "ORDER BY at, sender, name"
)
_BEHIND_ALL = b"\xff" * 33


class Entries(Table):
    """The table of all other kinds, which neither `shelve` nor an earlier version looks at.

    A row is what it is in a SQL database, found by two digests.
    """

    FIND = f"{_ROWS} WHERE kind = ? AND sender = ? AND name = ?"
    PUT = (
        "INSERT INTO Entries (kind, sender, name, key, value, at) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET value = excluded.value, at = excluded.at"
    )
    REMOVE = "DELETE FROM Entries WHERE kind = ? AND sender = ? AND name = ?"
    COUNT = "SELECT count(*) FROM Entries WHERE kind = :kind"

    def _query(self, kind: Kind, where: Where, after: Any) -> tuple[str, dict[str, Any]]:
        values: dict[str, Any] = {"kind": int(kind), "before": where.before, "last": _BEHIND_ALL}
        values |= after or {"at": -math.inf, "sender": b"", "name": b""}
        if where.sender is not EVERY:
            values["last"] = sender_digest(where.sender)
            values["sender"] = values["sender"] or values["last"]
        return _BY_KEY if where.before is None else _BY_TIME, values

    def _position(self, row: Any) -> Any:
        return {"sender": row[0], "name": row[1], "at": row[4]}

    def _place(self, kind: Kind, sender: Sender, name: str) -> tuple[int, bytes, bytes]:
        return int(kind), sender_digest(sender), name_digest(name)

    def _rest(self, entry: Entry) -> tuple[Any, ...]:
        return encode_key(entry.name, entry.sender), entry.value, entry.at

    def _entry(self, kind: Kind, *row: Any) -> Entry:
        try:
            return decode_row(kind, *row[:-1])
        except (StorageError, TypeError, AttributeError) as error:
            raise damaged(self._file.path, row[2], error) from None


_CREATE_STATES = "CREATE TABLE IF NOT EXISTS Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)"
_CREATE_THE_REST = (
    f"CREATE INDEX IF NOT EXISTS Senders ON Dict ({_SENDER})",
    "CREATE TABLE IF NOT EXISTS Entries (kind INTEGER NOT NULL, sender BLOB NOT NULL, "
    "name BLOB NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, at INTEGER, "
    "PRIMARY KEY (kind, sender, name))",
    "CREATE INDEX IF NOT EXISTS Due ON Entries (kind, at, sender, name)",
)
_INDEXES = {"States": f"{_STATE}, key", "Times": f"{_TIME}, key"}
"""Those that are an option: their names, and what is in them."""


class Shelf(ShelfFile):
    """The file of a shelf with both of its tables."""

    def __init__(self, path: Path, timeout: float, *, journal: str = "WAL") -> None:
        super().__init__(path, timeout, journal=journal)
        self.states = States(self)
        self.entries = Entries(self)

    def table(self, kind: Kind) -> Table:
        """Returns where the entries of a kind are."""
        return self.states if kind is STATE else self.entries

    def create(self) -> None:
        """Creates the table that `shelve` has, unless it is there."""
        self.execute(_CREATE_STATES)

    def complete(self) -> None:
        """Adds what a shelf of ``dbm.sqlite3`` lacks; a second for a million entries."""
        for statement in _CREATE_THE_REST:
            self.execute(statement)

    def create_indexes(self) -> None:
        """Makes the indexes that are an option; four seconds for a million entries."""
        with self.transaction():
            for name, columns in _INDEXES.items():
                self.execute(f"CREATE INDEX IF NOT EXISTS {name} ON Dict ({columns})")


def damaged(path: Path, key: object, reason: object) -> StorageError:
    """Returns the error for an entry that nobody can have written properly."""
    return StorageError(f"damaged entry in the shelf {str(path)!r}, key {_short(key)}: {reason}")


def _short(key: object) -> str:
    text = ascii(key)
    return text if len(text) <= 120 else text[:117] + "..."
