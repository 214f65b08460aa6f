"""The statements of a store, built by SQLAlchemy and compiled once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from salmon_state.errors import overtaken
from salmon_state.records import Move, Transition
from salmon_state.stores.sqlalchemy.databases import database_of
from salmon_state.stores.sqlalchemy.schema import (
    LONGEST_READABLE_KEY,
    encode_key,
    encode_state,
    module_digest,
    sender_digest,
)

__all__ = ["Statements"]

_Parameters = tuple[Any, ...]


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
    """

    def __init__(self, table: sa.Table, dialect: sa.Dialect) -> None:
        database = database_of(dialect)
        self._positional = _positional(dialect)
        column = table.c
        sender, module, state, now, expected = map(
            _parameter, ("sender", "module", "to_state", "now", "expected")
        )
        one = (column.sender_digest == sender, column.module_digest == module)
        moved = {"state": state, "updated_at": now}

        self.get = self._compile(sa.select(column.state).where(*one))
        self.get_sender = self._compile(
            sa.select(column.key, column.state).where(column.sender_digest == sender)
        )
        self.get_row = self._compile(
            sa.select(column.key, column.state, column.updated_at).where(*one)
        )
        self.set = self._compile(database.upsert(table))
        self.remove = self._compile(table.delete().where(*one))
        self.insert_missing = self._compile(database.insert_missing(table))
        self.set_expected = self._compile(
            table.update().where(*one, column.state == expected).values(moved)
        )
        self.remove_expected = self._compile(table.delete().where(*one, column.state == expected))
        self.set_all = self._compile(
            table.update().where(column.sender_digest == sender).values(moved)
        )
        self.remove_all = self._compile(table.delete().where(column.sender_digest == sender))
        self.count = self._compile(sa.select(sa.func.count()).select_from(table))
        self.table_name = self._positional.identifier_preparer.format_table(table)
        self._table = table

    def _compile(self, clause: sa.ClauseElement) -> Statement:
        return Statement(clause, self._positional)

    def transition(self, transition: Transition) -> tuple[str, _Parameters]:
        """Returns what makes one transition; if it is conditional, it changes 1 row or none."""
        module, sender, state, now, conditional, seen = transition
        digests = (sender_digest(sender), module_digest(module))
        if state is None:
            if not conditional:
                return self.remove.sql, digests
            return self.remove_expected.sql, (*digests, encode_state(seen or ""))
        if conditional and seen is not None:
            return self.set_expected.sql, self.set_expected.bind(
                to_state=encode_state(state),
                now=now,
                sender=digests[0],
                module=digests[1],
                expected=encode_state(seen),
            )
        row = (*digests, encode_key(module, sender), encode_state(state), now)
        return (self.insert_missing if conditional else self.set).sql, row

    def move(self, move: Move) -> tuple[str, _Parameters]:
        """Returns what moves all conversations of a sender."""
        sender, state, now = move
        digest = sender_digest(sender)
        if state is None:
            return self.remove_all.sql, (digest,)
        values = {"sender": digest, "to_state": encode_state(state), "now": now}
        return self.set_all.sql, self.set_all.bind(**values)

    def write(self, cursor: Any, moves: Iterable[Move], transitions: Iterable[Transition]) -> None:
        """Makes the moves, then the transitions, within the transaction of a cursor.

        Raises:
            ConversationBusy: The state that a transition depends on has changed.
        """
        for move in moves:
            cursor.execute(*self.move(move))
        # In the order of the key, so that two writers do not wait for each other.
        for transition in sorted(transitions, key=_row_order):
            cursor.execute(*self.transition(transition))
            if transition.conditional and cursor.rowcount != 1:
                raise overtaken()

    def page(self, *, sender: bool, module: bool, state: bool, first: bool) -> Statement:
        """Selects the next rows in the order of the primary key, with the given filters.

        Keys that are long come as ``None``: a page of those of 5 MB would be gigabytes.
        """
        column = self._table.c
        short_key = sa.case((sa.func.length(column.key) <= LONGEST_READABLE_KEY, column.key))
        query = (
            sa.select(
                column.sender_digest,
                column.module_digest,
                short_key,
                column.state,
                column.updated_at,
            )
            .where(*self._filters(sender=sender, module=module, state=state))
            .order_by(column.sender_digest, column.module_digest)
            .limit(_parameter("size"))
        )
        if not first:
            # Not (a, b) > (x, y), for which MariaDB reads the whole table.
            query = query.where(
                column.sender_digest >= _parameter("after_sender"),
                (column.sender_digest > _parameter("after_sender"))
                | (column.module_digest > _parameter("after_module")),
            )
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
        where = (
            *self._filters(module=module, state=state, idle=idle),
            column.sender_digest > _parameter("after_sender"),
            column.sender_digest <= _parameter("last_sender"),
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


def _row_order(transition: Transition) -> tuple[bytes, bytes]:
    return sender_digest(transition.sender), module_digest(transition.module)


def _positional(dialect: sa.Dialect) -> sa.Dialect:
    """Returns the same dialect with parameters by position, which cost the drivers least."""
    paramstyle = "qmark" if dialect.paramstyle == "qmark" else "format"
    kind: Any = type(dialect)
    positional: sa.Dialect = kind(paramstyle=paramstyle)
    return positional


def _parameter(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name)
