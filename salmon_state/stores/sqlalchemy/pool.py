"""Connections to the database: each is lent to one thread at a time, and does what it must."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import sqlalchemy as sa

from salmon_state.errors import Overtaken, StorageUnavailable
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.stores.sqlalchemy.database import Database, Step

__all__ = ["Loan", "Pool"]

_Result = TypeVar("_Result")

_ATTEMPTS = 10
"""How often a transaction is tried that the database ends in favour of another."""

_BEFORE_FORK = 5.0
"""How long a fork waits for the connections that other threads use, in seconds."""

_inherited: list[object] = []
"""Connections that a forked child must neither use nor close: they are its parent's."""


class Loan:
    """One connection: SQLAlchemy's, the driver's below it, and a cursor for whoever has it.

    A cursor of psycopg's takes longer to make than to use.
    """

    __slots__ = ("connection", "cursor", "driver")

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        driver: Any = connection.connection.dbapi_connection
        self.driver, self.cursor = driver, driver.cursor()


class Pool(Forkable):
    """Lends the connections of an engine's pool.

    Taking a connection out of SQLAlchemy's pool and putting it back costs 4 µs, twice what SQLite
    needs to find a row. Connections of an engine that belongs to the store therefore stay checked
    out, in a stack, between two uses; the pool still makes, replaces and closes them. An
    application's own engine may have other users: its connections go back after every use.

    Args:
        engine: The store's own engine, or the application's.
        database: Which kind of database it leads to.
        size: How many connections there are at most.
        timeout: How long to wait for one of them, in seconds. What failed after more than half of
            it is not tried again.
        keep: Whether connections stay checked out between two uses.

    Attributes:
        dialect: The engine's.
        driver_error: What the driver raises.
        driver: What SQLAlchemy calls the driver.
        timeout: See above.
    """

    def __init__(
        self, engine: sa.Engine, database: Database, *, size: int, timeout: float, keep: bool
    ) -> None:
        self.driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        self.driver: str = engine.dialect.driver
        self.timeout = timeout
        self.dialect = engine.dialect
        self._engine = engine
        self._autocommit = (
            engine if keep else engine.execution_options(isolation_level="AUTOCOMMIT")
        )
        self._database = database
        self._size = size
        self._keep = keep
        self._closed = False
        self._start_empty()
        _watch.add(self)

    def _start_empty(self) -> None:
        self._idle: list[Loan] = []
        self._lent = 0  # connections that exist, idle ones included; only with _changed held
        self._waiting = 0
        self._connecting = 0
        self._forking = False
        self._changed = threading.Condition()
        # Of tokens, because a semaphore takes twenty times as long.
        self._places: SimpleQueue[None] = SimpleQueue()
        for _ in range(max(1, self._size - 1)):
            self._places.put(None)

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

    def take(self) -> Loan:
        """Returns a connection that no other thread has.

        Raises:
            StorageUnavailable: All were in use for the whole timeout.
        """
        try:
            return self._idle.pop()
        except IndexError:
            pass
        return self._take_slowly()

    def _take_slowly(self) -> Loan:
        deadline = time.monotonic() + self.timeout
        in_time = True
        with self._changed:
            # Announced before looking: whoever gives back afterwards sees it and notifies.
            self._waiting += 1
            try:
                while True:
                    with suppress(IndexError):  # not looked at before: `take` waits for no lock
                        return self._idle.pop()
                    if self._lent < self._size and not self._forking:
                        self._lent += 1
                        self._connecting += 1
                        break
                    if not in_time:  # looked at once more
                        raise StorageUnavailable(
                            f"all {self._size} connections were in use for {self.timeout:g} s: "
                            "make the store with a larger pool_size"
                        )
                    in_time = self._changed.wait(deadline - time.monotonic())
            finally:
                self._waiting -= 1
        try:
            return Loan(self._autocommit.connect())
        except BaseException:
            self._forget()
            raise
        finally:
            with self._changed:
                self._connecting -= 1
                self._changed.notify_all()

    def give_back(self, loan: Loan) -> None:
        """Takes back a connection that is in order."""
        if not self._keep:
            loan.connection.close()
            self._forget()
            return
        self._idle.append(loan)
        # Looked at afterwards, so that none is left behind.
        if self._closed or (self._forking and not self._database.inheritable):
            self.close_idle()
        elif self._waiting:
            with self._changed:
                self._changed.notify()

    def discard(self, loan: Loan) -> None:
        """Takes back a connection that failed, and closes it."""
        try:
            if not self._database.remote:
                # SQLite holds its lock for as long as somebody has a cursor, closed or not.
                with suppress(self.driver_error):
                    loan.driver.rollback()
            loan.connection.invalidate()
            loan.connection.close()
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
                loan = self._idle.pop()
            except IndexError:
                return
            self.discard(loan)

    def close(self) -> None:
        """Closes the connections; those of an application's own engine are not touched."""
        self._closed = True
        if self._keep:
            self.close_idle()
            self._engine.dispose()

    @property
    def skip_locked(self) -> str | None:
        """What the server that it leads to understands; see `Database.skip_locked`."""
        return self._database.skip_locked(self._engine.dialect)

    # ---------------------------------------------------------------- running

    def run(self, operation: Callable[..., _Result], *arguments: object) -> _Result:
        """Returns ``operation(driver_connection, *arguments)``.

        The operation must be one that may happen twice: it is tried once more when the connection
        turns out to be dead, and a few times when the database ended it in favour of another.
        """
        # Like `hold`, without a call in between: this is what a `get` of SQLite's waits for.
        started = time.monotonic()
        loan = None
        try:
            loan = self.take()
            result = operation(loan.driver, *arguments)
        except BaseException as error:  # noqa: BLE001 - looked at, and raised again
            loan, result = self._again(
                loan, error, started, lambda loan: operation(loan.driver, *arguments)
            )
        self.give_back(loan)
        return result

    def hold(self, operation: Callable[..., _Result], *arguments: object) -> tuple[Loan, _Result]:
        """Returns a connection, to be given back or discarded, and what an operation returns.

        As `run` does, but it is ``operation(cursor, *arguments)``.
        """
        started = time.monotonic()
        loan = None
        try:
            loan = self.take()
            return loan, operation(loan.cursor, *arguments)
        except BaseException as error:  # noqa: BLE001 - looked at, and raised again
            return self._again(
                loan, error, started, lambda loan: operation(loan.cursor, *arguments)
            )

    def _again(
        self,
        loan: Loan | None,
        error: BaseException,
        started: float,
        operation: Callable[[Loan], _Result],
    ) -> tuple[Loan, _Result]:
        """Tries what has failed again, or raises why."""
        attempt = 0
        try:
            while True:
                attempt += 1
                dead = self.is_dead(loan, error)
                if loan is not None:
                    # Overtaken: it was rolled back, and the connection is in order.
                    (self.give_back if isinstance(error, Overtaken) else self.discard)(loan)
                    loan = None
                if dead:  # then so are the others: the server went away
                    self.close_idle()
                if not self._worth_another(error, dead, attempt, started):
                    raise error
                if dead and not self._keep:
                    self._renew_pool(error)
                try:
                    loan = self.take()
                    return loan, operation(loan)
                except BaseException as another:  # noqa: BLE001 - looked at, and raised again
                    error = another
        finally:
            del error  # whose traceback refers to this frame: a cycle that keeps connections

    def transaction(
        self, work: Callable[[Any], _Result], moving: str = "", *, begin: bool = True
    ) -> _Result:
        """Returns ``work(cursor)``, done as one transaction; arguments as for `transact`.

        It is tried again like an operation of `run`, but not when the connection breaks while the
        commit is awaited: then nobody knows whether it happened.
        """
        return self.run(lambda driver: self.transact(driver.cursor(), work, moving, begin=begin))

    def transact(
        self,
        cursor: Any,
        work: Callable[[Any], _Result],
        moving: str = "",
        *,
        begin: bool = True,
        then: Sequence[Step] = (),
    ) -> _Result:
        """Returns ``work(cursor)``, done as one transaction on a connection.

        Args:
            cursor: Of the connection.
            work: What to do, perhaps more than once.
            moving: If no new rows of the senders that it writes about may come until its end, the
                lock of those who need that.
            begin: Whether to begin it; otherwise `work` does, in one round trip with more, or
                somebody has done so.
            then: What to say in the same round trip as the commit.

        Raises:
            Overtaken: By `work`; as with the error of a conflict, it is rolled back, and the
                connection is in order.
            StorageUnavailable: Nobody knows whether it was committed.
        """
        if moving:
            self._database.begin_moving(cursor, moving, self.timeout / 2)
        try:
            if begin:
                cursor.execute(self._database.begin)
            result = work(cursor)
            self.commit(cursor, then)
        except Exception as error:
            if isinstance(error, Overtaken) or self._database.is_conflict(error):
                cursor.execute("ROLLBACK")
                if moving:
                    self._database.end_moving(cursor, moving)
            raise
        if moving:
            try:
                self._database.end_moving(cursor, moving)
            except self.driver_error as error:  # it is committed: not to be tried again
                if not self._is_broken(error, cursor.connection):  # which frees the lock as well
                    cursor.connection.close()
        return result

    def commit(self, cursor: Any, then: Sequence[Step] = ()) -> None:
        """Ends a transaction.

        Args:
            cursor: Of its connection.
            then: What to say in the same round trip.

        Raises:
            StorageUnavailable: Nobody knows whether it was committed.
        """
        try:
            if then:
                self._database.say(cursor, [("COMMIT", [()]), *then])
            else:
                cursor.execute("COMMIT")
        except self.driver_error as error:
            if self._database.is_conflict(error):
                raise
            raise StorageUnavailable(f"a commit was not confirmed: {error}") from error

    def alone(self, driver: Any, work: Callable[..., _Result], *arguments: object) -> _Result:
        """Returns ``work(driver, *arguments)``, which runs one statement that commits itself.

        Raises:
            StorageUnavailable: Nobody knows whether it was committed.
        """
        try:
            return work(driver, *arguments)
        except self.driver_error as error:
            if self._database.remote and self._is_broken(error, driver):
                raise StorageUnavailable(f"a commit was not confirmed: {error}") from error
            raise

    def take_place(self) -> Callable[[], None]:
        """Waits until a conversation may hold a connection; returns what gives its place back.

        All but one may be held by conversations. That one is for what their handlers ask the
        store beside: if ten workers' conversations held all ten while Salmon runs one handler
        after the other, the one that runs would wait for a connection, and the others for it.

        Raises:
            StorageUnavailable: There was no place within the timeout.
        """
        places = self._places  # a forked child has all of its own
        try:
            places.get(timeout=self.timeout)
        except Empty:
            raise StorageUnavailable(
                f"all connections for conversations were in use for {self.timeout:g} s: "
                "make the store with a larger pool_size"
            ) from None
        return partial(places.put, None)

    def is_dead(self, loan: Loan | None, error: BaseException) -> bool:
        """Returns whether an error says that the connection broke, or never came to be."""
        if loan is None and self._keep:
            return False  # it was a new one
        return self._is_broken(error, None if loan is None else loan.driver)

    def _is_broken(self, error: BaseException, driver: Any) -> bool:
        dialect: Any = self._engine.dialect
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
        if time.monotonic() - started > self.timeout / 2:
            return False  # it was no dead connection but a server that says nothing
        if dead:
            return attempt == 1
        if self._database.is_conflict(error) and attempt < _ATTEMPTS:
            time.sleep(random.uniform(0, min(0.005 * 2**attempt, 0.2)))  # noqa: S311 - no secret
            return True
        return False


_watch = ForkWatch()
