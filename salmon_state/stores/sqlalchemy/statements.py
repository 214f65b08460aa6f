"""The statements about the rows of a table, built by SQLAlchemy and compiled once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import Insert

from salmon_state.entries import CHECK, EVERY, Kind, Seen, Where, Write
from salmon_state.keys import Sender
from salmon_state.stores.encoding import (
    LONGEST_READABLE_KEY,
    encode_key,
    encode_value,
    name_digest,
    sender_digest,
)
from salmon_state.stores.sqlalchemy.databases.base import Database
from salmon_state.stores.sqlalchemy.row_locks import RowLocks
from salmon_state.stores.sqlalchemy.schema import STATE_INDEXES

__all__ = ["Parameters", "RowStatements", "Statement", "WriteStatement"]

Parameters = tuple[Any, ...]


_UNSEEN = Seen()


class Statement:
    """The text of a statement, and the order in which its parameters are given."""

    __slots__ = ("_fixed", "_names", "sql")

    def __init__(self, clause: sa.ClauseElement, dialect: sa.Dialect) -> None:
        compiled: Any = clause.compile(dialect=dialect)
        self.sql = str(compiled)
        self._names: list[str] = list(compiled.positiontup or ())
        self._fixed: Mapping[str, Any] = compiled.params

    def bind(self, values: Mapping[str, Any]) -> Parameters:
        """Returns the parameters in the statement's order."""
        return tuple(values.get(name, self._fixed[name]) for name in self._names)


_WRITTEN = (
    *("sender", "name", "kind", "key", "value", "at", "rows", "seen_value", "seen_at"),
    "deadline",
)
"""The parameters of a `WriteStatement`, in the order in which `RowStatements.write` gives them."""


class WriteStatement:
    """The text of a statement that makes a write.

    Each mail makes some: its parameters are picked by their places, in a tenth of the time that
    it takes by their names.

    Attributes:
        sql: The text.
        bind: Returns the parameters, from what `RowStatements.write` returns.
    """

    __slots__ = ("bind", "sql")

    def __init__(self, clause: sa.ClauseElement, dialect: sa.Dialect) -> None:
        compiled: Any = clause.compile(dialect=dialect)
        self.sql = str(compiled)
        first, *others = (_WRITTEN.index(name) for name in compiled.positiontup)
        self.bind: Callable[[Parameters], Parameters] = (
            itemgetter(first, *others) if others else itemgetter(slice(first, first + 1))
        )


