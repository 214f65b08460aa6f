"""Making the writes of a commit, within a transaction, in few statements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby, islice
from typing import Any, NamedTuple, TypeGuard

from salmon_state.entries import ABSENT, ANYTHING, CHECK, EVERY, Entry, Kind, Seen, Write, holds
from salmon_state.errors import Overtaken
from salmon_state.keys import Sender
from salmon_state.stores.rows import decode_row, sender_digest
from salmon_state.stores.sqlalchemy.databases.base import Database
from salmon_state.stores.sqlalchemy.row_locks import RowLocks
from salmon_state.stores.sqlalchemy.statements import RowStatements, WriteStatement

__all__ = ["Writer", "moves_all"]

_AT_ONCE = 500
"""How many rows a driver is given at once."""

_MANY = 100
"""Of how many senders, at most, a transaction locks the rows one by one."""


class _Form(NamedTuple):
    """What writes have in common that one statement makes, with other values for each."""

    what: str
    """``check``, ``every``, ``put``, ``insert``, ``change`` or ``remove``."""
    kind: Kind
    remove: bool = False
    condition: bool = False
    value: bool = False
    """Whether the value must be the expected one."""
    at: bool | None = False
    """Whether the time must be; ``None`` if there must be none."""


def _form(write: Write) -> _Form:
    kind, _, name, value, _, expect = write
    if value is CHECK or (value is None and expect is ABSENT):
        return _shared_form("check", kind)
    if name is EVERY:
        return _shared_form("every", kind, value is None)
    if isinstance(expect, Seen):
        at = None if expect.at is None else expect.at is not ANYTHING
        return _shared_form("change", kind, value is None, True, expect.value is not None, at)
    if value is None:
        return _shared_form("remove", kind, True)
    return _shared_form("put" if expect is ANYTHING else "insert", kind, False, expect is ABSENT)


_shared_form = lru_cache(maxsize=None)(_Form)


def moves_all(writes: Sequence[Write]) -> bool:
    """Returns whether no new rows of a sender may come before the commit.

    So it is if all of a sender are moved; and if one is removed that may not be there, together
    with other writes: where there is no row, there is nothing to lock.
    """
    return any(
        write.name is EVERY
        or (len(writes) > 1 and write.value is None and write.expect is ANYTHING)
        for write in writes
    )


class Writer:
    """Makes writes in the order in which they come.

    Args:
        states: What is said about the table of the states.
        entries: What is said about that of the other kinds.
        database: Which kind of database they are in.
        locks: The locks of their rows.
        driver_error: What the driver raises.
    """

    def __init__(
        self,
        states: RowStatements,
        entries: RowStatements,
        database: Database,
        locks: RowLocks,
        driver_error: type[Exception],
    ) -> None:
        self._states = states
        self._entries = entries
        self._database = database
        self._locks = locks
        self._driver_error = driver_error

    def rows(self, kind: Kind) -> RowStatements:
        """Returns what is said about the rows of a kind."""
        return self._states if kind is Kind.STATE else self._entries

    def is_alone(self, writes: Iterable[Write]) -> TypeGuard[Sequence[Write]]:
        """Returns whether it is one write that one statement makes, which needs no transaction."""
        if not isinstance(writes, (tuple, list)) or len(writes) != 1:
            return False
        (write,) = writes
        return (
            write.value is not CHECK
            and (write.name is not EVERY or self._database.one_writer)
            and (write.value is not None or write.expect is not ABSENT)
        )

    def make_alone(self, driver: Any, write: Write) -> list[int]:
        """Makes a write that `is_alone`, as `make` does; an operation for `Pool.run`."""
        form = _form(write)
        statement = self._statement(form)
        parameters = statement.bind(self.rows(form.kind).write(write, None))
        self._database.check_size(driver, statement.sql, (parameters,))
        try:
            count = self._database.execute(driver, statement.sql, parameters)
        except self._driver_error as error:
            if self._is_overtaken(form, error):
                raise Overtaken from error
            raise
        return _counts(form, 1, count)

    def make(self, cursor: Any, writes: Iterable[Write]) -> list[int]:
        """Makes all writes of a commit; returns how many rows each of them changed.

        Raises:
            Overtaken: An expectation does not hold; the transaction must be rolled back.
        """
        if self.is_alone(writes):  # as most of those of conversations
            return self._make(cursor, _form(writes[0]), writes, None)
        lock = self._lock(cursor, writes)
        counts: list[int] = []
        for form, group in groupby(writes, _form):
            at_once = _AT_ONCE if form.condition or form.what in ("put", "check") else 1
            while batch := list(islice(group, at_once)):
                if form.what == "check":
                    self._check(cursor, form.kind, batch)
                    counts += [0] * len(batch)
                else:
                    counts += self._make(cursor, form, batch, lock)
        return counts

    def _lock(self, cursor: Any, writes: Iterable[Write]) -> int | None:
        """Wins locks of rows beforehand; returns the one to share if it is not a sender's."""
        # What is no sequence cannot be looked at twice.
        if not isinstance(writes, Sequence) or len({w.sender for w in writes}) > _MANY:
            self._locks.lock_many(cursor)
            return self._locks.of_all
        if len(writes) > 1 or moves_all(writes):
            forms = ((write, _form(write).what) for write in writes)
            whole = {w.sender for w, what in forms if what in ("check", "every", "remove")}
            self._locks.lock_senders(cursor, sorted(map(sender_digest, whole)))
        return None

    def _make(
        self, cursor: Any, form: _Form, writes: Sequence[Write], lock: int | None
    ) -> list[int]:
        statement = self._statement(form)
        values = self.rows(form.kind).write
        rows = [statement.bind(values(write, lock)) for write in writes]
        self._database.check_size(cursor.connection, statement.sql, rows)
        try:
            if len(rows) == 1:
                cursor.execute(statement.sql, rows[0])
            else:
                cursor.executemany(statement.sql, rows)
        except self._driver_error as error:
            if self._is_overtaken(form, error):
                raise Overtaken from error
            raise
        return _counts(form, len(rows), cursor.rowcount)

    def _is_overtaken(self, form: _Form, error: Exception) -> bool:
        return form.what == "insert" and self._database.is_duplicate(error)

    def _statement(self, form: _Form) -> WriteStatement:
        rows = self.rows(form.kind)
        if form.what == "put":
            return rows.upsert
        if form.what == "insert":
            return rows.insert_missing
        if form.what == "every":
            return rows.change_all(remove=form.remove)
        return rows.change(remove=form.remove, value=form.value, at=form.at)

    def claim(
        self, cursor: Any, kind: Kind, *, before: int, until: int, limit: int, skip: str
    ) -> list[Entry]:
        """Moves the time of entries that are due, but for those that somebody else has locked.

        Args:
            cursor: In a transaction.
            kind: Of which kind.
            before: The moment before which they are due.
            until: Their new time.
            limit: How many at most.
            skip: What makes a SELECT lock rows and leave out those that are locked.
        """
        rows = self.rows(kind)
        values = {"kind": int(kind), "before": before, "size": limit}
        cursor.execute(rows.due.sql + skip, rows.due.bind(values))
        found = cursor.fetchall()
        postpone = rows.postpone
        moved = [
            postpone.bind({"kind": int(kind), "sender": sender, "name": name, "until": until})
            for sender, name, *_ in found
        ]
        if moved:
            cursor.executemany(postpone.sql, moved)
        return [
            decode_row(kind, sender, name, key, value, until) for sender, name, key, value in found
        ]

    # ---------------------------------------------------------------- expectations alone

    def _check(self, cursor: Any, kind: Kind, writes: list[Write]) -> None:
        """Raises `Overtaken` if an expectation does not hold, and keeps those that do.

        Where rows are locked one by one, a row that is not there is made and removed again:
        nobody else can make it then before the transaction ends.
        """
        absent = []
        for sender, group in groupby(writes, lambda write: write.sender):
            asked = {str(write.name): write for write in group}
            found = self._find(cursor, kind, sender, list(asked))
            for name, write in asked.items():
                if not holds(write.expect, found.get(name)):
                    raise Overtaken
                if name not in found:
                    absent.append(write)
        if absent and self._database.holds_rows_only:
            marks = [write._replace(value=_mark(kind), at=0, expect=ABSENT) for write in absent]
            self._make(cursor, _form(marks[0]), marks, None)
            for mark in marks:
                gone = mark._replace(value=None, expect=Seen())
                self._make(cursor, _form(gone), [gone], None)

    def _find(self, cursor: Any, kind: Kind, sender: Sender, names: list[str]) -> dict[str, Entry]:
        rows = self.rows(kind)
        one = len(names) == 1
        statement = rows.get_row if one else rows.get_sender
        values = rows.place(kind, sender, names[0])
        cursor.execute(statement.sql + self._database.for_share, statement.bind(values))
        found = (decode_row(kind, *row) for row in cursor.fetchall())
        return {entry.name: entry for entry in found}


def _counts(form: _Form, size: int, changed: int) -> list[int]:
    """Returns how many rows each of some writes changed, given what the driver says of all."""
    if form.condition and changed != size:
        raise Overtaken
    if form.condition or form.what == "put":  # MariaDB counts a row that it replaced twice
        return [1] * size
    return [changed]


def _mark(kind: Kind) -> str | bytes:
    return "CHECK" if kind is Kind.STATE else b""
