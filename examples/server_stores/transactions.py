"""TableStorage: all entries in one table of PostgreSQL, and each mail in one transaction.

The transaction has the sender's lock, which ends with its connection; and the commit is on the same
one, so that nobody commits who has lost it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from salmon_state import StateStorage, StorageError, StorageUnavailable, entries
from salmon_state.backend import UnitOfWork
from salmon_state.entries import EVERY, Entry, Kind, Page, Want, Where, Write
from salmon_state.errors import Overtaken, busy
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.keys import Sender
from salmon_state.stores import encoding
from salmon_state.stores.encoding import name_digest, sender_digest

__all__ = ["TableStorage"]

_TABLE = """
SELECT pg_advisory_xact_lock(7305);  -- two that create it at once would fail each other
CREATE TABLE IF NOT EXISTS entries (kind int, sender bytea, name bytea, key text NOT NULL,
    value bytea NOT NULL, at bigint, PRIMARY KEY (kind, sender, name));
CREATE INDEX IF NOT EXISTS entries_due ON entries (kind, at, sender, name);
"""
_SELECT = "SELECT kind, sender, name, key, value, at FROM entries WHERE "
_INSERT = "INSERT INTO entries VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (kind, sender, name) DO "
_UPDATE = "UPDATE entries SET value = %s, at = %s WHERE"
_DELETE = "DELETE FROM entries WHERE"
_PATIENCE: dict[str, Any] = {"connect_timeout": 5, "options": "-c lock_timeout=5s"}
_PAGE = 100

_watch = ForkWatch()


class TableStorage(StateStorage, Forkable):
    """Keeps entries in the PostgreSQL database that libpq finds by `conninfo`."""

    is_remote = True

    def __init__(self, conninfo: str, *, protect: bool = False) -> None:
        super().__init__(protect=protect)
        self._conninfo = conninfo
        self._idle: list[Any] = []
        self._inside = threading.Lock()
        _watch.add(self)
        with self._transaction() as connection:
            connection.execute(_TABLE)

    def before_fork(self) -> None:
        """Has no other thread take or give back a connection meanwhile."""
        self._inside.acquire()

    def after_fork(self, *, child: bool) -> None:
        """Forgets the parent's connections; psycopg says no good-bye on what is not its own."""
        if child:
            self._idle = []
        self._inside.release()

    def _take(self) -> Any:
        with self._inside:
            if self._idle:
                return self._idle.pop()
        return psycopg.connect(self._conninfo, autocommit=True, **_PATIENCE)

    def _give_back(self, connection: Any) -> None:
        with suppress(psycopg.Error):
            connection.rollback()
        with self._inside:
            if connection.broken or self._closed:
                connection.close()
            else:
                self._idle.append(connection)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        connection = self._take()
        try:
            with connection.transaction():
                yield connection
        finally:
            self._give_back(connection)

    def _close(self) -> None:
        with self._inside:
            while self._idle:
                self._idle.pop().close()

    def _explain(self, error: Exception) -> StorageError:
        away = isinstance(error, psycopg.OperationalError)
        return StorageUnavailable(str(error)) if away else super()._explain(error)

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        found = [_of(kind, sender, name) for kind, name in wants]
        condition = " OR ".join(f"({condition})" for condition, _ in found)
        with self._transaction() as connection:  # one statement sees one moment
            return _select(connection, condition, [v for _, values in found for v in values])

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        due = kind.due and where.before is not None
        order = "at, sender, name" if due else "sender, name"
        condition, values = _of(kind, where.sender, EVERY)
        if after is not None:
            condition += f" AND ({order}) > ({', '.join(['%s'] * len(after))})"
        tail = f" ORDER BY {order} LIMIT {_PAGE}"
        with self._transaction() as connection:
            rows = _select(connection, condition + tail, [*values, *(after or ())])
        found = [entry for entry in rows if where.matches(entry)]
        if len(rows) < _PAGE:
            return Page(found, None)
        digests = sender_digest(rows[-1].sender), name_digest(rows[-1].name)
        return Page(found, (rows[-1].at, *digests) if due else digests)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        with self._transaction() as connection:
            return _make_all(connection, writes)

    def _wipe(self) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM entries")

    def _begin(self) -> UnitOfWork:
        return Mail(self)


