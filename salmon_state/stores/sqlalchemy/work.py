"""What conversations in all SQL databases have in common."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from salmon_state.conversation import ERROR_STATE
from salmon_state.errors import ConversationBusy, StorageUnavailable, given_up
from salmon_state.keys import Sender
from salmon_state.records import Move, Transition
from salmon_state.stores.sqlalchemy.lending import Lease
from salmon_state.stores.sqlalchemy.schema import decode_states, sender_digest
from salmon_state.stores.sqlalchemy.statements import moved_whole
from salmon_state.units import UnitOfWork

if TYPE_CHECKING:
    from salmon_state.stores.sqlalchemy.store import SQLAlchemyStorage

__all__ = ["BEFORE_HANDLERS", "SQLWork"]

BEFORE_HANDLERS = "salmon_state"
"""The savepoint from which handlers take part."""


def _places(store: SQLAlchemyStorage) -> threading.Semaphore:
    """Returns the places of a store in this process; a forked child has all of them again."""
    kept: dict[int, threading.Semaphore] = store.__dict__.setdefault("_conversation_places", {})
    found = kept.get(os.getpid())
    return found or kept.setdefault(
        os.getpid(), threading.Semaphore(max(1, store._connections._size - 1))
    )


class SQLWork(UnitOfWork):
    """One connection from the first need of it to the end."""

    _store: SQLAlchemyStorage

    def __init__(self, store: SQLAlchemyStorage) -> None:
        super().__init__(store)
        self._lease: Lease | None = None
        self._in_transaction = False
        self._lost = False
        self._shared = False  # with a handler
        self._place: threading.Semaphore | None = None

    def read(self, module: str, sender: Sender) -> str | None:
        if self._lease is None:
            return super().read(module, sender)
        return self.read_sender(sender).get(module)

    def read_sender(self, sender: Sender) -> Mapping[str, str]:
        if self._lease is None:
            return super().read_sender(sender)
        statement = self._store._statements.get_sender
        with self._on_lease() as cursor:
            cursor.execute(statement.sql, (sender_digest(sender),))
            return decode_states(cursor.fetchall())

    def commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        self._check_connection()
        if self._lease is None:
            super().commit(moves, transitions)
            return
        if not (self._in_transaction or moves or transitions):
            return
        with self._on_lease() as cursor:
            if not (self._in_transaction or moves) and len(transitions) == 1:
                self._commit_alone(cursor, transitions)
                return
            self._begin(cursor, moving=bool(moved_whole(moves, transitions)))
            if self._shared and self._was_given_up(cursor):
                if not any(transition.state == ERROR_STATE for transition in transitions):
                    raise given_up()
                self._recover(cursor)
            self._store._statements.write(cursor, moves, transitions)
            try:
                cursor.execute("COMMIT")
            except self._store._connections.driver_error as error:
                if self._store._database.is_conflict(error):
                    raise
                raise StorageUnavailable(f"a commit was not confirmed: {error}") from error
            self._in_transaction = False

    def _commit_alone(self, cursor: Any, transitions: Sequence[Transition]) -> None:
        """Makes one change by one statement, which commits itself."""
        try:
            self._store._statements.write(cursor, (), transitions)
        except self._store._connections.driver_error as error:
            if self._store._connections.is_dead(self._lease, error):
                raise StorageUnavailable(f"a commit was not confirmed: {error}") from error
            raise

    def check(self) -> None:
        self._check_connection()
        if self._lease is not None:
            with self._on_lease() as cursor:
                self._ask(cursor)

    def _ask(self, cursor: Any) -> None:
        """Raises unless the server answers."""
        cursor.execute("SELECT 1")
        cursor.fetchall()

    def close(self) -> None:
        try:
            self._rollback()
            self._unlock()
            if self._shared and self._lease is not None:
                self._lease.connection.rollback()  # what SQLAlchemy believes to be open
        except (self._store._connections.driver_error, SQLAlchemyError):
            pass  # the connection is broken, which rolls back and frees the locks as well
        finally:
            if self._lease is not None:
                if self._lease.connection.invalidated:  # by a handler's statement
                    self._store._connections.discard(self._lease)
                else:
                    self._store._connections.give_back(self._lease)
                self._lease = None
            if self._place is not None:
                self._place.release()
            super().close()

    def _rollback(self) -> None:
        if self._lease is not None and self._in_transaction:
            with self._on_lease() as cursor:
                cursor.execute("ROLLBACK")
                self._in_transaction = False

    def _take_place(self) -> None:
        """Waits until this conversation may hold a connection.

        All but one may be held by conversations. That one is for what their handlers ask the
        store beside: if ten workers' conversations held all ten while Salmon runs one handler
        after the other, the one that runs would wait for a connection, and the others for it.

        Raises:
            StorageUnavailable: There was no place within the store's timeout.
        """
        store = self._store
        if self._place is None:
            place = _places(store)
            if not place.acquire(timeout=store._timeout):
                raise StorageUnavailable(
                    f"all connections for conversations were in use for {store._timeout:g} s: "
                    "make the store with a larger pool_size"
                )
            self._place = place

    def _unlock(self) -> None:
        """Frees the locks that neither a transaction's end nor `_releases` frees."""

    def _begin(self, cursor: Any, *, moving: bool = False) -> None:
        if not self._in_transaction:
            if moving:
                store = self._store
                store._database.begin_moving(cursor, store._moves_lock, store._timeout / 2)
            cursor.execute(self._store._database.begin)
            self._in_transaction = True

    @contextmanager
    def _on_lease(self) -> Iterator[Any]:
        """Lends a cursor of the connection, which an error closes: nothing can go on on it."""
        assert self._lease is not None  # noqa: S101 - for the type checker
        try:
            cursor = self._lease.driver.cursor()
            yield cursor
        except ConversationBusy:
            # Overtaken: the connection is in order. `close` rolls back, which frees the lock at
            # once; the server notices a closed connection some time later.
            raise
        except BaseException:
            lease, self._lease = self._lease, None
            self._in_transaction = False
            self._lost = True
            self._store._connections.discard(lease)
            raise
        cursor.close()

    def _check_connection(self) -> None:
        """Refuses to go on elsewhere when what was locked or written on a connection is lost."""
        if self._lost or (self._lease is not None and self._lease.connection.invalidated):
            raise StorageUnavailable("the connection of this conversation broke")

    @property
    def connection(self) -> Any:
        """SQLAlchemy's connection; its transaction begins when a handler first asks for it."""
        self._check_connection()
        if self._lease is None:
            self._take_place()
            self._lease = self._store._connections.take()
        if not self._shared:
            self._share(self._lease.connection)
            self._shared = True
        return self._lease.connection

    def _share(self, connection: sa.Connection) -> None:
        with self._on_lease() as cursor:
            self._begin(cursor)
            cursor.execute(f"SAVEPOINT {BEFORE_HANDLERS}")

    def _was_given_up(self, cursor: Any) -> bool:
        """Returns whether the transaction that handlers took part in is not what it was.

        A statement that failed may have ended it, as a deadlock does, and a COMMIT or a ROLLBACK
        of a handler has. What is written then would be committed without the handler's rows.
        """
        return self.failed

    def _recover(self, cursor: Any) -> None:
        """Makes it possible to commit ERROR without what the handler that failed had written."""
        cursor.execute(self._store._database.begin)
