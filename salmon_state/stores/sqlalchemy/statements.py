"""The statements of a store, built by SQLAlchemy and compiled once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import Insert

from salmon_state.errors import overtaken
from salmon_state.keys import Sender
from salmon_state.records import Change, Move, Transition
from salmon_state.stores.sqlalchemy.databases import database_of
from salmon_state.stores.sqlalchemy.row_locks import RowLocks
from salmon_state.stores.sqlalchemy.schema import (
    LONGEST_READABLE_KEY,
    encode_key,
    encode_state,
    module_digest,
    sender_digest,
)

__all__ = ["Statements", "moved_whole"]

_Parameters = tuple[Any, ...]

_MANY = 100
"""Of how many senders, at most, a transaction locks the rows one by one."""


class Statement:
    """The text of a statement, and the order in which its parameters are given."""

    __slots__ = ("_fixed", "_names", "sql")

    def __init__(self, clause: sa.ClauseElement, dialect: sa.Dialect) -> None:
        compiled: Any = clause.compile(dialect=dialect)
        self.sql = str(compiled)
        self._names: list[str] = list(compiled.positiontup or ())
        self._fixed: Mapping[str, Any] = compiled.params

    def bind(self, **values: Any) -> _Parameters:
        """Returns the parameters in the statement's order."""
        return tuple(values.get(name, self._fixed[name]) for name in self._names)


