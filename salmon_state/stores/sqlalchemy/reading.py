"""Reading entries: one, those of a sender, and page by page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from salmon_state.entries import EVERY, Entry, Kind, Page, Want, Where
from salmon_state.keys import Sender
from salmon_state.stores.encoding import decode_row, name_digest, sender_digest
from salmon_state.stores.sqlalchemy.databases.base import Database
from salmon_state.stores.sqlalchemy.pool import Pool
from salmon_state.stores.sqlalchemy.row_locks import RowLocks
from salmon_state.stores.sqlalchemy.schema import STATE_INDEXES
from salmon_state.stores.sqlalchemy.statements import Parameters, RowStatements, Statement

__all__ = ["Reader"]

_KINDS = {int(kind): kind for kind in Kind}
_FIRST_PAGE, _PAGE = 100, 1_000
"""How many rows a page goes through at most, whether they match or not; first a few, as many who
ask look at no more."""
_LONG = 1_000_000
"""After how many characters and bytes of what is read alone a page ends."""
_BATCH = 5_000
"""How many rows a statement goes through at most, whether they match or not."""


class Reader:
    """What a store asks of its two tables.

    Args:
        tables: Those of the states and of the entries of all other kinds.
        database: Which kind of database they are in.
        pool: Its connections.
        space: What two stores agree on if they have the same tables, and with them their locks.
        indexes: Whether there are indexes of the states.
    """

    def __init__(
        self,
        tables: tuple[sa.Table, sa.Table],
        database: Database,
        pool: Pool,
        space: bytes,
        *,
        indexes: bool,
    ) -> None:
        self.database, self.pool, self.space = database, pool, space
        self.locks = RowLocks(database, space)
        self.states, self.entries = (
            RowStatements(table, database, pool.dialect, self.locks) for table in tables
        )
        self._indexes = indexes
        self._by_state = database.names[0] in STATE_INDEXES
        self._fetch_one = database.fetch_one
        self._fetch_all = database.fetch_all

    def rows(self, kind: Kind) -> RowStatements:
        """Returns what is said about the rows of a kind."""
        return self.states if kind is Kind.STATE else self.entries

    def find(self, driver: Any, kind: Kind, sender: Sender, name: str) -> Any:
        """Returns the row with the value of an entry, or ``None``; an operation for `Pool.run`."""
        rows = self.rows(kind)
        return self._fetch_one(driver, rows.get.sql, rows.get.bind(rows.place(kind, sender, name)))

    def load(self, driver: Any, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        """Returns what is wanted of a sender, all of one moment; an operation for `Pool.run`."""
        sql, parameters = self.wanted(sender, wants)
        return self.found(self._fetch_all(driver, sql, parameters), wants)

    def wanted(self, sender: Sender, wants: Sequence[Want]) -> tuple[str, Parameters]:
        """Returns the one statement that reads what is wanted; `found` understands its rows."""
        if _are_states(wants):
            return self.states.get_sender.sql, (sender_digest(sender),)
        values: dict[str, Any] = {"sender": sender_digest(sender)}
        for number, (_, name) in enumerate(wants):
            if name is not EVERY:
                values[f"name{number}"] = name_digest(name)
        statement = self._union(tuple((kind, name is not EVERY) for kind, name in wants))
        return statement.sql, statement.bind(values)

    @lru_cache(maxsize=64)  # noqa: B019 - a store has one of these
    def _union(self, shape: tuple[tuple[Kind, bool], ...]) -> Statement:
        parts = [
            self.rows(kind).wanted(kind, f"name{number}" if named else None)
            for number, (kind, named) in enumerate(shape)
        ]
        return self.states.compile(parts[0] if len(parts) == 1 else sa.union_all(*parts))

    def found(self, rows: Sequence[Any], wants: Sequence[Want]) -> list[Entry]:
        """Returns what is in the rows that `wanted` selects."""
        if _are_states(wants):
            return [decode_row(Kind.STATE, *row) for row in rows]
        found = []
        for number, sender, name, key, text, data, at in rows:
            kind = _KINDS[number]
            value = text if kind is Kind.STATE else data
            found.append(decode_row(kind, sender, name, key, value, at))
        return found

    def count(self, kind: Kind) -> int:
        """Returns the number of rows."""
        statement = self.rows(kind).count
        values = statement.bind({"kind": int(kind)})
        count: int = self.pool.run(self._fetch_one, statement.sql, values)[0]
        return count

    # ---------------------------------------------------------------- pages

    def page(self, kind: Kind, where: Where, after: Any) -> Page:
        """Returns the next page: of those that are due by a moment in the order of their time.

        Everything else comes in the order of the primary key, or of an index in which what does
        not change has its place: no cursor and no transaction stays open, on any driver, however
        slow the reader is.
        """
        rows = self.rows(kind)
        values = rows.where(kind, where)
        filters = frozenset(values) - {"kind"}
        by_state = self.is_indexed(kind, where) and where.value is not None and self._by_state
        by_time = not by_state and where.before is not None
        by_time = by_time and (kind.due or self.is_indexed(kind, where))
        statement = rows.page(
            filters=filters, by_time=by_time, by_state=by_state, first=after is None
        )
        size = _FIRST_PAGE if after is None else _PAGE
        values |= {"size": size, **(after or {})}
        entries: list[Entry] = []
        long = 0
        found = self.pool.run(self._fetch_all, statement.sql, statement.bind(values))
        for sender, name, matches, key, value, at in found:
            if not matches:
                continue
            if key is None or value is None:
                row = self._read_long(rows, kind, sender, name)
                if row is None:
                    continue
                *_, key, value, at = row
                long += len(key) + len(value)
            entry = decode_row(kind, sender, name, key, value, at)
            if where.matches(entry):  # what is long was read later
                entries.append(entry)
            if long > _LONG:
                return Page(entries, rows.position("after", (at, sender, name)))
        if len(found) < size:
            return Page(entries, None)
        sender, name, *_, at = found[-1]
        return Page(entries, rows.position("after", (at, sender, name)))

    def is_indexed(self, kind: Kind, where: Where) -> bool:
        """Returns whether an index of the states finds what is looked for."""
        if not self._indexes or kind is not Kind.STATE or where.sender is not EVERY:
            return False
        return where.before is not None or (where.value is not None and self._by_state)

    def _read_long(self, rows: RowStatements, kind: Kind, sender: bytes, name: bytes) -> Any:
        """Returns a row whose key or value is long; it may be gone by now."""
        values = {"kind": int(kind), "sender": sender, "name": name}
        return self.pool.run(self._fetch_one, rows.get_row.sql, rows.get_row.bind(values))

    def batch_end(self, kind: Kind, after: Any) -> tuple[Any, ...] | None:
        """Returns where the next batch of rows ends, or ``None`` if there are no more."""
        statement = self.rows(kind).batch_end
        values = {**after, "kind": int(kind), "size": _BATCH}
        row = self.pool.run(self._fetch_one, statement.sql, statement.bind(values))
        return None if row is None else (None, *row)


def _are_states(wants: Sequence[Want]) -> bool:
    return len(wants) == 1 and wants[0] == (Kind.STATE, EVERY)
