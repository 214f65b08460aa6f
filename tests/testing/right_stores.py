"""A right store that is durable and shared, in few lines; most wrong stores break a line of it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager

from salmon_state.storage import (
    Change,
    Record,
    Sender,
    StateStorage,
    ascii_key,
    from_microseconds,
    parse_key,
)
from salmon_state.stores.encoding import decode_state, encode_state


class TableStorage(StateStorage):
    """One table in one SQLite file, and one connection for each transaction."""

    def __init__(self, path: str, *, protect: bool = False) -> None:
        super().__init__(protect=protect)
        self.path = path
        self._thread = threading.local()
        with self._exclusive():
            self._execute("CREATE TABLE IF NOT EXISTS states (key PRIMARY KEY, state, updated_at)")

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        if getattr(self._thread, "connection", None) is not None:
            yield
            return
        with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._thread.connection = connection
            try:
                yield
                connection.execute("COMMIT")
            finally:
                self._thread.connection = None

    def _exclusive(self) -> AbstractContextManager[None]:
        return self._exclusively()

    def _execute(self, statement: str, *values: object) -> list[tuple[str, str, int | None]]:
        with self._exclusive():
            return list(self._thread.connection.execute(statement, values))

    def _key(self, module: str, sender: Sender) -> str:
        return ascii_key(module, sender)

    def _read(self, module: str, sender: Sender) -> str | None:
        rows = self._execute("SELECT state FROM states WHERE key = ?", self._key(module, sender))
        return decode_state(rows[0][0]) if rows else None

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        everything = self._scan(None, None, None)
        return {record.module: record.state for record in everything if record.sender == sender}

    def _write(self, changes: Iterable[Change]) -> None:
        with self._exclusive():
            for module, sender, state, updated_at in changes:
                key = self._key(module, sender)
                if state is None:
                    self._execute("DELETE FROM states WHERE key = ?", key)
                else:
                    self._execute(
                        "REPLACE INTO states VALUES (?, ?, ?)", key, encode_state(state), updated_at
                    )

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        last = ""
        page = "SELECT * FROM states WHERE key > ? ORDER BY key LIMIT 500"
        while rows := self._execute(page, last):
            for last, text, updated_at in rows:
                record = Record(*parse_key(last), decode_state(text), from_microseconds(updated_at))
                if (
                    module in (None, record.module)
                    and sender in (None, record.sender)
                    and state in (None, record.state)
                ):
                    yield record

    def _wipe(self) -> None:
        self._execute("DELETE FROM states")

    def _place(self) -> str:
        return self.path
