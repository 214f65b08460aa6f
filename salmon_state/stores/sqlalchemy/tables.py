"""Reading and making writes about senders: what a store asks of its two tables for each mail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import sha256
from itertools import groupby, islice
from typing import Any, NamedTuple

import sqlalchemy as sa

from salmon_state.entries import (
    ABSENT,
    ANYTHING,
    CHECK,
    EVERY,
    STATE,
    Condition,
    Entry,
    Kind,
    Seen,
    Want,
    Write,
    holds,
)
from salmon_state.errors import Overtaken
from salmon_state.keys import Sender
from salmon_state.stores.encoding import (
    decode_row,
    encode_key,
    encode_state,
    name_digest,
    sender_digest,
)
from salmon_state.stores.sqlalchemy.database import Database, Step
from salmon_state.stores.sqlalchemy.pool import Pool
from salmon_state.stores.sqlalchemy.statements import (
    Form,
    Parameters,
    RowStatements,
    statements_of,
)

__all__ = ["Tables", "form_of"]

_KINDS = {int(kind): kind for kind in Kind}

_UNSEEN = Seen()

_AT_ONCE = 500
"""How many rows a driver is given at once."""

_FEW = 10
"""How many writes, at most, are made by a statement each, without looking for what is alike."""

_PLAIN = ("put", "insert", "change")
"""The forms of writes that need no locks beforehand, as each takes its own."""

_STATES: Sequence[Want] = ((STATE, EVERY),)
"""What most conversations want."""

_NOTHING: Sequence[Parameters] = ((),)

_CONDITIONS = 20
"""How many expectations, at most, one statement asks for besides."""

_MANY = 100
"""Of how many senders, at most, a transaction locks the rows one by one."""


_form = lru_cache(maxsize=None)(Form)


def form_of(write: Write) -> Form:
    """Returns the form of a write."""
    kind, _, name, value, _, expect = write
    if value is CHECK or (value is None and expect is ABSENT):
        return _form("check", kind)
    if name is EVERY:
        return _form("every", kind, value is None)
    if isinstance(expect, Seen):
        at = None if expect.at is None else expect.at is not ANYTHING
        return _form("change", kind, value is None, True, expect.value is not None, at)
    if value is None:
        return _form("remove", kind, True)
    return _form("put" if expect is ANYTHING else "insert", kind, False, expect is ABSENT)


class RowLocks:
    """Who may write a sender's rows: many at once, each some of them, or one who moves them all.

    `set_all` must move every row that is there when it happens, and nobody may read one of them as
    it was after a new one has come that is not moved. A statement that goes from row to row finds
    those that were changed meanwhile and misses those that were made, unless it locks rows that do
    not exist.

    MariaDB locks gaps between rows, in a transaction that asks for it. PostgreSQL does not: there,
    whoever writes rows of a sender shares an advisory lock of that sender with all others who do.
    It costs no round trip, as the statement that writes takes it. Whoever moves them all has the
    lock alone, before the statement begins that looks for them. As a server has no room for the
    locks of many thousand senders, whoever writes the rows of that many takes another one, which
    everybody shares who moves all rows of anybody. They end with the transaction that has them.

    Args:
        database: The kind of database; where it needs no such locks, nobody asks for one.
        space: What two stores agree on if they have the same table.
    """

    def __init__(self, database: Database, space: bytes) -> None:
        self._alone = database.lock_alone
        self._shared = database.lock_shared
        name = sha256(b"rows of " + space).digest()
        self.of_all = int.from_bytes(name[:8], "big", signed=True)
        """The number of the lock of whoever writes the rows of many senders."""

    def of(self, digest: bytes) -> int:
        """Returns the number of the lock of a sender's rows."""
        return self.of_all ^ int.from_bytes(digest[:8], "big", signed=True)

    def lock_many(self) -> Step:
        """Returns what waits until nobody moves all rows of a sender; then all may be written."""
        return f"SELECT {self._alone}", [(self.of_all,)]

    def lock_senders(self, digests: Sequence[bytes]) -> Step:
        """Returns what waits until nobody writes a row of some senders; then all may be moved.

        Before any other lock, and until nobody writes the rows of many senders either.
        """
        locks = [self._shared, *[self._alone] * len(digests)]  # from left to right
        return f"SELECT {', '.join(locks)}", [(self.of_all, *map(self.of, digests))]


