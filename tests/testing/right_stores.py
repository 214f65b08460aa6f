"""A right store of the four required hooks and nothing else, durable and shared."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

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
from salmon_state.errors import Overtaken
from salmon_state.keys import Sender, parse_key
from salmon_state.storage import StateStorage
from salmon_state.stores.encoding import decode_state, encode_state

PAGE = 100


class TableStorage(StateStorage):
    """One table in one SQLite file, and one connection for each transaction.

    It proves the defaults of all other hooks; and most wrong stores break one of its lines.
    """

    def __init__(self, path: str, *, protect: bool = False) -> None:
        super().__init__(protect=protect)
        self.path = path
        self._execute(
            "CREATE TABLE IF NOT EXISTS entries"
            " (kind, sender, name, value, at, PRIMARY KEY (kind, sender, name))"
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")  # it need not outlive the machine
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

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
            _entry(*row) for row in connection.execute(f"SELECT * FROM entries {where}", values)
        ]

    # ---------------------------------------------------------------- hooks

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        with self._transaction() as connection:
            return [e for kind, name in wants for e in self._select(connection, kind, sender, name)]

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        first = "at" if kind.due and where.before is not None else "kind"
        rows = self._execute(
            f"SELECT * FROM entries WHERE kind = ? AND ({first}, sender, name) > (?, ?, ?)"
            f" ORDER BY {first}, sender, name LIMIT {PAGE}",
            *(kind, *(after or (-1, "", ""))),
        )
        entries = [entry for entry in (_entry(*row) for row in rows) if where.matches(entry)]
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


def _entry(number: int, sender: str, name: str, value: Any, at: int | None) -> Entry:
    its_name, its_sender = parse_key(f"[{name}, {sender}]")
    kind = Kind(number)
    return Entry(
        kind, its_sender, its_name, decode_state(value) if kind is Kind.STATE else value, at
    )
