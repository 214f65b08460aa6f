"""PostgreSQL: its sessions, its errors, and how psycopg is told to be patient for a while only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from salmon_state.stores.sqlalchemy.databases.base import Database

__all__ = ["PostgreSQL"]


class PostgreSQL(Database):
    """A PostgreSQL server, by psycopg 3; in an application's own engine also by psycopg2."""

    names = ("postgresql",)
    drivers = ("psycopg",)  # psycopg2 waits for a silent server without end
    extra = "postgresql"
    insert = staticmethod(postgresql.insert)
    # Whatever the server's default is: what waited for a lock must see what happened meanwhile.
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
    lock_alone = "SELECT pg_advisory_xact_lock(%s)"
    lock_shared = "SELECT pg_advisory_xact_lock_shared(%s)"

    # SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
    _LOCK_NOT_AVAILABLE = "55P03"
    _CONFLICTS = ("40001", "40P01", _LOCK_NOT_AVAILABLE)
    _FORBIDDEN = ("42501",)
    _READ_ONLY = "25006"
    _MISSING = ("3F000",)
    # libpq reports a refused login as text only.
    _REFUSED = re.compile(
        "authentication failed|no password supplied|(role|database) .* does not exist|"
        "permission denied for database|no pg_hba.conf entry|is not permitted to log in|"
        "invalid connection option|invalid [a-z_ ]*value"
    )

    def options(self, driver: Any) -> Mapping[str, type]:
        names = (option.keyword.decode() for option in driver.pq.Conninfo.get_defaults())
        numbers = ("connect_timeout", "keepalives", "tcp_user_timeout")
        types = {name: int if name.startswith(numbers) else str for name in names}
        return {**types, "prepare_threshold": str}

    def connect_arguments(self, url: sa.URL, timeout: float) -> dict[str, Any]:
        # libpq takes whole seconds and turns 1 into 2.
        return {
            "connect_timeout": max(2, round(timeout)),
            "application_name": "salmon-state",
            "client_encoding": "utf8",  # a database in SQL_ASCII would give bytes for text
        }

    def connect(
        self, dialect: sa.Dialect, arguments: Sequence[Any], options: dict[str, Any], timeout: float
    ) -> Any:
        # Here and not above: only whoever uses PostgreSQL has the driver.
        from salmon_state.stores.sqlalchemy.databases.psycopg_timeout import BoundedConnection

        threshold = options.get("prepare_threshold")
        if threshold is not None:  # text, which psycopg does not take
            options = {**options, "prepare_threshold": _threshold(threshold)}
        connection = BoundedConnection.connect(*arguments, **options)
        connection.statement_timeout = timeout
        # Whatever the default is: with a stricter one, writers of the same row fail each other.
        connection.autocommit = True
        connection.execute(
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
            prepare=False,
        ).close()
        return connection

    def sharing(self, lock: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
        return sa.func.pg_advisory_xact_lock_shared(lock).is_not(None)

    def owning(self, lock: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
        return sa.func.pg_advisory_xact_lock(lock).is_not(None)

    def truncate(self, table: str) -> tuple[str, ...]:
        return ("SET LOCAL lock_timeout = '100ms'", f"TRUNCATE TABLE {table}")

    def is_conflict(self, error: BaseException) -> bool:
        return _sqlstate(error) in self._CONFLICTS

    def is_lock_timeout(self, error: BaseException) -> bool:
        """Returns whether a lock was not won within ``lock_timeout``."""
        return _sqlstate(error) == self._LOCK_NOT_AVAILABLE

    def is_forbidden(self, error: DBAPIError) -> bool:
        return _sqlstate(error.orig) in self._FORBIDDEN

    def is_gone(self, error: BaseException) -> bool:
        return _sqlstate(error) == self._READ_ONLY

    def is_misconfigured(self, error: BaseException) -> bool:
        return _sqlstate(error) in self._MISSING or bool(self._REFUSED.search(str(error)))

    def advice(self, error: BaseException) -> str:
        if isinstance(error, TypeError) and "bytes" in str(error):
            return (
                " (the driver gives bytes for text, as it does for a database in SQL_ASCII: make "
                "the engine with connect_args={'client_encoding': 'utf8'})"
            )
        return ""

    def _lock_schema(self, connection: sa.Connection) -> None:
        # IF NOT EXISTS is no help: two at once still collide in the catalogue.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7957125123961775)")


def _threshold(text: str) -> int | None:
    """Returns psycopg's ``prepare_threshold`` from a URL's query.

    Raises:
        ValueError: It is neither a number nor ``none``.
    """
    if text.lower() == "none":
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(
            "prepare_threshold must be 'none', so that nothing is prepared, or after how many uses "
            f"a statement is, got {text!r}"
        )
    return int(text)


def _sqlstate(error: object) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