class Statements:
    """Everything that a store says to one database about one table.

    Compiled once, because compiling costs more than running; given to the driver's cursor as text,
    because SQLAlchemy's own execution costs eight times what SQLite needs to find a row.

    Args:
        table: The table of the states.
        dialect: Of the engine that the store was given.
        space: As for `RowLocks`.
    """

    def __init__(self, table: sa.Table, dialect: sa.Dialect, space: bytes) -> None:
        database = database_of(dialect)
        self._database = database
        self.locks = RowLocks(database, space)
        self._positional = _positional(dialect)
        column = table.c
        sender, module, state, now, expected = map(
            _parameter, ("sender", "module", "to_state", "now", "expected")
        )
        one = (column.sender_digest == sender, column.module_digest == module)
        shared = database.sharing(_parameter("rows"))
        self._locked = shared is not None
        written = one if shared is None else (*one, shared)
        moved = {"state": state, "updated_at": now}

        self.get = self._compile(sa.select(column.state).where(*one))
        self.get_sender = self._compile(
            sa.select(column.key, column.state).where(column.sender_digest == sender)
        )
        self.get_row = self._compile(
            sa.select(column.key, column.state, column.updated_at).where(*one)
        )
        self.set = self._compile(_locking(database.upsert(table), table, shared))
        self.remove = self._compile(table.delete().where(*written))
        self.insert_missing = self._compile(_locking(database.insert_missing(table), table, shared))
        self.set_expected = self._compile(
            table.update().where(*written, column.state == expected).values(moved)
        )
        self.remove_expected = self._compile(
            table.delete().where(*written, column.state == expected)
        )
        self.set_all = self._compile(
            table.update().where(column.sender_digest == sender).values(moved)
        )
        self.remove_all = self._compile(table.delete().where(column.sender_digest == sender))
        self.count = self._compile(sa.select(sa.func.count()).select_from(table))
        self.table_name = self._positional.identifier_preparer.format_table(table)
        self._table = table

    def _compile(self, clause: sa.ClauseElement) -> Statement:
        return Statement(clause, self._positional)

    def row(
        self,
        module: str,
        sender: Sender,
        state: str | None,
        now: int | None,
        lock: int | None = None,
    ) -> _Parameters:
        """Returns the parameters of `set`, or without a state of `remove`.

        Args:
            module: Of the row.
            sender: Of the row.
            state: What it becomes.
            now: In microseconds since 1970, if known.
            lock: The number of the lock to take, if not that of the sender's rows.
        """
        digest = sender_digest(sender)
        locks = (self.locks.of(digest) if lock is None else lock,) if self._locked else ()
        if state is None:
            return (digest, module_digest(module), *locks)
        key = encode_key(module, sender)
        return (digest, module_digest(module), key, encode_state(state), *locks, now)

    def transition(
        self, transition: Transition, lock: int | None = None
    ) -> tuple[str, _Parameters]:
        """Returns what makes one transition; if it is conditional, it changes 1 row or none."""
        module, sender, state, now, conditional, seen = transition
        if not conditional or (seen is None and state is not None):
            row = self.row(module, sender, state, now, lock)
            if state is None:
                return self.remove.sql, row
            return (self.insert_missing if conditional else self.set).sql, row
        digest = sender_digest(sender)
        values = {
            "sender": digest,
            "module": module_digest(module),
            "rows": self.locks.of(digest) if lock is None else lock,
            "expected": encode_state(seen or ""),
        }
        if state is None:
            return self.remove_expected.sql, self.remove_expected.bind(**values)
        values |= {"to_state": encode_state(state), "now": now}
        return self.set_expected.sql, self.set_expected.bind(**values)

    def move(self, move: Move) -> tuple[str, _Parameters]:
        """Returns what moves all conversations of a sender."""
        sender, state, now = move
        digest = sender_digest(sender)
        if state is None:
            return self.remove_all.sql, (digest,)
        values = {"sender": digest, "to_state": encode_state(state), "now": now}
        return self.set_all.sql, self.set_all.bind(**values)

    def write(
        self, cursor: Any, moves: Collection[Move], transitions: Collection[Transition]
    ) -> int:
        """Makes each sender's moves, then the transitions, within the transaction of a cursor.

        Returns:
            How many rows were changed last.

        Raises:
            ConversationBusy: The state that a transition depends on has changed.
        """
        steps: list[Move | Transition] = sorted([*moves, *transitions], key=_row_order)
        senders = {sender_digest(step.sender) for step in steps}
        lock = None
        if len(senders) > _MANY:
            lock = self.locks.of_all
            self.locks.lock_many(cursor)
        whole = moved_whole(moves, transitions)
        if whole and lock is None:
            self.locks.lock_moving(cursor)
        # In the order of the key, so that two writers do not wait for each other.
        for step in steps:
            digest = sender_digest(step.sender)
            if digest in whole:
                whole.remove(digest)
                self.locks.lock_sender(cursor, digest)
            if isinstance(step, Move):
                cursor.execute(*self.move(step))
                continue
            cursor.execute(*self.transition(step, lock))
            if step.conditional and cursor.rowcount != 1:
                raise overtaken()
        count: int = cursor.rowcount
        return count

    def write_many(self, cursor: Any, changes: Iterable[Change]) -> None:
        """Writes rows as they are told, within the transaction of a cursor."""
        self.locks.lock_many(cursor)
        rows: list[_Parameters] = []
        gone: list[_Parameters] = []
        for module, sender, state, updated_at in changes:
            row = self.row(module, sender, state, updated_at, self.locks.of_all)
            (gone if state is None else rows).append(row)
        # In the order of the key, as above.
        if rows:
            cursor.executemany(self.set.sql, sorted(rows))
        if gone:
            cursor.executemany(self.remove.sql, sorted(gone))

    def page(self, *, sender: bool, module: bool, state: bool, first: bool) -> Statement:
        """Selects the next rows in the order of the primary key, with the given filters.

        Those that do not match come without their state, so that however few do, no statement goes
        through more rows than a page has. Keys that are long come as ``None``: a page of those of
        5 MB would be gigabytes.
        """
        column = self._table.c
        # What the primary key finds is no more than asked for.
        found = self._filters(sender=sender, module=module and sender)
        matches = sa.and_(sa.true(), *self._filters(module=module and not sender, state=state))
        short = sa.func.length(column.key) <= LONGEST_READABLE_KEY
        query = (
            sa.select(
                column.sender_digest,
                column.module_digest,
                sa.case((matches & short, column.key)),
                sa.case((matches, column.state)),
                column.updated_at,
            )
            .where(*found)
            .order_by(column.sender_digest, column.module_digest)
            .limit(_parameter("size"))
        )
        if not first:
            after = _parameter("after_sender"), _parameter("after_module")
            query = query.where(self._database.after(self._table.primary_key, after))
        return self._compile(query)

    def batch_end(self) -> Statement:
        """Selects the last sender of the next batch of rows, whether they match or not.

        So that however few match, no statement goes through more rows than a batch has.
        """
        column = self._table.c
        batch = (
            sa.select(column.sender_digest)
            .where(column.sender_digest > _parameter("after_sender"))
            .order_by(column.sender_digest)
            .limit(_parameter("size"))
            .subquery()
        )
        # Not max(): PostgreSQL before 18 has none for bytea.
        last = sa.select(batch.c.sender_digest).order_by(batch.c.sender_digest.desc()).limit(1)
        return self._compile(last)

    def change_batch(self, *, module: bool, state: bool, idle: bool, remove: bool) -> Statement:
        """Moves or removes the rows of a batch that match; they keep their time."""
        column = self._table.c
        owned = self._database.owning(sa.literal(self.locks.of_all))
        where = (
            *self._filters(module=module, state=state, idle=idle),
            column.sender_digest > _parameter("after_sender"),
            column.sender_digest <= _parameter("last_sender"),
            *([] if owned is None else [owned]),
        )
        if remove:
            return self._compile(self._table.delete().where(*where))
        to_state = {"state": _parameter("to_state")}
        return self._compile(self._table.update().where(*where).values(to_state))

    def _filters(
        self, *, sender: bool = False, module: bool = False, state: bool = False, idle: bool = False
    ) -> list[sa.ColumnElement[bool]]:
        column = self._table.c
        filters = []
        if sender:
            filters.append(column.sender_digest == _parameter("sender"))
        if module:
            filters.append(column.module_digest == _parameter("module"))
        if state:
            filters.append(column.state == _parameter("in_state"))
        if idle:
            filters.append(column.updated_at < _parameter("before"))
        return filters


