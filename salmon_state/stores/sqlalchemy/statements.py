"""The statements about the rows of a sender, built by SQLAlchemy and compiled once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql.dml import Insert

from salmon_state.entries import STATE, Kind
from salmon_state.keys import Sender
from salmon_state.stores.encoding import name_digest, sender_digest
from salmon_state.stores.sqlalchemy.database import Database

__all__ = [
    "Form",
    "Parameters",
    "RowStatements",
    "Statement",
    "TableStatements",
    "WriteStatement",
    "statements_of",
]

Parameters = tuple[Any, ...]

AnyStatements = TypeVar("AnyStatements", bound="TableStatements")


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
"""The parameters of a `WriteStatement`, in the order in which they are given; see `Tables`."""


class WriteStatement:
    """The text of a statement that makes a write.

    Each mail makes some: its parameters are picked by their places, in a tenth of the time that
    it takes by their names.

    Attributes:
        sql: The text.
        bind: Returns the parameters, from those of `_WRITTEN`.
    """

    __slots__ = ("bind", "sql")

    def __init__(self, clause: sa.ClauseElement, dialect: sa.Dialect) -> None:
        compiled: Any = clause.compile(dialect=dialect)
        self.sql = str(compiled)
        first, *others = (_WRITTEN.index(name) for name in compiled.positiontup)
        self.bind: Callable[[Parameters], Parameters] = (
            itemgetter(first, *others) if others else itemgetter(slice(first, first + 1))
        )


class Form(NamedTuple):
    """What writes have in common that one statement makes, with other values for each."""

    what: str
    """``check``, ``every``, ``put``, ``insert``, ``change`` or ``remove``."""
    kind: Kind
    remove: bool = False
    condition: bool = False
    value: bool = False
    """Whether the value must be the expected one."""
    at: bool | None = False
    """Whether the time must be; ``None`` if there must be none."""


class TableStatements:
    """What is said to one database about one table.

    Compiled once, because compiling costs more than running; given to the driver's cursor as text,
    because SQLAlchemy's own execution costs eight times what SQLite needs to find a row.

    Args:
        table: The table of the states, or that of all other kinds.
        database: Which kind of database it is in.
        dialect: With parameters by position, which cost the drivers least.
    """

    def __init__(self, table: sa.Table, database: Database, dialect: sa.Dialect) -> None:
        self._table = table
        self._database = database
        self._dialect = dialect
        *_, self._name, self._key, self._value, self._at = table.c
        self._sender = table.c.sender_digest
        self._kind: list[sa.ColumnElement[bool]] = []
        if "kind" in table.c:
            self._kind = [table.c.kind == sa.bindparam("kind")]
        self._all = [self._sender == sa.bindparam("sender"), *self._kind]
        self._one = [*self._all, self._name == sa.bindparam("name")]

    def compile(self, clause: sa.ClauseElement) -> Statement:
        """Returns a statement that may be run often."""
        return Statement(clause, self._dialect)


def statements_of(
    kind: type[AnyStatements], table: sa.Table, database: Database, dialect: sa.Dialect
) -> AnyStatements:
    """Returns the statements about a table, which stores with equal tables share.

    Args:
        kind: Which ones.
        table: As for `TableStatements`.
        database: Likewise.
        dialect: Of the engine that the store was given.
    """
    style = "qmark" if dialect.paramstyle == "qmark" else "format"
    key = (kind, table.schema, table.name, *table.c.keys(), database.names, type(dialect), style)
    made: AnyStatements | None = _made.get(key)
    if made is None:
        if len(_made) == _MOST:
            _made.clear()
        positional: Any = type(dialect)
        made = _made[key] = kind(table, database, positional(paramstyle=style))
    return made


_made: dict[Any, Any] = {}
_MOST = 100
"""How many are kept: a process has few, unless each of its stores has a table of its own."""


class RowStatements(TableStatements):
    """What is said about the rows of a sender; arguments as for `TableStatements`."""

    def __init__(self, table: sa.Table, database: Database, dialect: sa.Dialect) -> None:
        super().__init__(table, database, dialect)
        self.writing = cache(self._writing)  # which go with it, as one of the class would not
        self.condition = cache(self._condition)
        self._lock = database.sharing(sa.bindparam("rows"))
        row = sa.select(self._sender, self._name, self._key, self._value, self._at)
        self.get = self.compile(sa.select(self._value).where(*self._one))
        self.get_row = self.compile(row.where(*self._one))
        self.get_sender = self.compile(row.where(*self._all))

    # ---------------------------------------------------------------- reading

    def place(self, kind: Kind, sender: Sender, name: str) -> dict[str, Any]:
        """Returns what finds one row, by the names of the parameters."""
        return {"sender": sender_digest(sender), "name": name_digest(name), "kind": int(kind)}

    def wanted(self, kind: Kind, *, every: bool) -> sa.Select[Any]:
        """Selects what somebody wants to read of a sender, with text and bytes in two columns.

        Its parameters are the sender and, unless every entry is wanted, the name.
        """
        nothing = sa.cast(sa.null(), sa.LargeBinary if kind is STATE else sa.Text)
        values = (self._value, nothing) if kind is STATE else (nothing, self._value)
        number: sa.ColumnElement[Any] = sa.literal_column(str(int(kind)))
        where = [self._sender == sa.bindparam("sender")]
        where += [self._table.c.kind == number] if self._kind else []
        where += [] if every else [self._name == sa.bindparam("name")]
        columns = (number, self._sender, self._name, self._key, *values, self._at)
        return sa.select(*columns).where(*where)

    # ---------------------------------------------------------------- writing

    def _writing(
        self, form: Form, *, timed: bool = False, alone: bool = False, checked: bool = False
    ) -> WriteStatement:
        """Returns the statement that makes writes of a form.

        Args:
            form: Any but that of a check.
            timed: Whether it fails after a deadline.
            alone: Whether its transaction does nothing else. What changes one row then needs no
                lock: whoever moves all rows of the sender waits for that one, and this for nothing
                of his but a row.
            checked: Whether it must end with a WHERE, to which a `condition` is added.
        """
        guard = []
        if self._lock is not None and not (alone and form.what == "change"):
            guard.append(self._lock)
        if timed:  # looked at when the lock is won
            guard.append(self._database.in_time(sa.bindparam("deadline")))
        if form.what == "insert" and checked:
            return WriteStatement(self._insert_where_missing(), self._dialect)
        return WriteStatement(self._clause(form, guard), self._dialect)

    def _clause(self, form: Form, guard: list[sa.ColumnElement[bool]]) -> sa.ClauseElement:
        if form.what == "put":
            return self._database.upsert(self._insert(guard))
        if form.what == "insert":
            return self._database.insert_missing(self._insert(guard))
        where = self._all if form.what == "every" else [*self._one, *self._seen(form), *guard]
        if form.remove:
            return self._table.delete().where(*where)
        values: dict[str, Any] = {
            self._value.name: sa.bindparam("value"),
            self._at.name: sa.bindparam("at"),
        }
        return self._table.update().where(*where).values(values)

    def _insert(self, guard: list[sa.ColumnElement[bool]]) -> Insert:
        values = self._values()
        if guard:
            values[self._at.name] = sa.case((sa.and_(*guard), values[self._at.name]))
        return self._database.insert(self._table).values(values)  # type: ignore[no-any-return]

    def _insert_where_missing(self) -> Insert:
        values = self._values()
        there = sa.exists(sa.literal_column("1")).where(*self._one)
        return self._table.insert().from_select(
            [*values], sa.select(*values.values()).where(~there)
        )

    def _values(self) -> dict[str, sa.ColumnElement[Any]]:
        names = {"sender_digest": "sender", "kind": "kind", self._name.name: "name"}
        names |= {"key": "key", self._value.name: "value"}
        values: dict[str, sa.ColumnElement[Any]] = {
            column: sa.bindparam(name) for column, name in names.items() if column in self._table.c
        }
        return {**values, self._at.name: sa.bindparam("at", type_=sa.BigInteger)}

    def _condition(self, form: Form) -> WriteStatement:
        """Returns what a statement that ends with a WHERE may say besides, to check something.

        Args:
            form: Of what is written if there is the expected row, or if there is none.
        """
        there = sa.exists(sa.literal_column("1")).where(*self._one, *self._seen(form))
        return WriteStatement(~there if form.what == "insert" else there, self._dialect)

    def _seen(self, form: Form) -> list[sa.ColumnElement[bool]]:
        value = [self._value == sa.bindparam("seen_value")] if form.value else []
        if form.at is None:
            return [*value, self._at.is_(None)]
        return [*value, self._at == sa.bindparam("seen_at")] if form.at else value
