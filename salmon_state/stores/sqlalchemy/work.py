"""What conversations in all SQL databases have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from salmon_state.backend import Backend, UnitOfWork
from salmon_state.entries import Entry, Kind, Want, Write
from salmon_state.errors import ConversationBusy, StorageUnavailable
from salmon_state.keys import Sender
from salmon_state.stores.sqlalchemy.database import Step
from salmon_state.stores.sqlalchemy.pool import Loan
from salmon_state.stores.sqlalchemy.tables import Tables

__all__ = ["BEFORE_HANDLERS", "SQLWork", "begin"]

_Result = TypeVar("_Result")

BEFORE_HANDLERS = "salmon_state"
"""The savepoint from which handlers take part."""


def begin(store: Any) -> UnitOfWork:
    """Returns what an outermost conversation works with: `Backend._begin` of a SQL store."""
    work: UnitOfWork = store._database.work(store, store._tables)
    return work


class SQLWork(UnitOfWork):
    """One connection from the first need of it to the end."""

    _loan: Loan | None = None
    _in_transaction = False
    _lost = False
    _shared = False  # with a handler
    _give_place_back: Callable[[], None] | None = None

    def __init__(self, store: Backend, tables: Tables) -> None:
        self._store, self._tables = store, tables
        self._database = tables.database
        self._pool = tables.pool
        self._savepoints: dict[int, Any] = {}

    # ---------------------------------------------------------------- reading and writing

    def find(self, kind: Kind, sender: Sender, name: str) -> Any:
        if self._loan is None:
            return super().find(kind, sender, name)
        return next((entry.value for entry in self.load(sender, ((kind, name),))), None)

    def load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        if self._loan is None:
            return super().load(sender, wants)
        return self._on_loan(lambda cursor: self._tables.load(cursor.connection, sender, wants))

    def commit(self, writes: Sequence[Write], *, failed: bool) -> None:
        self._check_connection()
        if self._loan is None:
            super().commit(writes, failed=failed)
            return
        if not (self._in_transaction or writes):
            return
        if self._shared:
            self._settle(failed=failed)
        self._on_loan(self._write, writes)

    def _settle(self, *, failed: bool) -> None:
        """Makes sure that what handlers did is committed as well, unless they failed."""
        lost = self._on_loan(self._was_given_up)
        if lost and failed:
            self._on_loan(self._recover)
        if lost and not failed:  # the connection is in order
            raise _given_up()

    def _write(self, cursor: Any, writes: Sequence[Write]) -> None:
        assert self._loan is not None  # noqa: S101 - for the type checker
        tables, then, begin = self._tables, self._freeing(cursor), not self._in_transaction
        form = tables.alone(writes) if begin else None
        if form is not None:
            self._pool.alone(self._loan.driver, tables.make_alone, writes, form, then)
            return
        self._in_transaction = False
        self._pool.transact(
            cursor,
            lambda cursor: tables.make(cursor, writes, begin=begin),
            tables.moving(writes) if begin else "",
            begin=False,
            then=then,
        )

    def check(self) -> None:
        self._check_connection()
        if self._loan is not None:
            self._on_loan(self._ask)

    def _ask(self, cursor: Any) -> None:
        """Raises unless the server answers."""
        cursor.execute("SELECT 1")
        cursor.fetchall()

    def close(self) -> None:
        try:
            if self._loan is not None:
                self._close_loan(self._loan)
        finally:
            if self._give_place_back is not None:
                self._give_place_back()
            if self._locks:
                super().close()

    def _close_loan(self, loan: Loan) -> None:
        try:
            if self._in_transaction:
                self._on_loan(lambda cursor: cursor.execute("ROLLBACK"))
            self._unlock()
            if self._shared:
                self._unshare(loan.connection)
        except (self._pool.driver_error, SQLAlchemyError):
            pass  # the connection is broken, which rolls back and frees the locks as well
        finally:
            if self._loan is not None:  # or it broke, and is discarded
                if self._shared and loan.connection.invalidated:  # by a handler's statement
                    self._pool.discard(loan)
                else:
                    self._pool.give_back(loan)

    def _freeing(self, cursor: Any) -> list[Step]:
        """Returns what may be said with the commit, to free those locks without a round trip."""
        return []

    def _unlock(self) -> None:
        """Frees the locks that neither a transaction's end nor `UnitOfWork.close` frees."""

    # ---------------------------------------------------------------- the connection

    def _take_place(self) -> None:
        if self._give_place_back is None:  # or there was no connection, and a handler tries again
            self._give_place_back = self._pool.take_place()

    def _on_loan(self, act: Callable[..., _Result], *arguments: object) -> _Result:
        """Returns ``act(cursor, *arguments)``; an error ends the connection.

        Nothing can go on on it then.
        """
        assert self._loan is not None  # noqa: S101 - for the type checker
        try:
            return act(self._loan.cursor, *arguments)
        except ConversationBusy:
            # Overtaken: the connection is in order. `close` rolls back, which frees the lock at
            # once; the server notices a closed connection some time later.
            raise
        except BaseException:
            loan, self._loan = self._loan, None
            self._in_transaction = False
            self._lost = True
            self._pool.discard(loan)
            raise

    def _check_connection(self) -> None:
        """Refuses to go on elsewhere when what was locked or written on a connection is lost."""
        loan = self._loan
        if self._lost or (self._shared and loan is not None and loan.connection.invalidated):
            raise StorageUnavailable("the connection of this conversation broke")

    # ---------------------------------------------------------------- for handlers

    def connection(self, depth: int) -> Any:
        """Returns SQLAlchemy's connection; its transaction begins when it is first asked for."""
        self._check_connection()
        if self._loan is None:
            self._take_place()
            self._loan = self._pool.take()
        if not self._shared:
            self._share(self._loan.connection)
            self._shared = True
        if depth and depth not in self._savepoints:
            self._savepoints[depth] = self._loan.connection.begin_nested()
        return self._loan.connection

    def _share(self, connection: sa.Connection) -> None:
        self._on_loan(self._begin_sharing)

    def _begin_sharing(self, cursor: Any) -> None:
        if not self._in_transaction:
            cursor.execute(self._database.begin)
            self._in_transaction = True
        cursor.execute(f"SAVEPOINT {BEFORE_HANDLERS}")

    def _unshare(self, connection: sa.Connection) -> None:
        connection.rollback()  # what SQLAlchemy believes to be open

    def leave(self, depth: int, *, undo: bool, failed: bool) -> None:
        savepoint = self._savepoints.pop(depth, None)
        if savepoint is None:
            return
        given_it_up = self.given_up
        if undo or given_it_up:
            savepoint.rollback()
        else:
            savepoint.commit()
        if given_it_up and not undo and not failed:
            raise _given_up()

    @property
    def given_up(self) -> bool:
        """Whether the database gave the transaction up when a handler's statement failed in it."""
        return False

    def _was_given_up(self, cursor: Any) -> bool:
        """Returns whether the transaction that handlers took part in is not what it was.

        A statement that failed may have ended it, as a deadlock does, and a COMMIT or a ROLLBACK
        of a handler has. What is written then would be committed without the handler's rows.
        """
        return self.given_up

    def _recover(self, cursor: Any) -> None:
        """Makes it possible to commit states without what the handler that failed had written."""
        cursor.execute(self._database.begin)


def _given_up() -> StorageUnavailable:
    """Returns the error for a commit after a handler's statement failed and it went on."""
    return StorageUnavailable(
        "a statement of a handler failed, so that the database gave its transaction up, and the "
        "handler went on: let the error out, or try statements in connection.begin_nested()"
    )
