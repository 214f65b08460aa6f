"""Going through many rows, of whatever sender: page by page, batch by batch, and what is due."""

from __future__ import annotations

from functools import cached_property, lru_cache, partial
from typing import Any

import sqlalchemy as sa

from salmon_state.entries import EVERY, Entry, Kind, Page, Value, Where
from salmon_state.stores.encoding import (
    LONGEST_READABLE_KEY,
    decode_row,
    encode_value,
    name_digest,
    sender_digest,
)
from salmon_state.stores.sqlalchemy.database import Database
from salmon_state.stores.sqlalchemy.schema import STATE_INDEXES
from salmon_state.stores.sqlalchemy.statements import (
    Parameters,
    Statement,
    TableStatements,
    statements_of,
)
from salmon_state.stores.sqlalchemy.tables import Tables

__all__ = ["Pages"]

_FIRST_PAGE, _PAGE = 100, 1_000
"""How many rows a page goes through at most, whether they match or not; first a few, as many who
ask look at no more."""
_FEW = 2_000
"""How many rows are put into an order at most, where an index gives none."""
_LONG = 1_000_000
"""After how many characters and bytes of what is read alone a page ends."""
_BATCH = 5_000
"""How many rows a statement goes through at most, whether they match or not."""
_BEFORE_ALL = (-(2**63), b"", b"")


class PageStatements(TableStatements):
    """What is said about the rows of a table, of whatever sender."""

    def __init__(self, table: sa.Table, database: Database, dialect: sa.Dialect) -> None:
        super().__init__(table, database, dialect)
        self.page = lru_cache(maxsize=64)(self._page)  # as in `RowStatements`
        self.batch_end = lru_cache(maxsize=32)(self._batch_end)
        self.change_batch = lru_cache(maxsize=32)(self._change_batch)

    @cached_property
    def count(self) -> Statement:
        """Selects how many there are."""
        count = sa.select(sa.func.count()).select_from(self._table)
        return self.compile(count.where(*self._kind))

    def where(self, kind: Kind, where: Where) -> dict[str, Any]:
        """Returns what finds the rows of a page; see `page`."""
        values: dict[str, Any] = {"kind": int(kind)}
        if where.sender is not EVERY:
            values["sender"] = sender_digest(where.sender)
        if where.name is not EVERY:
            values["name"] = name_digest(where.name)
        if where.value is not None:
            values["value"] = encode_value(kind, where.value)
        if where.before is not None:
            values["before"] = where.before
        return values

    def position(self, which: str, row: tuple[Any, ...]) -> dict[str, Any]:
        """Returns what says where a page begins or a batch ends.

        Args:
            which: ``after`` or ``last``.
            row: The time of a row and its two digests.
        """
        names = (f"{which}_{column.key}" for column in (self._at, self._sender, self._name))
        return dict(zip(names, row, strict=True))

    def _page(self, *, filters: frozenset[str], by: str, first: bool) -> Statement:
        """Selects the next rows in the order of the primary key, or of an index.

        Those that do not match come as such, with their place alone, so that however few do, no
        statement goes through more rows than a page has. What is long comes as ``None``: a page of
        keys of 5 MB would be gigabytes.

        Args:
            filters: Which of the parameters of `where` there are.
            by: Which order: ``key``, that of the index by ``time`` or ``state``, or ``nothing``:
                then only rows that match come, and it is the only page.
            first: Whether it is the first page; otherwise it says which row was the last one.
        """
        order = self._order(by)
        matches = sa.and_(sa.true(), *self._filtered(filters - _found(by, filters)))
        columns = [
            sa.case((matches & (sa.func.length(column) <= LONGEST_READABLE_KEY), column))
            for column in (self._key, self._value)
        ]
        matching = sa.case((matches, sa.literal_column("1")))
        query = sa.select(self._sender, self._name, matching, *columns, self._at)
        query = query.where(*self._looked_at(by, filters))
        if not first:
            query = query.where(self._after(order))
        return self.compile(query.order_by(*order).limit(sa.bindparam("size")))

    def _batch_end(self, *, filters: frozenset[str], by: str) -> Statement:
        """Selects the last row of the next batch, whether its rows match or not.

        So that however few match, no statement goes through more rows than a batch has.

        Args:
            filters: As for `page`.
            by: So, too.
        """
        order = self._order(by)
        batch = sa.select(*order).where(*self._looked_at(by, filters), self._after(order))
        rows = batch.order_by(*order).limit(sa.bindparam("size")).subquery()
        # Not max(): PostgreSQL before 18 has none for bytea.
        backwards = [rows.c[column.name].desc() for column in order]
        place = (self._at, self._sender, self._name)
        last = [rows.c.get(column.name, sa.null()) for column in place]
        return self.compile(sa.select(*last).order_by(*backwards).limit(1))

    @cached_property
    def due(self) -> Statement:
        """Selects those that are due, those first that have been so for longest."""
        columns = (self._sender, self._name, self._key, self._value)
        query = sa.select(*columns).where(*self._kind, *self._filtered(frozenset({"before"})))
        return self.compile(query.order_by(*self._order("time")).limit(sa.bindparam("size")))

    @cached_property
    def postpone(self) -> Statement:
        """Gives a row another time."""
        return self.compile(
            self._table.update().where(*self._one).values({self._at.name: sa.bindparam("until")})
        )

    def _change_batch(
        self, *, filters: frozenset[str], by: str, remove: bool, alone: int
    ) -> Statement:
        """Changes or removes the rows of a batch that match; they keep their time.

        Args:
            filters: As for `page`.
            by: So, too.
            remove: Whether they go.
            alone: The number of the lock that nobody else may have meanwhile.
        """
        order = self._order(by)
        where = [*self._looked_at(by, filters), self._after(order), self._up_to(order)]
        where += self._filtered(filters - _found(by, filters))
        owned = self._database.owning(sa.literal(alone, sa.BigInteger))
        if owned is not None:
            where.append(owned)
        if remove:
            return self.compile(self._table.delete().where(*where))
        values: dict[str, Any] = {self._value.name: sa.bindparam("to_value")}
        return self.compile(self._table.update().where(*where).values(values))

    def _after(self, order: list[sa.Column[Any]]) -> sa.ColumnElement[bool]:
        return self._database.after(order, _bounds(order, "after"))

    def _up_to(self, order: list[sa.Column[Any]]) -> sa.ColumnElement[bool]:
        return self._database.up_to(order, _bounds(order, "last"))

    def _order(self, by: str) -> list[sa.Column[Any]]:
        orders = {
            "key": [self._sender, self._name],
            "time": [self._at, self._sender, self._name],
            "state": [self._name, self._sender],
            "nothing": [],
        }
        return orders[by]

    def _looked_at(self, by: str, filters: frozenset[str]) -> list[sa.ColumnElement[bool]]:
        """Returns what the rows are that an order leads to, whether they match or not."""
        conditions = [*self._kind, *self._filtered(_found(by, filters))]
        if by == "state":
            part = STATE_INDEXES[self._dialect.name]
            conditions.append(part(self._value) == part(sa.bindparam("value")))
        return conditions

    def _filtered(self, filters: frozenset[str]) -> list[sa.ColumnElement[bool]]:
        conditions = {
            "sender": self._sender == sa.bindparam("sender"),
            "name": self._name == sa.bindparam("name"),
            "value": self._value == sa.bindparam("value"),
            "before": self._at < sa.bindparam("before"),
        }
        return [condition for name, condition in conditions.items() if name in filters]