def moved_whole(moves: Collection[Move], transitions: Collection[Transition]) -> set[bytes]:
    """Returns the digests of the senders of whom no new row may come before the commit.

    Beside those whose rows are all moved, these are the ones of whom a row is removed, if there is
    one, together with other writes: where there is none, there is nothing to lock.
    """
    senders = {sender_digest(move.sender) for move in moves}
    if len(moves) + len(transitions) > 1:
        senders.update(
            sender_digest(transition.sender)
            for transition in transitions
            if transition.state is None and not transition.conditional
        )
    return senders


def _row_order(step: Move | Transition) -> tuple[bytes, bytes]:
    module = b"" if isinstance(step, Move) else module_digest(step.module)
    return sender_digest(step.sender), module


def _locking(insert: Insert, table: sa.Table, shared: sa.ColumnElement[bool] | None) -> Insert:
    """Returns an insert that wins a lock, if there is one, before it makes a row."""
    if shared is None:
        return insert
    values: dict[str, Any] = {column.name: _parameter(f"new_{column.name}") for column in table.c}
    known = sa.bindparam("new_updated_at", type_=sa.BigInteger)
    return insert.values({**values, "updated_at": sa.case((shared, known))})


def _positional(dialect: sa.Dialect) -> sa.Dialect:
    """Returns the same dialect with parameters by position, which cost the drivers least."""
    paramstyle = "qmark" if dialect.paramstyle == "qmark" else "format"
    kind: Any = type(dialect)
    positional: sa.Dialect = kind(paramstyle=paramstyle)
    return positional


def _parameter(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name)