class Mail(UnitOfWork):
    """One transaction."""

    _store: TableStorage
    _connection: Any = None

    def enter(self, sender: Sender, timeout: float, wants: Sequence[Want]) -> list[Entry]:
        """Begins it, or goes on for another sender; wins the lock, and then reads."""
        if self._connection is None:
            self._connection = self._store._take()
            self._connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        if sender:
            number = int.from_bytes(sender_digest(sender)[:8], "big", signed=True)
            limit = f"SET LOCAL lock_timeout = {max(1, round(timeout * 1000))}"
            try:
                with self._connection.transaction():  # a savepoint
                    self._connection.execute(limit)
                    self._connection.execute("SELECT pg_advisory_xact_lock(%s)", [number])
                    self._connection.execute("SET LOCAL lock_timeout TO DEFAULT")
            except psycopg.errors.LockNotAvailable:
                raise busy(timeout) from None
        return self._store._load(sender, wants)

    def commit(self, writes: Sequence[Write], *, failed: bool) -> None:
        """Makes the writes where the lock is."""
        _make_all(self._connection, writes)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Gives the connection back, and with it the locks."""
        if self._connection is not None:
            self._store._give_back(self._connection)


def _make_all(connection: Any, writes: Iterable[Write]) -> list[int]:
    # They take turns, because two that have checked what the other one writes would wait for ever.
    connection.execute("SELECT pg_advisory_xact_lock(7305)")
    return [_make(connection, write) for write in writes]


def _make(connection: Any, write: Write) -> int:
    kind, sender, name, value, at, expect = write
    here, place = _of(kind, sender, name)
    stored = b"" if value in (None, entries.CHECK) else encoding.encode_value(kind, value)
    data = stored.encode() if isinstance(stored, str) else stored
    row = [*place, encoding.encode_key(str(name), sender), data, at]
    if expect is entries.ABSENT:  # inserted in any case, to wait for whoever else does
        if not connection.execute(f"{_INSERT} NOTHING", row).rowcount:
            raise Overtaken
        if value in (None, entries.CHECK):
            connection.execute(f"{_DELETE} {here}", place)
        return int(value not in (None, entries.CHECK))
    if isinstance(expect, entries.Seen):
        found = _select(connection, f"{here} FOR UPDATE", place)
        if not found or not entries.holds(expect, found[0]):
            raise Overtaken
    if value is entries.CHECK:
        return 0
    if value is None:
        return int(connection.execute(f"{_DELETE} {here}", place).rowcount)
    if name is EVERY:
        return int(connection.execute(f"{_UPDATE} {here}", [data, at, *place]).rowcount)
    overwrite = "UPDATE SET value = EXCLUDED.value, at = EXCLUDED.at"
    return int(connection.execute(f"{_INSERT} {overwrite}", row).rowcount)


def _of(kind: Kind, sender: Any, name: Any) -> tuple[str, list[Any]]:
    """Returns the condition for an entry, or for EVERY one, and its values."""
    condition = "kind = %s"
    values: list[Any] = [int(kind)]
    if sender is not EVERY:
        condition, values = f"{condition} AND sender = %s", [*values, sender_digest(sender)]
    if name is not EVERY:
        condition, values = f"{condition} AND name = %s", [*values, name_digest(name)]
    return condition, values


def _select(connection: Any, condition: str, values: Sequence[Any]) -> list[Entry]:
    rows = connection.execute(_SELECT + condition, values)
    return [_entry(*row) for row in rows]


def _entry(number: int, sender: bytes, name: bytes, key: str, stored: bytes, at: Any) -> Entry:
    kind = Kind(number)
    value = stored.decode() if kind is Kind.STATE else stored
    return encoding.decode_row(kind, sender, name, key, value, at)