def _found(by: str, filters: frozenset[str]) -> frozenset[str]:
    """Returns the filters that no row which an order leads to has to be asked about."""
    if by == "key":
        return filters & {"sender", "name"} if "sender" in filters else frozenset()
    return filters & {"time": {"before"}, "state": {"name"}, "nothing": filters}[by]


def _bounds(order: list[sa.Column[Any]], which: str) -> list[sa.BindParameter[Any]]:
    """Returns the parameters that `PageStatements.position` fills in."""
    return [sa.bindparam(f"{which}_{column.key}", type_=column.type) for column in order]


class Pages:
    """What a store asks of its two tables besides what is about one sender.

    Args:
        tables: What it asks about one.
        indexes: Whether there are indexes of the states.
    """

    def __init__(self, tables: Tables, *, indexes: bool) -> None:
        database, pool = tables.database, tables.pool
        self._tables = tables
        self._pool = pool
        self.states, self.entries = (
            statements_of(PageStatements, table, database, pool.dialect) for table in tables.tables
        )
        self._indexes = indexes
        self._by_state = database.names[0] in STATE_INDEXES
        self._fetch_one = database.fetch_one
        self._fetch_all = database.fetch_all

    def _rows(self, kind: Kind) -> PageStatements:
        return self.states if kind is Kind.STATE else self.entries

    def count(self, kind: Kind) -> int:
        """Returns the number of rows."""
        statement = self._rows(kind).count
        count: int = self._one(statement, {"kind": int(kind)})[0]
        return count

    def _one(self, statement: Statement, values: dict[str, Any]) -> Any:
        return self._pool.run(self._fetch_one, statement.sql, statement.bind(values))

    def page(self, kind: Kind, where: Where, after: Any) -> Page:
        """Returns the next page: of those that are due by a moment in the order of their time.

        Everything else comes in the order of the primary key, or of an index in which what does
        not change has its place: no cursor and no transaction stays open, on any driver, however
        slow the reader is.
        """
        if after is None and (few := self.few(kind, where)) is not None:
            return few
        size = _FIRST_PAGE if after is None else _PAGE
        return self._page(kind, where, after, self._order(kind, where), size)

    def _page(self, kind: Kind, where: Where, after: Any, by: str, size: int) -> Page:
        rows = self._rows(kind)
        values = rows.where(kind, where)
        filters = frozenset(values) - {"kind"}
        statement = rows.page(filters=filters, by=by, first=after is None)
        values |= {"size": size, **(after or {})}
        entries: list[Entry] = []
        long = 0
        found = self._pool.run(self._fetch_all, statement.sql, statement.bind(values))
        for sender, name, matches, key, value, at in found:
            if not matches:
                continue
            if key is None or value is None:  # they are long; it may be gone by now
                place = {"kind": int(kind), "sender": sender, "name": name}
                row = self._one(self._tables.rows(kind).get_row, place)
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

    def few(self, kind: Kind, where: Where) -> Page | None:
        """Returns all that match, if an index that gives no order finds but a few.

        What many match is found soon in the order of the primary key, which is that of digests.
        """
        by_state = where.value is not None and not self._by_state
        by_name = where.name is not EVERY and where.value is None and where.before is None
        if not (by_state or by_name) or not self._is_indexed(kind, where):
            return None
        page = self._page(kind, where, None, "nothing", _FEW)
        return page if page.after is None else None

    def _order(self, kind: Kind, where: Where) -> str:
        """Returns in which order a page finds the fewest rows that do not match."""
        indexed = self._is_indexed(kind, where)
        if indexed and where.value is not None and self._by_state:
            return "state"
        return "time" if where.before is not None and (indexed or kind.due) else "key"

    def _is_indexed(self, kind: Kind, where: Where) -> bool:
        return self._indexes and kind is Kind.STATE and where.sender is EVERY

    def sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        """Changes all rows that match, among some thousand at a time; returns how many.

        A single statement over a million rows would hold its locks, and the writers that wait for
        them, for longer than a mail server can wait; and take longer than the timeout.
        """
        rows = self._rows(kind)
        values = rows.where(kind, where)
        filters, by = frozenset(values) - {"kind"}, self._order(kind, where)
        batch_end = rows.batch_end(filters=filters, by=by)
        statement = rows.change_batch(
            filters=filters, by=by, remove=value is None, alone=self._tables.locks.of_all
        )
        if value is not None:
            values["to_value"] = encode_value(kind, value)
        values |= rows.position("after", _BEFORE_ALL)
        total = 0
        while end := self._one(batch_end, {**values, "size": _BATCH}):
            values |= rows.position("last", end)
            total += self._pool.transaction(
                partial(_changed, sql=statement.sql, parameters=statement.bind(values))
            )
            values |= rows.position("after", end)
        return total

    def claim(
        self, cursor: Any, kind: Kind, *, before: int, until: int, limit: int, skip: str
    ) -> list[Entry]:
        """Moves the time of entries that are due, but for those that somebody else has locked.

        Args:
            cursor: In a transaction.
            kind: Of which kind.
            before: The moment before which they are due.
            until: Their new time.
            limit: How many at most.
            skip: What makes a SELECT lock rows and leave out those that are locked.
        """
        rows = self._rows(kind)
        values = {"kind": int(kind), "before": before, "until": until, "size": limit}
        cursor.execute(rows.due.sql + skip, rows.due.bind(values))
        found = cursor.fetchall()
        postpone = rows.postpone
        moved = [postpone.bind({**values, "sender": row[0], "name": row[1]}) for row in found]
        if moved:
            cursor.executemany(postpone.sql, moved)
        return [
            decode_row(kind, sender, name, key, value, until) for sender, name, key, value in found
        ]


def _changed(cursor: Any, sql: str, parameters: Parameters) -> int:
    cursor.execute(sql, parameters)
    count: int = cursor.rowcount
    return count