class RowStatements:
    """Everything that a store says to one database about the rows of one table.

    Compiled once, because compiling costs more than running; given to the driver's cursor as text,
    because SQLAlchemy's own execution costs eight times what SQLite needs to find a row.

    Args:
        table: The table of the states, or that of all other kinds.
        database: Which kind of database it is in.
        dialect: Of the engine that the store was given.
        locks: The locks of its rows.
    """

    def __init__(
        self, table: sa.Table, database: Database, dialect: sa.Dialect, locks: RowLocks
    ) -> None:
        self._table = table
        self._database = database
        self._locks = locks
        self._dialect = _positional(dialect)
        *_, self._name, self._key, self._value, self._at = table.c
        self._sender = table.c.sender_digest
        self._one = [self._sender == _parameter("sender"), self._name == _parameter("name")]
        self._all = self._one[:1]
        self._kind: list[sa.ColumnElement[bool]] = []
        if "kind" in table.c:
            self._kind = [table.c.kind == _parameter("kind")]
            self._one += self._kind
            self._all += self._kind
        self._lock = database.sharing(_parameter("rows"))
        self.table_name = self._dialect.identifier_preparer.format_table(table)

        row = sa.select(self._sender, self._name, self._key, self._value, self._at)
        self.get = self.compile(sa.select(self._value).where(*self._one))
        self.get_row = self.compile(row.where(*self._one))
        self.get_sender = self.compile(row.where(*self._all))
        self.count = self.compile(sa.select(sa.func.count()).select_from(table).where(*self._kind))

    def compile(self, clause: sa.ClauseElement) -> Statement:
        """Returns a statement that may be run often."""
        return Statement(clause, self._dialect)

    def _writing(self, clause: sa.ClauseElement) -> WriteStatement:
        return WriteStatement(clause, self._dialect)

    # ---------------------------------------------------------------- what they are told

    def place(self, kind: Kind, sender: Sender, name: str) -> dict[str, Any]:
        """Returns what finds one row, by the names of the parameters."""
        return {
            "sender": sender_digest(sender),
            "name": name_digest(name),
            "kind": int(kind),
        }

    def write(self, write: Write, lock: int | None, deadline: object = None) -> Parameters:
        """Returns what it takes to make a write: values for all of `_WRITTEN`.

        Args:
            write: The write.
            lock: The number of the lock to take, if it is not that of the sender's rows.
            deadline: Until when it may be made; see `Database.deadline`.
        """
        kind, sender, name, value, at, expect = write
        digest = sender_digest(sender)
        made = value is not None and value is not CHECK
        seen = expect if isinstance(expect, Seen) else _UNSEEN
        return (
            digest,
            None if name is EVERY else name_digest(name),
            int(kind),
            None if name is EVERY or seen is not _UNSEEN else encode_key(name, sender),
            encode_value(kind, value) if made else None,
            at,
            self._locks.of(digest) if lock is None else lock,
            None if seen.value is None else encode_value(kind, seen.value),
            seen.at,
            deadline,
        )

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

    # ---------------------------------------------------------------- reading

    def wanted(self, kind: Kind, name: str | None) -> sa.Select[Any]:
        """Selects what somebody wants to read of a sender, with text and bytes in two columns.

        Args:
            kind: The kind.
            name: The parameter with the name's digest; ``None`` for all.
        """
        nothing = sa.cast(sa.null(), sa.LargeBinary if kind is Kind.STATE else sa.Text)
        values = (self._value, nothing) if kind is Kind.STATE else (nothing, self._value)
        where = [self._sender == _parameter("sender")]
        where += [self._table.c.kind == sa.literal_column(str(int(kind)))] if self._kind else []
        where += [] if name is None else [self._name == _parameter(name)]
        number: sa.ColumnElement[Any] = sa.literal_column(str(int(kind)))
        columns = (number, self._sender, self._name, self._key, *values, self._at)
        return sa.select(*columns).where(*where)

    @lru_cache(maxsize=64)  # noqa: B019 - a store has two of these
    def page(
        self, *, filters: frozenset[str], by_time: bool, first: bool, by_state: bool = False
    ) -> Statement:
        """Selects the next rows in the order of the primary key, or of their time.

        Those that do not match come as such, with their place alone, so that however few do, no
        statement goes through more rows than a page has. What is long comes as ``None``: a page of
        keys of 5 MB would be gigabytes.

        Args:
            filters: Which of the parameters of `where` there are.
            by_time: The order.
            first: Whether it is the first page; otherwise it says which row was the last one.
            by_state: Whether only rows of a state are looked at, in the order of its index.
        """
        order = [self._name, self._sender] if by_state else self._order(by_time)
        found = {"before"} if by_time else {"sender", "name"} if "sender" in filters else set()
        if by_state:
            found = {"name"}
        matches = sa.and_(sa.true(), *self._filtered(filters - found))
        columns = [
            sa.case((matches & (sa.func.length(column) <= LONGEST_READABLE_KEY), column))
            for column in (self._key, self._value)
        ]
        matching = sa.case((matches, sa.literal_column("1")))
        query = sa.select(self._sender, self._name, matching, *columns, self._at)
        query = query.where(*self._kind, *self._filtered(filters & found))
        if by_state:
            part = STATE_INDEXES[self._dialect.name]
            query = query.where(part(self._value) == part(_parameter("value")))
        if not first:
            query = query.where(self._after(order))
        return self.compile(query.order_by(*order).limit(_parameter("size")))

    @cached_property
    def batch_end(self) -> Statement:
        """Selects the last row of the next batch, whether its rows match or not.

        So that however few match, no statement goes through more rows than a batch has.
        """
        order = self._order(by_time=False)
        batch = sa.select(*order).where(*self._kind, self._after(order))
        rows = batch.order_by(*order).limit(_parameter("size")).subquery()
        # Not max(): PostgreSQL before 18 has none for bytea.
        backwards = [rows.c[column.name].desc() for column in order]
        return self.compile(sa.select(*rows.c).order_by(*backwards).limit(1))

    @cached_property
    def due(self) -> Statement:
        """Selects those that are due, those first that have been so for longest."""
        columns = (self._sender, self._name, self._key, self._value)
        query = sa.select(*columns).where(*self._kind, *self._filtered(frozenset({"before"})))
        return self.compile(query.order_by(*self._order(by_time=True)).limit(_parameter("size")))

    @cached_property
    def postpone(self) -> Statement:
        """Gives a row another time."""
        return self.compile(
            self._table.update().where(*self._one).values({self._at.name: _parameter("until")})
        )

    def _after(self, order: list[sa.Column[Any]]) -> sa.ColumnElement[bool]:
        return self._database.after(order, _bounds(order, "after"))

    def _up_to(self, order: list[sa.Column[Any]]) -> sa.ColumnElement[bool]:
        return self._database.up_to(order, _bounds(order, "last"))

    def _order(self, by_time: bool) -> list[sa.Column[Any]]:
        return [self._at, self._sender, self._name] if by_time else [self._sender, self._name]

    def _filtered(self, filters: frozenset[str]) -> list[sa.ColumnElement[bool]]:
        where: list[sa.ColumnElement[bool]] = []
        if "sender" in filters:
            where.append(self._sender == _parameter("sender"))
        if "name" in filters:
            where.append(self._name == _parameter("name"))
        if "value" in filters:
            where.append(self._value == _parameter("value"))
        if "before" in filters:
            where.append(self._at < _parameter("before"))
        return where

    # ---------------------------------------------------------------- writing

    def _guard(self, *, timed: bool) -> list[sa.ColumnElement[bool]]:
        """Returns what wins a lock, if there is one, and then fails if it is too late."""
        guard = [] if self._lock is None else [self._lock]
        return [*guard, self._database.in_time(_parameter("deadline"))] if timed else guard

    @lru_cache(maxsize=2)  # noqa: B019 - a store has two of these
    def upsert(self, *, timed: bool = False) -> WriteStatement:
        """Makes a row or changes it.

        Args:
            timed: Whether it fails after a deadline.
        """
        return self._writing(self._database.upsert(self._insert(timed=timed)))

    @lru_cache(maxsize=2)  # noqa: B019 - a store has two of these
    def insert_missing(self, *, timed: bool = False) -> WriteStatement:
        """Makes a row that is not there; `timed` as for `upsert`."""
        return self._writing(self._database.insert_missing(self._insert(timed=timed)))

    def _insert(self, *, timed: bool) -> Insert:
        """Inserts a row if its guard lets it."""
        columns = {"sender_digest": "sender", "kind": "kind", self._name.name: "name"}
        columns |= {"key": "key", self._value.name: "value"}
        values: dict[str, Any] = {
            column: _parameter(name) for column, name in columns.items() if column in self._table.c
        }
        at = sa.bindparam("at", type_=sa.BigInteger)
        guard = self._guard(timed=timed)
        values[self._at.name] = sa.case((sa.and_(*guard), at)) if guard else at
        return self._database.insert(self._table).values(values)  # type: ignore[no-any-return]

    @lru_cache(maxsize=32)  # noqa: B019 - a store has two of these
    def change(
        self, *, remove: bool, value: bool, at: bool | None, timed: bool = False
    ) -> WriteStatement:
        """Changes or removes a row.

        Args:
            remove: Whether it goes.
            value: Whether its value must be the expected one.
            at: Whether its time must be; ``None`` if it must have none.
            timed: As for `upsert`.
        """
        where = list(self._one)
        if value:
            where.append(self._value == _parameter("seen_value"))
        if at is None:
            where.append(self._at.is_(None))
        elif at:
            where.append(self._at == _parameter("seen_at"))
        return self._changed(where + self._guard(timed=timed), remove=remove)

    @lru_cache(maxsize=2)  # noqa: B019 - a store has two of these
    def change_all(self, *, remove: bool) -> WriteStatement:
        """Changes or removes all rows of a sender, of one kind if there are several."""
        return self._changed(self._all, remove=remove)

    def _changed(self, where: list[sa.ColumnElement[bool]], *, remove: bool) -> WriteStatement:
        if remove:
            return self._writing(self._table.delete().where(*where))
        values = {self._value.name: _parameter("value"), self._at.name: _parameter("at")}
        return self._writing(self._table.update().where(*where).values(values))

    @lru_cache(maxsize=32)  # noqa: B019 - a store has two of these
    def change_batch(self, *, filters: frozenset[str], remove: bool, alone: int) -> Statement:
        """Changes or removes the rows of a batch that match; they keep their time.

        Args:
            filters: As for `page`.
            remove: Whether they go.
            alone: The number of the lock that nobody else may have meanwhile.
        """
        order = self._order(by_time=False)
        where = [*self._kind, *self._filtered(filters)]
        where += [self._after(order), self._up_to(order)]
        owned = self._database.owning(sa.literal(alone, sa.BigInteger))
        if owned is not None:
            where.append(owned)
        if remove:
            return self.compile(self._table.delete().where(*where))
        values = {self._value.name: _parameter("to_value")}
        return self.compile(self._table.update().where(*where).values(values))


def _bounds(order: list[sa.Column[Any]], which: str) -> list[sa.BindParameter[Any]]:
    """Returns the parameters that `RowStatements.position` fills in."""
    return [sa.bindparam(f"{which}_{column.key}", type_=column.type) for column in order]


def _positional(dialect: sa.Dialect) -> sa.Dialect:
    """Returns the same dialect with parameters by position, which cost the drivers least."""
    paramstyle = "qmark" if dialect.paramstyle == "qmark" else "format"
    kind: Any = type(dialect)
    positional: sa.Dialect = kind(paramstyle=paramstyle)
    return positional


def _parameter(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name)
