"""Who may write a sender's rows: many at once, each some of them, or one alone who moves them all.

`set_all` must move every row that is there when it happens, and nobody may read one of them as it
was after a new one has come that is not moved. A statement that goes from row to row finds those
that were changed meanwhile and misses those that were made, unless it locks rows that do not exist.

MariaDB locks gaps between rows, in a transaction that asks for it. PostgreSQL does not: there,
whoever writes rows of a sender shares an advisory lock of that sender with all others who do. It
costs no round trip, as the statement that writes takes it. Whoever moves them all has the lock
alone, before the statement begins that looks for them. As a server has no room for the locks of
many thousand senders, whoever writes the rows of that many takes another one, which everybody
shares who moves all rows of anybody.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from salmon_state.stores.sqlalchemy.databases.base import Database

__all__ = ["RowLocks"]


class RowLocks:
    """The locks of one table's rows; they end with the transaction that has them.

    Args:
        database: The kind of database; where it needs no such locks, only `of` is asked.
        space: What two stores agree on if they have the same table.
    """

    def __init__(self, database: Database, space: bytes) -> None:
        self._alone = database.lock_alone
        self._shared = database.lock_shared
        self.of_all = _number(sha256(b"rows of " + space).digest())
        """The number of the lock of whoever writes the rows of many senders."""

    def of(self, digest: bytes) -> int:
        """Returns the number of the lock of a sender's rows; any, where none is needed."""
        return self.of_all ^ _number(digest) if self._alone else 0

    def lock_many(self) -> str:
        """Returns what waits until nobody moves all rows of a sender; then all may be written."""
        return f"SELECT {self._alone % self.of_all}"

    def lock_senders(self, digests: Iterable[bytes]) -> str:
        """Returns what waits until nobody writes a row of some senders; then all may be moved.

        Before any other lock, and until nobody writes the rows of many senders either.
        """
        locks = [self._alone % self.of(digest) for digest in digests]
        # From left to right.
        return f"SELECT {', '.join([self._shared % self.of_all, *locks])}" if locks else ""


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big", signed=True)
