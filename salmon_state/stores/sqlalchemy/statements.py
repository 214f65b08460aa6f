"""The statements about the rows of a sender, built by SQLAlchemy and compiled once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from hashlib import sha256
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql.dml import Insert

from salmon_state.entries import ABSENT, ANYTHING, CHECK, EVERY, STATE, Kind, Seen, Write
from salmon_state.keys import Sender
from salmon_state.stores.encoding import encode_key, encode_state, name_digest, sender_digest
from salmon_state.stores.sqlalchemy.databases.base import Database, Step

__all__ = [
    "Form",
    "Parameters",
    "RowLocks",
    "RowStatements",
    "Statement",
    "TableStatements",
    "WriteStatement",
    "form_of",
    "parameter",
    "statements_of",
]

Parameters = tuple[Any, ...]

_UNSEEN = Seen()

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


_form = lru_cache(maxsize=None)(Form)


def form_of(write: Write) -> Form:
    """Returns the form of a write."""
    kind, _, name, value, _, expect = write
    if value is CHECK or (value is None and expect is ABSENT):
        return _form("check", kind)
    if name is EVERY:
        return _form("every", kind, value is None)
    if isinstance(expect, Seen):
        at = None if expect.at is None else expect.at is not ANYTHING
        return _form("change", kind, value is None, True, expect.value is not None, at)
    if value is None:
        return _form("remove", kind, True)
    return _form("put" if expect is ANYTHING else "insert", kind, False, expect is ABSENT)


class RowLocks:
    """Who may write a sender's rows: many at once, each some of them, or one who moves them all.

    `set_all` must move every row that is there when it happens, and nobody may read one of them as
    it was after a new one has come that is not moved. A statement that goes from row to row finds
    those that were changed meanwhile and misses those that were made, unless it locks rows that do
    not exist.

    MariaDB locks gaps between rows, in a transaction that asks for it. PostgreSQL does not: there,
    whoever writes rows of a sender shares an advisory lock of that sender with all others who do.
    It costs no round trip, as the statement that writes takes it. Whoever moves them all has the
    lock alone, before the statement begins that looks for them. As a server has no room for the
    locks of many thousand senders, whoever writes the rows of that many takes another one, which
    everybody shares who moves all rows of anybody. They end with the transaction that has them.

    Args:
        database: The kind of database; where it needs no such locks, nobody asks for one.
        space: What two stores agree on if they have the same table.
    """

    def __init__(self, database: Database, space: bytes) -> None:
        self._alone = database.lock_alone
        self._shared = database.lock_shared
        name = sha256(b"rows of " + space).digest()
        self.of_all = int.from_bytes(name[:8], "big", signed=True)
        """The number of the lock of whoever writes the rows of many senders."""

    def of(self, digest: bytes) -> int:
        """Returns the number of the lock of a sender's rows."""
        return self.of_all ^ int.from_bytes(digest[:8], "big", signed=True)

    def lock_many(self) -> Step:
        """Returns what waits until nobody moves all rows of a sender; then all may be written."""
        return f"SELECT {self._alone}", [(self.of_all,)]

    def lock_senders(self, digests: Sequence[bytes]) -> Step:
        """Returns what waits until nobody writes a row of some senders; then all may be moved.

        Before any other lock, and until nobody writes the rows of many senders either.
        """
        locks = [self._shared, *[self._alone] * len(digests)]  # from left to right
        return f"SELECT {', '.join(locks)}", [(self.of_all, *map(self.of, digests))]


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
            self._kind = [table.c.kind == parameter("kind")]
        self._all = [self._sender == parameter("sender"), *self._kind]
        self._one = [*self._all, self._name == parameter("name")]

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
        self._lock = database.sharing(parameter("rows"))
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
        where = [self._sender == parameter("sender")]
        where += [self._table.c.kind == number] if self._kind else []
        where += [] if every else [self._name == parameter("name")]
        columns = (number, self._sender, self._name, self._key, *values, self._at)
        return sa.select(*columns).where(*where)

    # ---------------------------------------------------------------- writing

    def write(
        self, write: Write, locks: RowLocks, lock: int | None = None, deadline: object = None
    ) -> Parameters:
        """Returns what it takes to make a write: values for all of `_WRITTEN`.

        Args:
            write: The write.
            locks: The locks of the store's rows.
            lock: The number of the lock to take, if it is not that of the sender's rows.
            deadline: Until when it may be made; see `Database.deadline`.
        """
        kind, sender, name, value, at, expect = write
        digest = sender_digest(sender)
        stored: Any = None if value is CHECK else value
        seen: Any
        seen, seen_at = expect if isinstance(expect, Seen) else _UNSEEN
        if kind is STATE:
            stored = None if stored is None else encode_state(stored)
            seen = None if seen is None else encode_state(seen)
        return (
            digest,
            None if name is EVERY else name_digest(name),
            int(kind),
            None if name is EVERY or isinstance(expect, Seen) else encode_key(name, sender),
            stored,
            at,
            lock if lock is not None or self._lock is None else locks.of(digest),
            seen,
            seen_at,
            deadline,
        )

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
            guard.append(self._database.in_time(parameter("deadline")))
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
        values = {self._value.name: parameter("value"), self._at.name: parameter("at")}
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
            column: parameter(name) for column, name in names.items() if column in self._table.c
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
        value = [self._value == parameter("seen_value")] if form.value else []
        if form.at is None:
            return [*value, self._at.is_(None)]
        return [*value, self._at == parameter("seen_at")] if form.at else value


def parameter(name: str) -> sa.BindParameter[Any]:
    """Returns a parameter of a statement."""
    return sa.bindparam(name)
