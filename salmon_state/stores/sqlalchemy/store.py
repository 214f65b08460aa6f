"""SQLAlchemyStorage: states in a SQL database, shared by processes and machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IdentifierError, SQLAlchemyError

from salmon_state.backend import Lock
from salmon_state.entries import Entry, Kind, Page, Value, Want, Where, Write
from salmon_state.errors import ConfigurationError, StorageError, StorageUnavailable
from salmon_state.findings import Finding
from salmon_state.keys import Sender
from salmon_state.masking import Mask
from salmon_state.options import check_number, options_of
from salmon_state.storage import StateStorage
from salmon_state.stores.encoding import (
    decode_state,
    decode_value,
    name_digest,
    sender_digest,
)
from salmon_state.stores.locks import FileLocks
from salmon_state.stores.sqlalchemy.diagnosis import diagnose
from salmon_state.stores.sqlalchemy.opening import (
    check_table,
    database_named,
    make_engine,
    secrets_of,
)
from salmon_state.stores.sqlalchemy.pages import Pages
from salmon_state.stores.sqlalchemy.pool import Pool
from salmon_state.stores.sqlalchemy.schema import make_metadata, prepare_tables
from salmon_state.stores.sqlalchemy.tables import Tables
from salmon_state.stores.sqlalchemy.work import begin

__all__ = ["SQLAlchemyStorage"]

_NOBODY = b""


class SQLAlchemyStorage(StateStorage):
    """Keeps the states in a SQL database, through SQLAlchemy 2.

    Any number of threads and processes share it; with a database server, machines too. On SQLite
    the file is in WAL mode and every commit reaches the disk before it returns (the receivers of
    this package bring several mails there at a time, before their clients hear 250); on a database
    server durability is what the server is configured for. After the death of a process or of the
    machine each state is the one last acknowledged; after a failover too, if PostgreSQL waits for
    a synchronous standby: what that has not confirmed within the timeout is `StorageUnavailable`.

    An SQLite file that is replaced (a backup moved into place) is opened anew by the next write,
    and by a read if none looked in the last 0.05 s; while it is missing, `StorageUnavailable` is
    raised. Remove the old ``-wal`` and ``-shm`` files when you replace it.

    MariaDB and MySQL take no statement longer than their ``max_allowed_packet``, and PyMySQL sends
    two bytes for one: set it well above twice the size of the largest mail. What is longer is a
    `StorageError` that says so, and nothing is written.

    >>> import tempfile
    >>> directory = tempfile.TemporaryDirectory()
    >>> with SQLAlchemyStorage(f"sqlite:///{directory.name}/states.db") as store:
    ...     store.set("app.handlers", "anna@example.com", "POSTING")
    >>> with SQLAlchemyStorage(f"sqlite:///{directory.name}/states.db") as store:
    ...     store.get("app.handlers", "anna@example.com")
    'POSTING'
    >>> directory.cleanup()

    Args:
        database: A URL as SQLAlchemy documents them, such as ``sqlite:///run/states.db`` (relative
            to the working directory at this moment; four slashes for an absolute path),
            ``postgresql+psycopg://user:password@host/database`` or
            ``mysql+pymysql://user:password@host/database``; TLS and the driver's other options
            are given in its query. Or an application's own `sqlalchemy.Engine`: it is never
            disposed of, and its pool and time limits are the application's; so its statements
            have no deadline.
        table: The name of the table of the states; ``<table>_entries`` holds all other kinds of
            entries, and ``<table>_version`` the version of both.
        schema: The database schema of all, if not the default one.
        create: Whether to create missing tables and to migrate old ones.
        timeout: How long connecting and each statement may take, in seconds (on SQLite: how long
            to wait for another writer); more than 0. As a statement is repeated only on a
            connection that broke at once, a call ends within twice this time.
        pool_size: How many connections this process opens at most; more than 0. All but one may
            be held by conversations, of which a receiver has 16 at a time unless told otherwise.
        indexes: Whether states are found by what they are, by their module and by their time, for
            `records`, `rename` and `purge`, instead of searched: at a million conversations 1 ms
            for a state that nobody is in, instead of 900 (SQLite), 2,600 (PostgreSQL) or 4,400
            (MariaDB). Every `set` keeps them up to date and takes 1.05 to 1.3 times as long.
            Missing ones are created; in a PostgreSQL table so large that this takes longer than
            `timeout`, make them before (see `make_metadata`), or open the store once with a longer
            one.
        protect: As for `StateStorage`.

    Raises:
        ConfigurationError: The URL or an option cannot work, the driver is missing, the login is
            refused, or the table is missing and must not or cannot be created.
        StorageUnavailable: The database cannot be reached now, or only reads, as a standby does
            until it is promoted: worth another try.

    Attributes:
        metadata: The `sqlalchemy.MetaData` of all tables; see also `make_metadata`.
        table: The `sqlalchemy.Table` of the states.
    """

    has_connection = True

    def __init__(
        self,
        database: str | sa.URL | sa.Engine,
        *,
        table: str = "salmon_state",
        schema: str | None = None,
        create: bool = True,
        timeout: float = 5.0,
        pool_size: int = 20,
        indexes: bool = False,
        protect: bool = False,
    ) -> None:
        super().__init__(protect=protect)
        check_number("timeout", timeout)
        check_number("pool_size", pool_size, whole=True)
        check_table(table)
        self.metadata = make_metadata(table, schema=schema, indexes=indexes)
        self.table = self.metadata.tables[table if schema is None else f"{schema}.{table}"]
        engine: sa.Engine
        if isinstance(database, sa.Engine):
            engine = database
        else:
            engine = make_engine(database, timeout, pool_size, options_of(type(self)) or ())
        self._url = engine.url.set(query={})  # which may hold passwords as well
        self._mask = Mask(secrets_of(engine.url))
        self._database = database_named(engine.dialect.name)
        self.is_remote = self._database.remote
        keep = not isinstance(database, sa.Engine)
        self._pool = Pool(engine, self._database, size=pool_size, timeout=timeout, keep=keep)
        # Two stores share their locks if they share the table.
        space = f"salmon_state {engine.url.database} {self.table.fullname} ".encode()
        kinds = self.metadata.tables[f"{self.table.key}_entries"]
        self._tables = Tables((self.table, kinds), self._database, self._pool, space)
        self._rows = Pages(self._tables, indexes=indexes)
        self._get_sql = self._tables.states.get.sql
        self._fetch_one = self._database.fetch_one
        self._file_locks: FileLocks | None = None
        try:
            self._prepare(create)
        except BaseException:
            self._close()
            raise
        self.locks_processes = self._file_locks is not None or self._database.has_locks

    def _prepare(self, create: bool) -> None:
        try:
            loan = self._pool.take()
            try:
                self._database.check_writers(loan.connection)
                prepare_tables(
                    loan.connection, self._database, self.metadata, self.table, create=create
                )
                self._file_locks = self._database.file_locks(loan.connection, self.table.schema)
                loan.connection.commit()
            except BaseException:
                self._pool.discard(loan)
                raise
            self._pool.give_back(loan)
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            cause = _original(error)
            # TypeError, ValueError: the driver does not know an option of the URL's query.
            if isinstance(cause, (TypeError, ValueError, IdentifierError)) or (
                self._database.is_misconfigured(cause)
            ):
                text = f"{self._describe(cause)}{self._database.advice(cause)}"
                wrong = ConfigurationError(f"{self!r}: {text}")
                raise self._mask.apply(wrong, cause)  # noqa: B904 - it has its cause
            self._raise(cause)

    # ---------------------------------------------------------------- hooks: reading

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        if kind is Kind.STATE:
            digests = (sender_digest(sender), name_digest(name))
            row = self._pool.run(self._fetch_one, self._get_sql, digests)
            return None if row is None else decode_state(row[0])
        row = self._pool.run(self._tables.find, kind, sender, name)
        return None if row is None else decode_value(kind, row[0])

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        return self._pool.run(self._tables.load, sender, wants)

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        return self._rows.page(kind, where, after)

    def _count(self, kind: Kind) -> int:
        return self._rows.count(kind)

    # ---------------------------------------------------------------- hooks: writing

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        form = self._tables.alone(writes)
        # If it expects something, its second try might find what the first has done, and nobody
        # would know. In a transaction, a connection that died long ago shows before the commit.
        if form is not None and not (form.condition and self._database.remote):
            return self._pool.run(self._tables.make_alone, writes, form)
        moving = ""
        if isinstance(writes, (tuple, list)):
            moving = self._tables.moving(writes)
        else:
            writes = _Once(writes)
        return self._pool.transaction(
            lambda cursor: self._tables.make(cursor, writes), moving, begin=False
        )

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        """Takes entries that are due, all of them in one transaction."""
        skip = self._pool.skip_locked
        if skip is None:
            return super()._claim(kind, until, limit)
        before = self._clock() + 1
        return self._pool.transaction(
            lambda cursor: self._rows.claim(
                cursor, kind, before=before, until=until, limit=limit, skip=skip
            )
        )

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        if self._rows.few(kind, where) is not None:  # which need no search
            return super()._sweep(kind, where, value)
        return self._rows.sweep(kind, where, value)

    def _wipe(self) -> None:
        """Removes all rows, some thousand at a time: to truncate a table would wait for all."""
        for kind in Kind:
            self._sweep(kind, Where(), None)

    # ---------------------------------------------------------------- hooks: conversations

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        if self._file_locks is None:
            return Lock(self._threads.acquire(sender, timeout))
        return Lock(self._file_locks.acquire(sender, timeout))

    _begin = begin

    # ---------------------------------------------------------------- hooks: the store itself

    def _ping(self) -> None:
        self._pool.run(self._fetch_one, self._get_sql, (_NOBODY, _NOBODY))

    def _examine(self) -> Iterable[str]:
        return self._pool.run(self._database.examine)

    @contextmanager
    def _pause(self, seconds: float) -> Iterator[None]:
        states = self.table
        both = (states, self.metadata.tables[f"{states.key}_entries"])
        tables = [self._pool.dialect.identifier_preparer.format_table(each) for each in both]
        loan = self._pool.take()
        try:
            for statement in self._database.pause(tables):
                loan.connection.exec_driver_sql(statement)
            yield
        finally:
            self._pool.discard(loan)  # which ends the transaction, whatever happened to it

    def _diagnose(self) -> Iterable[Finding]:
        loan = self._pool.take()
        try:
            tables = (self.metadata, self.table)
            found = list(diagnose(loan.connection, self._database, *tables, self._clock))
        except BaseException:
            self._pool.discard(loan)
            raise
        self._pool.give_back(loan)
        return found

    def _close(self) -> None:
        self._pool.close()
        if self._file_locks is not None:
            self._file_locks.close()

    def _place(self) -> str:
        return self._url.render_as_string(hide_password=True)

    def _explain(self, error: Exception) -> StorageError:
        error = _original(error)
        text = self._describe(error)
        if self._database.is_damaged(error):
            return StorageError(f"{self._place()}: {text}")
        if isinstance(error, (self._pool.driver_error, SQLAlchemyError, OSError)):
            return StorageUnavailable(f"{text}{self._database.advice(error)}")
        return super()._explain(error)

    def _describe(self, error: object) -> str:
        return self._mask(f"{type(error).__name__}: {error}")


class _Once:
    """An iterator of writes, which cannot be made again when the database asks for that."""

    def __init__(self, writes: Iterable[Write]) -> None:
        self._writes: Iterable[Write] | None = writes

    def __iter__(self) -> Iterator[Write]:
        writes, self._writes = self._writes, None
        if writes is None:
            raise StorageUnavailable("a commit failed, and what it was to write came but once")
        return iter(writes)


def _original(error: Exception) -> Exception:
    """Returns the driver's error inside SQLAlchemy's."""
    if isinstance(error, DBAPIError) and isinstance(error.orig, Exception):
        return error.orig
    return error
