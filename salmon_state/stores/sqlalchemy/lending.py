"""Connections to the database, each lent to one thread at a time."""

from __future__ import annotations

import threading
import time
from typing import Any

import sqlalchemy as sa

from salmon_state.errors import StorageUnavailable
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.stores.sqlalchemy.databases import database_of

__all__ = ["Lease", "Lending"]

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


class Lending(Forkable):
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
        self._database = database_of(engine.dialect)
        self._size = size
        self._timeout = timeout
        self._keep = keep
        self._closed = False
        self._start_empty()
        _watch.add(self)

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


_watch = ForkWatch()
