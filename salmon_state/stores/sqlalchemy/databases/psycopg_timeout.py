"""A psycopg connection that does not wait for ever.

libpq bounds connecting, and its TCP options a host that is gone; a server that keeps the
connection open and says nothing (stopped, swapping, behind a broken proxy) it waits for without
end. PostgreSQL's own ``statement_timeout`` is no help against a server that does not run.
"""

from __future__ import annotations

from typing import Any, TypeVar

import psycopg
from psycopg import capabilities
from psycopg.abc import PQGen

__all__ = ["BoundedConnection"]

_Result = TypeVar("_Result")


class BoundedConnection(psycopg.Connection[Any]):
    """Raises `psycopg.OperationalError` when an exchange takes longer than `statement_timeout`.

    Shortly before, it asks the server to cancel the statement. One that waits for somebody else's
    lock would otherwise go on waiting when its client is gone, and change the row in the end,
    although the client was told that it had not. The connection cannot be used afterwards.

    Attributes:
        statement_timeout: In seconds.
    """

    statement_timeout: float = 5.0

    def wait(
        self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None
    ) -> _Result:
        """Runs an exchange with the server to its end, or to the timeout."""
        if timeout is not None:
            return super().wait(gen, interval, timeout=timeout)
        reserve = min(1.0, self.statement_timeout / 5)
        try:
            return super().wait(gen, interval, timeout=self.statement_timeout - reserve)
        except psycopg.OperationalError:
            # Cancelling with libpq before 17 would wait for a silent server without end.
            if self.pgconn.transaction_status != _ACTIVE or not capabilities.has_cancel_safe():
                raise
            self._try_cancel(timeout=reserve / 2)
            return super().wait(gen, interval, timeout=reserve / 2)


_ACTIVE = psycopg.pq.TransactionStatus.ACTIVE
