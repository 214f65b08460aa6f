"""The file of a shelf: that of Python 3.13's ``dbm.sqlite3``, on every Python, with strings in it.

``dbm.gnu``, ``dbm.ndbm`` and ``dbm.dumb`` were rejected: a SIGKILL in mid-write damages each of
them, and which one a Python has is a matter of luck. SQLite is in all of them and survives it.
"""

from __future__ import annotations

import math
import pickle
import re
import shelve
import sqlite3
from collections.abc import Iterator, MutableMapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

__all__ = [
    "ShelfFile",
    "StringShelf",
    "database_tables",
    "is_database",
    "pickle_string",
    "unpickle_string",
]

_CREATE = "CREATE TABLE IF NOT EXISTS Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)"
# Not REPLACE as in dbm.sqlite3: that writes both B-trees anew for each change.
_STORE = (
    "INSERT INTO Dict (key, value) VALUES (?, ?) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
_PAGE = (
    "SELECT key, value, length(key) + length(value) FROM Dict WHERE key > ? ORDER BY key LIMIT 500"
)
_PAGE_BYTES = 1 << 20

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
_CREATE_INDEX = f"CREATE INDEX IF NOT EXISTS Senders ON Dict ({_INDEXED})"
_OF_SENDER = (
    f"SELECT key, value FROM Dict WHERE {_INDEXED} IN (substr(?1, 1, 512), X'') "  # noqa: S608
    "AND substr(key, -length(?2)) = ?2"
)

_PROTOCOL = 4  # fixed, so that an older Python reads what a newer one wrote

# A pickled str as protocols 1 to 5 write it: [PROTO] [FRAME] BINUNICODE with its length, the
# text, [MEMOIZE or BINPUT 0], STOP.
_PICKLED = re.compile(
    rb"(?:\x80[\x02-\x05])?(?:\x95.{8})?(?:\x8c(.)|X(.{4})|\x8d(.{8}))", flags=re.DOTALL
)
_ENDINGS = (b"\x94.", b"q\x00.", b".")


def pickle_string(text: str) -> bytes:
    """Returns a text as a shelf holds it."""
    return pickle.dumps(text, _PROTOCOL)


def unpickle_string(pickled: object) -> str:
    """Returns the text of a pickled ``str``; nothing else is accepted, and nothing is executed.

    No Unpickler runs, not even one whose ``find_class`` refuses: it would still obey a few bytes
    that ask for gigabytes of memory.

    Raises:
        ValueError: The bytes are anything but one whole pickled ``str``.
    """
    header = _PICKLED.match(pickled) if isinstance(pickled, bytes) else None
    if not isinstance(pickled, bytes) or header is None or header.lastindex is None:
        raise ValueError("its value is not a pickled str")
    start = header.end()
    end = start + int.from_bytes(header[header.lastindex], "little")
    if pickled[end:] not in _ENDINGS:
        raise ValueError("its value is cut off or has something behind the pickled str")
    return pickled[start:end].decode("utf-8", "surrogatepass")


class StringShelf(shelve.Shelf[str]):
    """A shelf of strings that cannot be made to run code; ``dict`` is its file."""

    dict: ShelfFile

    def __init__(self, file: ShelfFile) -> None:
        super().__init__(file, protocol=_PROTOCOL, keyencoding="ascii")

    def __getitem__(self, key: str) -> str:
        return unpickle_string(self.dict[key.encode("ascii")])


class ShelfFile(MutableMapping[bytes, bytes]):
    """A mapping in one table of an SQLite file, as Python 3.13's ``dbm.sqlite3`` has it.

    What is written outside `transaction` is durable when the call returns, and what is written
    inside when it ends: it survives SIGKILL and power loss. Not safe under threads.

    Args:
        path: An existing file, empty or an SQLite database. It is never created here: a file that
            somebody removes must not come back empty.
        timeout: Seconds to wait for a lock of another process.
        journal: SQLite's journal mode; ``DELETE`` for a file that will be renamed.

    Raises:
        sqlite3.Error: As every method; ``OperationalError`` if it cannot be used now.
    """

    def __init__(self, path: Path, timeout: float, *, journal: str = "WAL") -> None:
        self._connection = _connect(path, timeout)
        try:
            self._execute("PRAGMA synchronous = FULL")
            self._execute("PRAGMA trusted_schema = OFF")
            self._execute(f"PRAGMA journal_mode = {journal}")
        except BaseException:
            self.close()
            raise

    def __getitem__(self, key: bytes) -> bytes:
        row = self._execute("SELECT value FROM Dict WHERE key = ?", key).fetchone()
        if row is None:
            raise KeyError(key)
        value: bytes = row[0]
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._execute(_STORE, key, value)

    def __delitem__(self, key: bytes) -> None:
        if not self._execute("DELETE FROM Dict WHERE key = ?", key).rowcount:
            raise KeyError(key)

    def __iter__(self) -> Iterator[bytes]:
        return (key for key, _ in self.rows())

    def __len__(self) -> int:
        count: int = self._execute("SELECT count(*) FROM Dict").fetchone()[0]
        return count

    def clear(self) -> None:
        """Removes every entry."""
        self._execute("DELETE FROM Dict")

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def page(self, after: bytes | None = None) -> list[tuple[bytes, bytes]]:
        """Returns the entries whose keys follow one, in order; empty if there are no more.

        At most 500, and no more than 1 MiB if more than one: a sender may have megabytes. Between
        two pages no transaction is open, which would keep SQLite from emptying its WAL. The order
        is that of the keys and not of the rowids, which change when ``dbm.sqlite3`` writes.
        """
        rows, size = [], 0
        # Below every blob come SQLite's numbers and texts. They are not keys; they must show up.
        with closing(self._execute(_PAGE, -math.inf if after is None else after)) as cursor:
            for key, value, length in cursor:
                rows.append((key, value))
                size += length
                if size > _PAGE_BYTES:
                    break
        return rows

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yields all entries, a page at a time."""
        after = None
        while rows := self.page(after):
            yield from rows
            after = rows[-1][0]

    def rows_of(self, sender: str | None) -> list[tuple[bytes, bytes]]:
        """Returns the entries of a sender, all of one moment; maybe others whose keys end alike."""
        end = f"{sender!a}]".encode("ascii")
        return self._execute(_OF_SENDER, end, b", " + end).fetchall()

    def create(self) -> None:
        """Creates the table unless it is there."""
        self._execute(_CREATE)

    def index_senders(self) -> None:
        """Creates the index of senders unless it is there; a second for a million entries."""
        self._execute(_CREATE_INDEX)

    def plan_moves(self, moves: dict[bytes, bytes]) -> None:
        """Notes, with the current transaction, which files are yet to be renamed into what."""
        self._execute("CREATE TABLE Moves (old BLOB, new BLOB)")
        self._connection.executemany("INSERT INTO Moves VALUES (?, ?)", moves.items())

    def planned_moves(self) -> dict[bytes, bytes]:
        """Returns what `plan_moves` noted."""
        if not self._execute("SELECT 1 FROM sqlite_master WHERE name = 'Moves'").fetchone():
            return {}
        return dict(self._execute("SELECT old, new FROM Moves").fetchall())

    def forget_moves(self) -> None:
        """Notes that all of them are done."""
        self._execute("DROP TABLE IF EXISTS Moves")

    def copy_to(self, path: Path) -> None:
        """Copies the whole file into an existing empty one."""
        with closing(_connect(path, 0)) as copy:
            self._connection.backup(copy)

    @property
    def in_transaction(self) -> bool:
        """Whether a `transaction` is open."""
        return self._connection.in_transaction

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Makes all that is read and written inside one step: wholly done at the end, or not."""
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself rolls back some errors
                self._execute("ROLLBACK")
            raise

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)


def is_database(path: Path) -> bool:
    """Returns whether a file, which exists and is not empty, is an SQLite database."""
    try:
        return database_tables(path, 0) is not None
    except sqlite3.OperationalError:
        return True  # locked, for one; whoever goes on to use it meets the error again


def database_tables(path: Path, timeout: float) -> set[str] | None:
    """Returns the names of the tables in a file; ``None`` if it is no SQLite database.

    SQLite is asked. To open a file that this process already has open as a database and to close
    it again would drop all of SQLite's locks on it, by the rules of POSIX.

    Raises:
        sqlite3.OperationalError: It cannot be read now.
    """
    try:
        with closing(_connect(path, timeout)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return None
    return {row[0] for row in rows}


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    uri = f"file://{quote_from_bytes(bytes(path))}?mode=rw"
    return sqlite3.connect(
        uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
    )
