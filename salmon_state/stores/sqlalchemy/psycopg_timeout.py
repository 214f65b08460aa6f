"""A psycopg connection that does not wait for ever.

libpq bounds connecting, and its TCP options a host that is gone; a server that keeps the
connection open and says nothing (stopped, swapping, behind a broken proxy) it waits for without
end. PostgreSQL's own ``statement_timeout`` is no help against a server that does not run.
"""

from __future__ import annotations

from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

__all__ = ["BoundedConnection"]

_Result = TypeVar("_Result")


class BoundedConnection(psycopg.Connection[Any]):
    """Raises `psycopg.OperationalError` when an exchange takes longer than `statement_timeout`.

    The connection cannot be used afterwards: the answer may still come.

    Attributes:
        statement_timeout: In seconds.
    """

    statement_timeout: float = 5.0

    def wait(
        self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None
    ) -> _Result:
        """Runs an exchange with the server to its end, or to the timeout."""
        limit = self.statement_timeout if timeout is None else timeout
        return super().wait(gen, interval, timeout=limit)
