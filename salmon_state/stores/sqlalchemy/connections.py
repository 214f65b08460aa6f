"""Connections to the database: lent to one thread at a time, bounded, and replaced when dead."""

from __future__ import annotations

import os
import random
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from salmon_state.errors import StorageUnavailable
from salmon_state.stores.sqlalchemy.databases import Database

__all__ = ["Connections", "Lease"]

_Result = TypeVar("_Result")

_ATTEMPTS = 10
"""How often a transaction is tried that the database ends in favour of another."""

_BEFORE_FORK = 5.0
"""How long a fork waits for the connections that other threads use, in seconds."""

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
        engine: The store's own engine, or the application's.
        size: How many connections there are at most.
        timeout: How long to wait for one of them, in seconds.
        keep: Whether connections stay checked out between two uses.
    """

    def __init__(self, engine: sa.Engine, *, size: int, timeout: float, keep: bool) -> None:
        self._engine = engine
        self._autocommit = (
            engine if keep else engine.execution_options(isolation_level="AUTOCOMMIT")
        )
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
        self._connecting = 0
        self._forking = False
        self._changed = threading.Condition()

    def before_fork(self) -> None:
        """Keeps other threads from connecting, and where need be closes what is open.

        A thread that is connecting may hold a lock inside the driver or OpenSSL, which would stay
        locked for ever in the child; so those that have begun are waited for.

        SQLite forbids a child to use or to close what it inherits, and even that is not enough:
        as long as the child has it, SQLite counts on locks there that ``fork`` does not pass on,
        and the parent may remove the write-ahead log under the child
        (https://www.sqlite.org/howtocorrupt.html, section 2.6).
        """
        self._changed.acquire()
        self._forking = True  # from now on nothing is opened, and what must not be inherited closed
        if self._database.inheritable:
            self._changed.wait_for(lambda: self._connecting == 0, _BEFORE_FORK)
            return
        self.close_idle()
        # In vain if one is in the hands of the very thread that forks.
        self._changed.wait_for(lambda: self._lent == 0, _BEFORE_FORK)

    def after_fork(self, *, child: bool) -> None:
        """Goes on in the parent; begins anew in the child, leaving alone what is its parent's."""
        if not child:
            self._forking = False
            self._changed.notify_all()
            self._changed.release()
            return
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
                    if self._lent < self._size and not self._forking:
                        self._lent += 1
                        self._connecting += 1
                        break
                    if not self._changed.wait(deadline - time.monotonic()):
                        raise StorageUnavailable(
                            f"all {self._size} connections were in use for {self._timeout:g} s: "
                            "make the store with a larger pool_size"
                        )
            finally:
                self._waiting -= 1
        try:
            return Lease(self._autocommit.connect())
        except BaseException:
            self._forget()
            raise
        finally:
            with self._changed:
                self._connecting -= 1
                self._changed.notify_all()

    def give_back(self, lease: Lease) -> None:
        """Takes back a connection that is in order."""
        if not self._keep:
            lease.connection.close()
            self._forget()
            return
        self._idle.append(lease)
        # Looked at afterwards, so that none is left behind.
        if self._closed or (self._forking and not self._database.inheritable):
            self.close_idle()
        elif self._waiting:
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
            self._changed.notify_all()  # those who wait to connect, and those who wait to fork

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
        # Like `hold`, without a call in between: this is what a `get` of SQLite's waits for.
        started = time.monotonic()
        lease = None
        try:
            lease = self.take()
            result = operation(lease.driver, *arguments)
        except BaseException as error:  # noqa: BLE001 - looked at, and raised again
            lease, result = self._again(lease, error, started, operation, arguments)
        self.give_back(lease)
        return result

    def hold(self, operation: Callable[..., _Result], *arguments: object) -> tuple[Lease, _Result]:
        """Does the same and returns the connection as well, to be given back or discarded."""
        started = time.monotonic()
        lease = None
        try:
            lease = self.take()
            return lease, operation(lease.driver, *arguments)
        except BaseException as error:  # noqa: BLE001 - looked at, and raised again
            return self._again(lease, error, started, operation, arguments)

    def _again(
        self,
        lease: Lease | None,
        error: BaseException,
        started: float,
        operation: Callable[..., _Result],
        arguments: tuple[object, ...],
    ) -> tuple[Lease, _Result]:
        """Tries what has failed again, or raises why."""
        attempt = 0
        try:
            while True:
                attempt += 1
                dead = self._is_dead(lease, error)
                if lease is not None:
                    self.discard(lease)
                    lease = None
                if dead:  # then so are the others: the server went away
                    self.close_idle()
                if not self._worth_another(error, dead, attempt, started):
                    raise error
                if dead and not self._keep:
                    self._renew_pool(error)
                try:
                    lease = self.take()
                    return lease, operation(lease.driver, *arguments)
                except BaseException as another:  # noqa: BLE001 - looked at, and raised again
                    error = another
        finally:
            del error  # whose traceback refers to this frame: a cycle that keeps connections

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

    def _is_dead(self, lease: Lease | None, error: BaseException) -> bool:
        if lease is None and self._keep:
            return False  # it was a new one
        dialect: Any = self._engine.dialect
        driver = None if lease is None else lease.driver
        return isinstance(error, self.driver_error) and (
            self._database.is_gone(error) or bool(dialect.is_disconnect(error, driver, None))
        )

    def _renew_pool(self, error: BaseException) -> None:
        """Makes SQLAlchemy replace all connections of the application's pool if one is dead."""
        traceback.clear_frames(error.__traceback__)  # they may hold one that broke before we got it
        with suppress(sa.exc.SQLAlchemyError), self._engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")

    def _worth_another(
        self, error: BaseException, dead: bool, attempt: int, started: float
    ) -> bool:
        if time.monotonic() - started > self._timeout / 2:
            return False  # it was no dead connection but a server that says nothing
        if dead:
            return attempt == 1
        if self._database.is_conflict(error) and attempt < _ATTEMPTS:
            time.sleep(random.uniform(0, min(0.005 * 2**attempt, 0.2)))  # noqa: S311 - no secret
            return True
        return False


def _before_fork() -> None:
    for connections in list(_all):
        connections.before_fork()
        _held.append(connections)


def _after_fork(*, child: bool) -> None:
    while _held:
        _held.pop().after_fork(child=child)


_all: weakref.WeakSet[Connections] = weakref.WeakSet()
_held: list[Connections] = []
os.register_at_fork(
    before=_before_fork,
    after_in_parent=partial(_after_fork, child=False),
    after_in_child=partial(_after_fork, child=True),
)
