"""Connections to the database: lent to one thread at a time, bounded, and replaced when dead."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from salmon_state.errors import StorageUnavailable
from salmon_state.stores.sqlalchemy.databases import Database

__all__ = ["Connections", "Lease"]

_Result = TypeVar("_Result")

_ATTEMPTS = 6
"""How often a transaction is tried that the database ends in favour of another."""

_inherited: list[object] = []
"""Connections that a forked child must neither use nor close: they are its parent's."""


class Lease:
    """One connection: SQLAlchemy's and the driver's below it."""

    __slots__ = ("connection", "driver")

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.driver: Any = connection.connection.dbapi_connection


class Connections:
    """Lends the connections of an engine's pool.

    Taking a connection out of SQLAlchemy's pool and putting it back costs 4 µs, twice what SQLite
    needs to find a row. Connections of an engine that belongs to the store therefore stay checked
    out, in a stack, between two uses; the pool still makes, replaces and closes them. An
    application's own engine may have other users: its connections go back after every use.

    Args:
        engine: An engine whose isolation level is AUTOCOMMIT.
        size: How many connections there are at most.
        timeout: How long to wait for one of them, in seconds.
        keep: Whether connections stay checked out between two uses.
    """

    def __init__(self, engine: sa.Engine, *, size: int, timeout: float, keep: bool) -> None:
        self._engine = engine
        self._database = Database.of(engine.dialect)
        self._size = size
        self._timeout = timeout
        self._keep = keep
        self._closed = False
        self.driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        self._start_empty()
        _all.add(self)

    def _start_empty(self) -> None:
        self._idle: list[Lease] = []
        self._lent = 0  # connections that exist, idle ones included; only with _changed held
        self._waiting = 0
        self._changed = threading.Condition(threading.Lock())

    def after_fork(self) -> None:
        """Begins anew, in a forked child, without touching what belongs to the parent."""
        if self._keep:
            _inherited.append(self._idle)
            self._engine.dispose(close=False)
        self._start_empty()

    # ---------------------------------------------------------------- lending

    def take(self) -> Lease:
        """Returns a connection that no other thread has.

        Raises:
            StorageUnavailable: All were in use for the whole timeout.
        """
        try:
            return self._idle.pop()
        except IndexError:
            pass
        return self._take_slowly()

    def _take_slowly(self) -> Lease:
        deadline = time.monotonic() + self._timeout
        with self._changed:
            # Announced before looking: whoever gives back afterwards sees it and notifies.
            self._waiting += 1
            try:
                while True:
                    if self._idle:
                        return self._idle.pop()
                    if self._lent < self._size:
                        self._lent += 1
                        break
                    if not self._changed.wait(deadline - time.monotonic()):
                        raise StorageUnavailable(
                            f"all {self._size} connections were in use for {self._timeout:g} s: "
                            "make the store with a larger pool_size"
                        )
            finally:
                self._waiting -= 1
        try:
            return Lease(self._engine.connect())
        except BaseException:
            self._forget()
            raise

    def give_back(self, lease: Lease) -> None:
        """Takes back a connection that is in order."""
        if not self._keep:
            lease.connection.close()
            self._forget()
            return
        if self._closed:  # meanwhile, by another thread
            self.discard(lease)
            return
        self._idle.append(lease)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def discard(self, lease: Lease) -> None:
        """Takes back a connection that failed, and closes it."""
        try:
            lease.connection.invalidate()
            lease.connection.close()
        finally:
            self._forget()

    def _forget(self) -> None:
        with self._changed:
            self._lent -= 1
            self._changed.notify()

    def close_idle(self) -> None:
        """Closes the connections that nobody uses."""
        while True:
            try:
                lease = self._idle.pop()
            except IndexError:
                return
            self.discard(lease)

    def close(self) -> None:
        """Closes the connections; those of an application's own engine are not touched."""
        self._closed = True
        if self._keep:
            self.close_idle()
            self._engine.dispose()

    # ---------------------------------------------------------------- running something on one

    def run(self, operation: Callable[..., _Result], *arguments: object) -> _Result:
        """Returns ``operation(driver_connection, *arguments)``.

        The operation must be one that may happen twice: it is tried once more when the connection
        turns out to be dead, and a few times when the database ended it in favour of another.
        """
        lease, result = self.hold(operation, *arguments)
        self.give_back(lease)
        return result

    def hold(self, operation: Callable[..., _Result], *arguments: object) -> tuple[Lease, _Result]:
        """Does the same and returns the connection as well, to be given back or discarded."""
        started = time.monotonic()
        attempt = 0
        while True:
            lease = self.take()
            try:
                return lease, operation(lease.driver, *arguments)
            except BaseException as error:
                attempt += 1
                dead = self._is_dead(lease, error)
                self.discard(lease)
                if dead:  # then so are the others: the server went away
                    self.close_idle()
                if not self._worth_another(error, dead, attempt, started):
                    raise

    def transaction(self, work: Callable[[Any], _Result]) -> _Result:
        """Returns ``work(cursor)``, done as one transaction.

        It is tried again like an operation of `run`, but not when the connection breaks while the
        commit is awaited: then nobody knows whether it happened.
        """
        result: _Result = self.run(self._transact, work)
        return result

    def _transact(self, driver: Any, work: Callable[[Any], _Result]) -> _Result:
        cursor = driver.cursor()
        cursor.execute(self._database.begin)
        result = work(cursor)
        try:
            cursor.execute("COMMIT")
        except self.driver_error as error:
            if self._database.is_conflict(error):
                raise
            raise StorageUnavailable(f"a commit was not confirmed: {error}") from error
        cursor.close()
        return result

    def _is_dead(self, lease: Lease, error: BaseException) -> bool:
        dialect: Any = self._engine.dialect
        return isinstance(error, self.driver_error) and bool(
            dialect.is_disconnect(error, lease.driver, None)
        )

    def _worth_another(
        self, error: BaseException, dead: bool, attempt: int, started: float
    ) -> bool:
        if time.monotonic() - started > self._timeout / 2:
            return False  # it was no dead connection but a server that says nothing
        if dead:
            return attempt == 1
        if self._database.is_conflict(error) and attempt < _ATTEMPTS:
            time.sleep(random.uniform(0, 0.005 * 2**attempt))  # noqa: S311 - no secret
            return True
        return False


def _forked() -> None:
    """Makes a forked child begin without connections; its parent goes on using the old ones."""
    for connections in list(_all):
        connections.after_fork()


_all: weakref.WeakSet[Connections] = weakref.WeakSet()
os.register_at_fork(after_in_child=_forked)
