"""Making the writes of a commit, within a transaction, in few statements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import sha256
from itertools import groupby, islice
from typing import Any, NamedTuple, TypeGuard

from salmon_state.entries import (
    ABSENT,
    ANYTHING,
    CHECK,
    EVERY,
    Condition,
    Entry,
    Kind,
    Seen,
    Write,
    holds,
)
from salmon_state.errors import Overtaken
from salmon_state.keys import Sender
from salmon_state.stores.encoding import decode_row, sender_digest
from salmon_state.stores.sqlalchemy.databases.base import Step
from salmon_state.stores.sqlalchemy.reading import Reader
from salmon_state.stores.sqlalchemy.statements import Parameters, WriteStatement

__all__ = ["Tables"]

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


class _Step(NamedTuple):
    """A statement of a commit."""

    sql: str
    rows: Sequence[Parameters]
    counts: Callable[[Any], list[int]] = lambda _: []
    """Returns how many rows the writes changed that it makes; raises `Overtaken`."""
    is_apart: bool = False
    """Whether no other statement of the commit is about the same rows."""


def _moves_all(writes: Sequence[Write]) -> bool:
    return any(
        write.name is EVERY
        or (len(writes) > 1 and write.value is None and write.expect is ANYTHING)
        for write in writes
    )


class Tables(Reader):
    """What a store writes into them besides, in the order in which it comes."""

    def moving(self, writes: Sequence[Write]) -> str:
        """Returns the lock that a transaction needs in which no new rows may come, or nothing.

        So it is if all of a sender are moved; and if one is removed that may not be there, together
        with other writes: where there is no row, there is nothing to lock.
        """
        return self.lock_name(b"moves") if _moves_all(writes) else ""

    def lock_name(self, what: bytes) -> str:
        """Returns the name of a lock: MariaDB's may have 64 characters, on the whole server."""
        return sha256(self.space + what).hexdigest()[:60]

    def is_alone(self, writes: Iterable[Write]) -> TypeGuard[Sequence[Write]]:
        """Returns whether it is one write that one statement makes, which needs no transaction."""
        if not isinstance(writes, (tuple, list)) or len(writes) != 1:
            return False
        (write,) = writes
        return (
            write.value is not CHECK
            and (write.name is not EVERY or self.database.one_writer)
            and (write.value is not None or write.expect is not ABSENT)
        )

    def make_alone(self, driver: Any, write: Write, then: Sequence[Step] = ()) -> list[int]:
        """Makes a write that `is_alone`, as `make` does; an operation for `Pool.run`.

        Args:
            driver: The connection.
            write: What to write.
            then: What to say in the same round trip, once it is committed.
        """
        form = _form(write)
        deadline = self.database.deadline(driver)
        statement = self._statement(form, timed=deadline is not None)
        parameters = statement.bind(self.rows(form.kind).write(write, None, deadline))
        self.database.check_size(driver, statement.sql, (parameters,))
        try:
            if then:
                step = (statement.sql, [parameters])
                count, *_ = self.database.say(driver.cursor(), [step, *then])
            else:
                count = self.database.execute(driver, statement.sql, parameters)
        except self.pool.driver_error as error:
            if self.database.is_duplicate(error):
                raise Overtaken from error
            raise
        return _counts(form, 1, count)

    def make(self, cursor: Any, writes: Iterable[Write], *, begin: bool = True) -> list[int]:
        """Makes all writes of a commit; returns how many rows each of them changed.

        Args:
            cursor: Of the connection.
            writes: What to write, in order.
            begin: Whether the transaction is yet to be begun.

        Raises:
            Overtaken: An expectation does not hold; the transaction must be rolled back.
        """
        counts: list[int] = []
        steps: list[_Step] = [_Step(self.database.begin, [()])] if begin else []
        rows = 0
        for step in self._steps(writes):
            if rows + len(step.rows) > _AT_ONCE:
                counts += self._say(cursor, steps)
                steps, rows = [], 0
            steps.append(step)
            rows += len(step.rows)
        return counts + self._say(cursor, steps)

    def _say(self, cursor: Any, steps: list[_Step]) -> list[int]:
        for step in steps:
            self.database.check_size(cursor.connection, step.sql, step.rows)
        try:
            said = [(step.sql, step.rows) for step in steps]
            apart = all(step.is_apart for step in steps)
            results = self.database.say(cursor, said, apart=apart)
        except self.pool.driver_error as error:
            if self.database.is_duplicate(error):
                raise Overtaken from error
            raise
        return [
            count
            for step, result in zip(steps, results, strict=True)
            for count in step.counts(result)
        ]

    def _steps(self, writes: Iterable[Write]) -> Iterator[_Step]:
        """Yields the statements that make writes, and before them those that win locks."""
        lock = None
        if not self.is_alone(writes):  # as most of those of conversations
            lock, before = self._lock(writes)
            if before:
                yield _Step(before, [()])
        for form, group in groupby(writes, _form):
            at_once = _AT_ONCE if form.condition or form.what in ("put", "check") else 1
            while batch := list(islice(group, at_once)):
                if form.what == "check":
                    yield from self._checks(form.kind, batch)
                else:
                    yield self._step(form, batch, lock)

    def _lock(self, writes: Iterable[Write]) -> tuple[int | None, str]:
        """Returns the lock to share if it is not a sender's, and what wins locks beforehand."""
        if not self.database.lock_alone:
            return None, ""
        # What is no sequence cannot be looked at twice.
        if not isinstance(writes, Sequence) or len({w.sender for w in writes}) > _MANY:
            return self.locks.of_all, self.locks.lock_many()
        if len(writes) > 1 or _moves_all(writes):
            forms = ((write, _form(write).what) for write in writes)
            whole = {w.sender for w, what in forms if what in ("check", "every", "remove")}
            return None, self.locks.lock_senders(sorted(map(sender_digest, whole)))
        return None, ""

    def _step(self, form: _Form, writes: Sequence[Write], lock: int | None = None) -> _Step:
        statement = self._statement(form, timed=False)
        values = self.rows(form.kind).write
        rows = [statement.bind(values(write, lock)) for write in writes]
        counts = partial(_counts, form, len(rows))
        return _Step(statement.sql, rows, counts, is_apart=form.what != "every")

    def _statement(self, form: _Form, *, timed: bool) -> WriteStatement:
        rows = self.rows(form.kind)
        if form.what == "put":
            return rows.upsert(timed=timed)
        if form.what == "insert":
            return rows.insert_missing(timed=timed)
        if form.what == "every":
            return rows.change_all(remove=form.remove)
        return rows.change(remove=form.remove, value=form.value, at=form.at, timed=timed)

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
        values = {"kind": int(kind), "before": before, "until": until, "size": limit}
        cursor.execute(rows.due.sql + skip, rows.due.bind(values))
        found = cursor.fetchall()
        postpone = rows.postpone
        moved = [postpone.bind({**values, "sender": row[0], "name": row[1]}) for row in found]
        if moved:
            cursor.executemany(postpone.sql, moved)
        return [
            decode_row(kind, sender, name, key, value, until) for sender, name, key, value in found
        ]

    # ---------------------------------------------------------------- expectations alone

    def _checks(self, kind: Kind, writes: list[Write]) -> Iterator[_Step]:
        """Yields what raises `Overtaken` if an expectation does not hold, and keeps those that do.

        Where rows are locked one by one, a row that must not be there is made and removed again:
        nobody else can make it then before the transaction ends.
        """
        marks: list[Write] = []
        for sender, group in groupby(writes, lambda write: write.sender):
            asked: dict[str, Condition] = {}
            for write in group:
                if write.expect is ABSENT and self.database.holds_rows_only:
                    marks.append(write._replace(value=_mark(kind), at=0))
                else:
                    asked[str(write.name)] = write.expect
            if asked:
                yield self._look(kind, sender, asked)
        if marks:
            made = self._step(_form(marks[0]), marks)
            yield made._replace(counts=lambda _: [0] * len(marks), is_apart=False)
            gone = [mark._replace(value=None, expect=Seen()) for mark in marks]
            yield self._step(_form(gone[0]), gone)._replace(counts=lambda _: [], is_apart=False)

    def _look(self, kind: Kind, sender: Sender, asked: Mapping[str, Condition]) -> _Step:
        """Returns what reads entries of a sender, locks them and compares them."""
        rows = self.rows(kind)
        statement = rows.get_row if len(asked) == 1 else rows.get_sender
        values = rows.place(kind, sender, next(iter(asked)))

        def counts(found: Any) -> list[int]:
            there = {entry.name: entry for entry in (decode_row(kind, *row) for row in found)}
            if not all(holds(expect, there.get(name)) for name, expect in asked.items()):
                raise Overtaken
            return [0] * len(asked)

        return _Step(statement.sql + self.database.for_share, [statement.bind(values)], counts)


def _counts(form: _Form, size: int, changed: int) -> list[int]:
    """Returns how many rows each of some writes changed, given what the driver says of all."""
    if form.condition and changed != size:
        raise Overtaken
    if form.condition or form.what == "put":  # MariaDB counts a row that it replaced twice
        return [1] * size
    return [changed]


def _mark(kind: Kind) -> str | bytes:
    return "CHECK" if kind is Kind.STATE else b""
