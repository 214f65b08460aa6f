"""A right store of the four required hooks and nothing else, durable and shared."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state.entries import (
    ANYTHING,
    CHECK,
    EVERY,
    Entry,
    Kind,
    Page,
    Want,
    Where,
    Write,
    holds,
)
from salmon_state.errors import Overtaken, StorageError, StorageUnavailable
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.keys import Sender, parse_key
from salmon_state.storage import StateStorage
from salmon_state.stores.encoding import decode_state, encode_state
from salmon_state.stores.files import create_private_file
from salmon_state.testing.rows import Rows
from tests.directories import InADirectory

PAGE = 100


class TableStorage(StateStorage, Forkable):
    """One table in one SQLite file, and one connection for each transaction.

    It proves the defaults of all other hooks; and most wrong stores break one of its lines.
    """

    timeout = 60.0

    def __init__(self, path: str, *, protect: bool = False) -> None:
        super().__init__(protect=protect)
        self.path = os.path.abspath(path)
        create_private_file(Path(self.path))
        self._inside = threading.Lock()
        _watch.add(self)
        self._call(
            self._execute,
            "CREATE TABLE IF NOT EXISTS entries"
            " (kind, sender, name, value, at, PRIMARY KEY (kind, sender, name))",
        )

    def before_fork(self) -> None:
        # SQLite would take the locks of another thread's connection for the child's own.
        self._inside.acquire()

    def after_fork(self, *, child: bool) -> None:
        self._inside.release()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._inside, closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=self.timeout, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")  # no test here cuts the power
        return connection

    def _execute(self, statement: str, *values: object) -> list[Any]:
        with self._transaction() as connection:
            return list(connection.execute(statement, values))

    def _text(self, name: Sender) -> str:
        return ascii(name)

    def _where(self, kind: Kind, sender: Sender, name: Any) -> tuple[str, list[object]]:
        if name is EVERY:
            return "WHERE kind = ? AND sender = ?", [kind, self._text(sender)]
        key = [kind, self._text(sender), self._text(name)]
        return "WHERE kind = ? AND sender = ? AND name = ?", key

    def _select(
        self, connection: sqlite3.Connection, kind: Kind, sender: Sender, name: Any
    ) -> list[Entry]:
        where, values = self._where(kind, sender, name)
        return [
            self._entry(row) for row in connection.execute(f"SELECT * FROM entries {where}", values)
        ]

    # ---------------------------------------------------------------- hooks

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        with self._transaction() as connection:
            return [e for kind, name in wants for e in self._select(connection, kind, sender, name)]

    def _entry(self, row: Any) -> Entry:
        return _entry(*row)

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        first = "at" if kind.due and where.before is not None else "kind"
        rows = self._execute(
            f"SELECT * FROM entries WHERE kind = ? AND ({first}, sender, name) > (?, ?, ?)"
            f" ORDER BY {first}, sender, name LIMIT {PAGE}",
            *(kind, *(after or (-1, "", ""))),
        )
        entries = [entry for entry in map(self._entry, rows) if where.matches(entry)]
        if len(rows) < PAGE:
            return Page(entries, None)
        number, sender, name, _, at = rows[-1]
        return Page(entries, (at if first == "at" else number, sender, name))

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        with self._transaction() as connection:
            return [self._write(connection, write) for write in writes]

    def _write(self, connection: sqlite3.Connection, write: Write) -> int:
        kind, sender, name, value, at, expect = write
        if expect is not ANYTHING:
            found = self._select(connection, kind, sender, name)
            if not holds(expect, found[0] if found else None):
                raise Overtaken
        if value is CHECK:
            return 0
        where, key = self._where(kind, sender, name)
        if value is None:
            return connection.execute(f"DELETE FROM entries {where}", key).rowcount
        stored = encode_state(str(value)) if kind is Kind.STATE else value
        if name is EVERY:
            change = f"UPDATE entries SET value = ?, at = ? {where}"
            return connection.execute(change, [stored, at, *key]).rowcount
        connection.execute("REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", [*key, stored, at])
        return 1

    def _wipe(self) -> None:
        self._execute("DELETE FROM entries")

    def _place(self) -> str:
        return self.path

    def _explain(self, error: Exception) -> StorageError:
        if isinstance(error, sqlite3.OperationalError):
            return StorageUnavailable(str(error))
        return super()._explain(error)


class ShortLeases(TableStorage):
    """Whoever was killed in a conversation keeps it for a short time."""

    lease_seconds = 3


class OneProcess(TableStorage):
    """Whoever opens it keeps all other processes out, as some databases do."""

    locks_processes = False

    def __init__(self, path: str, **options: Any) -> None:
        self._opened = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(self._opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._opened)
            raise StorageUnavailable("another process has it open") from None
        super().__init__(path, **options)

    def _close(self) -> None:
        os.close(self._opened)


class TablePlace(InADirectory):
    """Where tests keep a table, and what they can do to it."""

    @pytest.fixture
    def rows(self, place: Path, store: StateStorage) -> Rows:
        def connect() -> sqlite3.Connection:
            return sqlite3.connect(place / "states.db", isolation_level=None)

        def committed() -> set[str]:
            with closing(connect()) as connection:
                return {text for (text,) in connection.execute("SELECT text FROM rows")}

        with closing(connect()) as connection:
            connection.execute("CREATE TABLE rows (text)")
        insert = sa.text("INSERT INTO rows VALUES (:text)")
        return Rows(lambda connection, text: connection.execute(insert, {"text": text}), committed)

    @pytest.fixture
    def damage(self, place: Path) -> Callable[[str, Sender], None]:
        def damage(module: str, sender: Sender) -> None:
            with closing(sqlite3.connect(place / "states.db", isolation_level=None)) as connection:
                connection.execute(
                    "UPDATE entries SET value = 'x y' WHERE sender = ?", [ascii(sender)]
                )

        return damage


def _entry(number: int, sender: str, name: str, value: Any, at: int | None) -> Entry:
    its_name, its_sender = parse_key(f"[{name}, {sender}]")
    kind = Kind(number)
    return Entry(
        kind, its_sender, its_name, decode_state(value) if kind is Kind.STATE else value, at
    )


_watch = ForkWatch()
