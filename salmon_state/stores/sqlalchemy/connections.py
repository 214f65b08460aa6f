"""Operations on connections: run, and run again where that is safe and may help."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import sqlalchemy as sa

from salmon_state.errors import StorageUnavailable
from salmon_state.stores.sqlalchemy.lending import Lease, Lending

__all__ = ["Connections", "execute", "fetch_all"]

_Result = TypeVar("_Result")

_ATTEMPTS = 10
"""How often a transaction is tried that the database ends in favour of another."""


class Connections(Lending):
    """Lends connections, and runs operations on them: again if that is safe and may help.

    Args:
        engine: As for `Lending`.
        size: As for `Lending`.
        timeout: As for `Lending`. What failed after more than half of it is not tried again.
        keep: As for `Lending`.
    """

    def __init__(self, engine: sa.Engine, *, size: int, timeout: float, keep: bool) -> None:
        super().__init__(engine, size=size, timeout=timeout, keep=keep)
        self.driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error

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
                dead = self.is_dead(lease, error)
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

    def transaction(self, work: Callable[[Any], _Result], *, moving: str = "") -> _Result:
        """Returns ``work(cursor)``, done as one transaction.

        If it moves all rows of a sender, it is told the lock of those who do (see `begin_moving`).

        It is tried again like an operation of `run`, but not when the connection breaks while the
        commit is awaited: then nobody knows whether it happened.
        """
        result: _Result = self.run(self._transact, work, moving)
        return result

    def change(self, sql: str, parameters: tuple[Any, ...]) -> int:
        """Runs a statement that must not happen twice; returns how many rows it changed."""
        if not self._database.remote:  # it commits itself, and we know whether it did
            return self.run(execute, sql, parameters)

        def change(cursor: Any) -> int:
            cursor.execute(sql, parameters)
            count: int = cursor.rowcount
            return count

        return self.transaction(change)

    def _transact(self, driver: Any, work: Callable[[Any], _Result], moving: str) -> _Result:
        cursor = driver.cursor()
        if moving:
            self._database.begin_moving(cursor, moving, self._timeout / 2)
        cursor.execute(self._database.begin)
        result = work(cursor)
        try:
            cursor.execute("COMMIT")
        except self.driver_error as error:
            if self._database.is_conflict(error):
                raise
            raise StorageUnavailable(f"a commit was not confirmed: {error}") from error
        if moving:
            self._database.end_moving(cursor, moving)
        cursor.close()
        return result

    def is_dead(self, lease: Lease | None, error: BaseException) -> bool:
        """Returns whether an error says that the connection broke, or never came to be."""
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


def fetch_all(driver: Any, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
    """Returns all rows of a query; an operation for `Connections.run`."""
    cursor = driver.cursor()
    cursor.execute(sql, parameters)
    rows: list[Any] = cursor.fetchall()
    cursor.close()
    return rows


def execute(driver: Any, sql: str, parameters: tuple[Any, ...]) -> int:
    """Runs a statement and returns how many rows it changed; an operation as well."""
    cursor = driver.cursor()
    cursor.execute(sql, parameters)
    count: int = cursor.rowcount
    cursor.close()
    return count