class _Step(NamedTuple):
    """A statement of a commit."""

    sql: str
    rows: Sequence[Parameters]
    counts: Callable[[Any], list[int]] = lambda _: []
    """Returns how many rows the writes changed that it makes; raises `Overtaken`."""


class Tables:
    """What a store reads and writes of senders.

    Args:
        tables: The tables of the states and of the entries of all other kinds.
        database: Which kind of database they are in.
        pool: Its connections.
        space: What two stores agree on if they have the same tables, and with them their locks.
    """

    def __init__(
        self, tables: tuple[sa.Table, sa.Table], database: Database, pool: Pool, space: bytes
    ) -> None:
        self.tables, self.database, self.pool, self.space = tables, database, pool, space
        self.locks = RowLocks(database, space)
        self.states, self.entries = (
            statements_of(RowStatements, table, database, pool.dialect) for table in tables
        )
        # The forms of what one statement makes, without a transaction.
        self._alone = (*_PLAIN, "remove", "every") if database.one_writer else (*_PLAIN, "remove")
        self._shares_locks = bool(database.lock_shared)
        self._fetch_one = database.fetch_one
        self._fetch_all = database.fetch_all

    # ---------------------------------------------------------------- reading

    def rows(self, kind: Kind) -> RowStatements:
        """Returns what is said about the rows of a kind."""
        return self.states if kind is STATE else self.entries

    def find(self, driver: Any, kind: Kind, sender: Sender, name: str) -> Any:
        """Returns the row with the value of an entry, or ``None``; an operation for `Pool.run`."""
        rows = self.rows(kind)
        return self._fetch_one(driver, rows.get.sql, rows.get.bind(rows.place(kind, sender, name)))

    def load(self, driver: Any, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        """Returns what is wanted of a sender, all of one moment; an operation for `Pool.run`."""
        sql, parameters = self.wanted(sender, wants)
        return self.found(self._fetch_all(driver, sql, parameters), wants)

    def wanted(self, sender: Sender, wants: Sequence[Want]) -> tuple[str, Parameters]:
        """Returns the one statement that reads what is wanted; `found` understands its rows."""
        if wants == _STATES:
            return self.states.get_sender.sql, (sender_digest(sender),)
        digest = sender_digest(sender)
        parameters: Parameters = ()
        for _, name in wants:
            parameters += (digest,) if name is EVERY else (digest, name_digest(name))
        shape = tuple([(kind, name is EVERY) for kind, name in wants])
        return _union(self.states, self.entries, shape), parameters

    def found(self, rows: Sequence[Any], wants: Sequence[Want]) -> list[Entry]:
        """Returns what is in the rows that `wanted` selects."""
        if wants == _STATES:
            return [decode_row(STATE, *row) for row in rows]
        found = []
        for number, sender, name, key, text, data, at in rows:
            kind = _KINDS[number]
            value = text if kind is STATE else data
            found.append(decode_row(kind, sender, name, key, value, at))
        return found

    # ---------------------------------------------------------------- writing

    def moving(self, writes: Sequence[Write]) -> str:
        """Returns the lock that a transaction needs in which no new rows may come, or nothing.

        So it is if all of a sender are moved; and if one is removed that may not be there, together
        with other writes: where there is no row, there is nothing to lock.
        """
        moves = self.database.holds_rows_only and _moves_all(writes)
        return self.lock_name(b"moves") if moves else ""

    def lock_name(self, what: bytes) -> str:
        """Returns the name of a lock: MariaDB's may have 64 characters, on the whole server."""
        return sha256(self.space + what).hexdigest()[:60]

    def alone(self, writes: Iterable[Write]) -> Form | None:
        """Returns the form of the last of them if one statement, without a transaction, makes all.

        Where nobody else writes meanwhile, that may ask for what others must still be.
        """
        if not isinstance(writes, (tuple, list)) or not writes:
            return None
        form = form_of(writes[-1])
        if form.what in self._alone and (len(writes) == 1 or self._are_conditions(writes)):
            return form
        return None

    def _are_conditions(self, writes: Sequence[Write]) -> bool:
        *checks, write = writes
        return (
            self.database.one_writer
            and len(checks) <= _CONDITIONS
            and write.expect is not ANYTHING
            and all(check.value is CHECK and check.expect is not ANYTHING for check in checks)
        )

    def make_alone(
        self, driver: Any, writes: Sequence[Write], form: Form, then: Sequence[Step] = ()
    ) -> list[int]:
        """Makes what one statement makes, as `make` does; an operation for `Pool.run`.

        Args:
            driver: The connection.
            writes: What to write.
            form: What `alone` says of them.
            then: What to say in the same round trip, once it is committed.
        """
        *checks, write = writes
        rows = self.rows(form.kind)
        deadline = self.database.deadline(driver) if self.database.remote else None
        timed = deadline is not None
        statement = rows.writing(form, timed=timed, alone=True, checked=bool(checks))
        sql, parameters = statement.sql, statement.bind(self.parameters(write, None, deadline))
        for check in checks:
            rows = self.rows(check.kind)
            asked = rows.condition(form_of(check._replace(value="")))
            sql = f"{sql} AND {asked.sql}"
            parameters += asked.bind(self.parameters(check))
        if then:
            count, *_ = self.database.say(driver.cursor(), [(sql, [parameters]), *then])
        else:
            count = self.database.execute(driver, sql, parameters)
        return [0] * len(checks) + _counts(form, 1, count)

    def make(self, cursor: Any, writes: Iterable[Write], *, begin: bool = True) -> list[int]:
        """Makes all writes of a commit; returns how many rows each of them changed.

        Args:
            cursor: Of the connection.
            writes: What to write, in order.
            begin: Whether the transaction is yet to be begun.

        Raises:
            Overtaken: An expectation does not hold; the transaction must be rolled back.
        """
        if isinstance(writes, (tuple, list)) and len(writes) <= _FEW:  # as those of a mail
            forms = [form_of(write) for write in writes]
            alone = len(forms) == 1 and forms[0].what in self._alone
            if alone or all(form.what in _PLAIN for form in forms):
                return self._make_few(cursor, writes, forms, begin=begin, alone=alone)
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

    def _make_few(
        self, cursor: Any, writes: Sequence[Write], forms: list[Form], *, begin: bool, alone: bool
    ) -> list[int]:
        """Makes writes that need no locks beforehand, each by a statement of its own."""
        said: list[Step] = [(self.database.begin, _NOTHING)] if begin else []
        for write, form in zip(writes, forms, strict=True):
            rows = self.rows(form.kind)
            statement = rows.writing(form, alone=alone)
            said.append((statement.sql, (statement.bind(self.parameters(write)),)))
        # Of one sender: locks of several are won in an order.
        if not begin and len(writes) == 2 and writes[0].sender == writes[1].sender:
            results = self.database.say_pair(cursor, said)
        else:
            results = self.database.say(cursor, said)
        if begin:
            del results[0]
        counts: list[int] = []
        for form, result in zip(forms, results, strict=True):
            counts += _counts(form, 1, result)
        return counts

    def _say(self, cursor: Any, steps: list[_Step]) -> list[int]:
        results = self.database.say(cursor, [(step.sql, step.rows) for step in steps])
        return [
            count
            for step, result in zip(steps, results, strict=True)
            for count in step.counts(result)
        ]

    def _steps(self, writes: Iterable[Write]) -> Iterator[_Step]:
        """Yields the statements that make writes, and before them those that win locks."""
        lock, before = self._lock(writes)
        if before is not None:
            yield _Step(*before)
        for form, group in groupby(writes, form_of):
            at_once = _AT_ONCE if form.condition or form.what in ("put", "check") else 1
            while batch := list(islice(group, at_once)):
                if form.what == "check":
                    yield from self._checks(form.kind, batch)
                else:
                    yield self._step(form, batch, lock)

    def _lock(self, writes: Iterable[Write]) -> tuple[int | None, Step | None]:
        """Returns the lock to share if it is not a sender's, and what wins locks beforehand."""
        if not self.database.lock_alone:
            return None, None
        # What is no sequence cannot be looked at twice.
        if not isinstance(writes, Sequence) or len({w.sender for w in writes}) > _MANY:
            return self.locks.of_all, self.locks.lock_many()
        forms = ((write, form_of(write).what) for write in writes)
        whole = {w.sender for w, what in forms if what in ("check", "every", "remove")}
        digests = sorted(map(sender_digest, whole))
        return None, self.locks.lock_senders(digests) if digests else None

    def _step(self, form: Form, writes: Sequence[Write], lock: int | None = None) -> _Step:
        statement = self.rows(form.kind).writing(form)
        rows = [statement.bind(self.parameters(write, lock)) for write in writes]
        return _Step(statement.sql, rows, partial(_counts, form, len(rows)))

    def parameters(
        self, write: Write, lock: int | None = None, deadline: object = None
    ) -> Parameters:
        """Returns what a `WriteStatement` takes to make a write.

        Args:
            write: The write.
            lock: The number of the lock to take, if it is not that of the sender's rows.
            deadline: Until when it may be made; see `Database.deadline`.
        """
        kind, sender, name, value, at, expect = write
        digest = sender_digest(sender)
        stored: Any = None if value is CHECK else value
        seen: Any
        seen, seen_at = expect if isinstance(expect, Seen) else _UNSEEN
        if kind is STATE:
            stored = None if stored is None else encode_state(stored)
            seen = None if seen is None else encode_state(seen)
        return (
            digest,
            None if name is EVERY else name_digest(name),
            int(kind),
            None if name is EVERY or isinstance(expect, Seen) else encode_key(name, sender),
            stored,
            at,
            self.locks.of(digest) if lock is None and self._shares_locks else lock,
            seen,
            seen_at,
            deadline,
        )

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
            made = self._step(form_of(marks[0]), marks)
            yield made._replace(counts=lambda _: [0] * len(marks))
            gone = [mark._replace(value=None, expect=Seen()) for mark in marks]
            yield self._step(form_of(gone[0]), gone)._replace(counts=lambda _: [])

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


@lru_cache(maxsize=64)  # not a method's: it would keep closed stores and their connections
def _union(
    states: RowStatements, entries: RowStatements, shape: tuple[tuple[Kind, bool], ...]
) -> str:
    parts = [
        (states if kind is STATE else entries).wanted(kind, every=every) for kind, every in shape
    ]
    return states.compile(parts[0] if len(parts) == 1 else sa.union_all(*parts)).sql


def _moves_all(writes: Sequence[Write]) -> bool:
    return any(
        write.name is EVERY
        or (len(writes) > 1 and write.value is None and write.expect is ANYTHING)
        for write in writes
    )


def _counts(form: Form, size: int, changed: int) -> list[int]:
    """Returns how many rows each of some writes changed, given what the driver says of all."""
    if form.condition and changed != size:
        raise Overtaken
    if form.condition or form.what == "put":  # MariaDB counts a row that it replaced twice
        return [1] * size
    return [changed]


def _mark(kind: Kind) -> str | bytes:
    return "CHECK" if kind is STATE else b""
