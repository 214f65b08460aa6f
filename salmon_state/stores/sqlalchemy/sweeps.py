"""Going through many rows: some at a time, so that nobody waits and little memory is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from salmon_state.records import Record, from_microseconds
from salmon_state.stores.sqlalchemy.connections import Connections, fetch_all
from salmon_state.stores.sqlalchemy.databases import Database
from salmon_state.stores.sqlalchemy.schema import (
    decode_key,
    decode_state,
    encode_state,
    module_digest,
    sender_digest,
)
from salmon_state.stores.sqlalchemy.statements import Statement, Statements

__all__ = ["Sweeps"]

_PAGE = 1_000
_BATCH = 5_000
_BEFORE_ALL = b""


class Sweeps:
    """What a store does to many conversations at once.

    Args:
        connections: Where to do it.
        statements: With which statements.
        database: On which kind of database.
    """

    def __init__(
        self, connections: Connections, statements: Statements, database: Database
    ) -> None:
        self._connections = connections
        self._statements = statements
        self._fetch_one = database.fetch_one
        self._truncate = database.truncate(statements.table_name)

    def scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        """Yields the records that match all filters; ``None`` does not filter."""
        # Page by page, in the order of the primary key, which never changes: no cursor and no
        # transaction stays open, on any driver, however slow the reader is.
        filters = {
            "sender": sender is not None,
            "module": module is not None,
            "state": state is not None,
        }
        values: dict[str, Any] = {"size": _PAGE}
        if sender is not None:
            values["sender"] = sender_digest(sender)
        if module is not None:
            values["module"] = module_digest(module)
        if state is not None:
            values["in_state"] = encode_state(state)
        statement = self._statements.page(first=True, **filters)
        further: Statement | None = None
        while True:
            rows = self._connections.run(fetch_all, statement.sql, statement.bind(**values))
            for *digests, key, stored, updated_at in rows:
                if stored is None:  # it does not match
                    continue
                if key is None:  # because it is long
                    row = self._connections.run(
                        self._fetch_one, self._statements.get_row.sql, tuple(digests)
                    )
                    if row is None:  # removed meanwhile
                        continue
                    key, stored, updated_at = row
                yield Record(*decode_key(key), decode_state(stored), from_microseconds(updated_at))
            if len(rows) < _PAGE:
                return
            values["after_sender"], values["after_module"] = rows[-1][:2]
            statement = further = further or self._statements.page(first=False, **filters)

    def change(self, values: dict[str, Any], *, remove: bool) -> int:
        """Changes all rows that match, among some thousand at a time; returns how many.

        A single statement over a million rows would hold its locks, and the writers that wait for
        them, for longer than a mail server can wait; and take longer than the timeout.

        Args:
            values: What the rows are looked for by, and what they become, as `Statements` names it.
            remove: Whether they are removed.
        """
        filters = {
            "module": "module" in values,
            "state": "in_state" in values,
            "idle": "before" in values,
        }
        end = self._statements.batch_end()
        change = self._statements.change_batch(remove=remove, **filters)
        values = {**values, "after_sender": _BEFORE_ALL, "size": _BATCH}
        total = 0
        while True:
            row = self._connections.run(self._fetch_one, end.sql, end.bind(**values))
            if row is None:
                return total
            values["last_sender"] = row[0]
            total += self._connections.change(change.sql, change.bind(**values))
            values["after_sender"] = values["last_sender"]

    def wipe(self) -> None:
        """Removes all rows, at once if the database can."""
        if self._truncate:

            def empty(cursor: Any) -> None:
                try:
                    for statement in self._truncate:
                        cursor.execute(statement)
                except self._connections.driver_error as error:
                    raise _NotAtOnce from error  # which is not tried again

            with suppress(_NotAtOnce):
                self._connections.transaction(empty)
                return
        self.change({}, remove=True)


class _NotAtOnce(Exception):
    """The table cannot be truncated: somebody uses it, or the user lacks the right."""
