"""A psycopg connection that does not wait for ever.

libpq bounds connecting, and its TCP options a host that is gone; a server that keeps the
connection open and says nothing (stopped, swapping, behind a broken proxy) it waits for without
end. PostgreSQL's own ``statement_timeout`` is no help against a server that does not run.

Nor does it take a commit for one that its standby may not have: when the wait for a synchronous
standby is cut short, PostgreSQL reports success all the same, and a warning beside it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import psycopg
from psycopg import capabilities
from psycopg.abc import PQGen

from salmon_state.stores.clock import ServerClock

__all__ = ["BoundedConnection"]

_Result = TypeVar("_Result")


class BoundedConnection(psycopg.Connection[Any]):
    """Raises `psycopg.OperationalError` when an exchange takes longer than it may: see `bound`.

    Shortly before, it asks the server to cancel the statement. One that waits for somebody else's
    lock would otherwise go on waiting when its client is gone, and change the row in the end,
    although the client was told that it had not. The connection cannot be used afterwards, not
    even when the statement reports success: it may have been a commit that waited for a standby.

    And it raises `psycopg.OperationalError` when somebody else ended such a wait.

    Attributes:
        patience: After how many seconds an exchange is cancelled.
        clock: The server's.
    """

    patience: float
    _reserve: float
    clock: ServerClock

    def __init__(self, pgconn: psycopg.pq.abc.PGconn, *arguments: Any) -> None:
        super().__init__(pgconn, *arguments)
        self.bound(5.0)
        # The handler knows the list and not the connection: no cycle keeps that open.
        unconfirmed = self._unconfirmed = list[str]()

        def notice(diagnostic: psycopg.errors.Diagnostic) -> None:
            # By the function in the server that says it, because the text is in any language.
            if diagnostic.source_function == "SyncRepWaitForLSN":
                unconfirmed.append(str(diagnostic.message_primary))

        self.add_notice_handler(notice)

    def bound(self, timeout: float) -> None:
        """Says how many seconds an exchange may take, to cancel it included."""
        self._reserve = min(1.0, timeout / 5)
        self.patience = timeout - self._reserve

    def wait(
        self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None
    ) -> _Result:
        """Runs an exchange with the server to its end, or to the timeout."""
        try:
            result = super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.OperationalError:
            # Cancelling with libpq before 17 would wait for a silent server without end.
            if (
                timeout is not None
                or self.pgconn.transaction_status != _ACTIVE
                or not capabilities.has_cancel_safe()
            ):
                raise
            self._try_cancel(timeout=self._reserve / 2)
            super().wait(gen, interval, timeout=self._reserve / 2)
            raise psycopg.OperationalError(
                f"cancelled after {self.patience:g} s, perhaps in vain"
            ) from None
        if self._unconfirmed:
            raise psycopg.OperationalError(f"perhaps not on the standby: {self._unconfirmed.pop()}")
        return result


_ACTIVE = psycopg.pq.TransactionStatus.ACTIVE
