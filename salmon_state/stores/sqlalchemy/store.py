"""SQLAlchemyStorage: states in a SQL database, shared by processes and machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IdentifierError,
    NoSuchModuleError,
    SQLAlchemyError,
)

from salmon_state.conversation import Move, Transition, UnitOfWork
from salmon_state.errors import ConfigurationError, StorageError, StorageUnavailable
from salmon_state.storage import Change, Record, Sender, StateStorage, from_microseconds
from salmon_state.stores.sqlalchemy.connections import Connections
from salmon_state.stores.sqlalchemy.conversations import (
    MariaDBWork,
    PostgreSQLWork,
    SQLiteWork,
    SQLWork,
)
from salmon_state.stores.sqlalchemy.databases import Database, MariaDB, PostgreSQL, SQLite
from salmon_state.stores.sqlalchemy.schema import (
    decode_key,
    decode_state,
    decode_states,
    encode_key,
    encode_state,
    make_metadata,
    module_digest,
    prepare_tables,
    sender_digest,
)
from salmon_state.stores.sqlalchemy.statements import Statement, Statements

__all__ = ["SQLAlchemyStorage"]

_PAGE = 1_000
_BATCH = 5_000
_NOBODY = b""
_FOREVER = 10**6
_LONGEST_NAME = 63
"""In bytes; PostgreSQL's limit, and MariaDB has one more."""


class SQLAlchemyStorage(StateStorage):
    """Keeps the states in a SQL database, through SQLAlchemy 2.

    Any number of threads and processes share it; with a database server, machines too. On SQLite
    the file is in WAL mode and every commit reaches the disk before it returns; on a database
    server durability is what the server is configured for. After the death of a process or of the
    machine each state is the one last acknowledged.

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
            disposed of, and its pool and time limits are the application's.
        table: The name of the table; a second one, ``<table>_version``, holds its version.
        schema: The database schema of both, if not the default one.
        create: Whether to create missing tables and to migrate old ones.
        timeout: How long connecting and each statement may take, in seconds (on SQLite: how long
            to wait for another writer); more than 0. As a statement is repeated only on a
            connection that broke at once, a call ends within twice this time.
        pool_size: How many connections this process opens at most; more than 0.
        protect: As for `StateStorage`.

    Raises:
        ConfigurationError: The URL or an option cannot work, the driver is missing, the login is
            refused, or the table is missing and must not or cannot be created.
        StorageUnavailable: The database cannot be reached now.

    Attributes:
        metadata: The `sqlalchemy.MetaData` of both tables; see also `make_metadata`.
        table: The `sqlalchemy.Table` of the states.
    """

    def __init__(
        self,
        database: str | sa.URL | sa.Engine,
        *,
        table: str = "salmon_state",
        schema: str | None = None,
        create: bool = True,
        timeout: float = 5.0,
        pool_size: int = 10,
        protect: bool = False,
    ) -> None:
        super().__init__(protect=protect)
        _check_positive("timeout", timeout, int, float)
        _check_positive("pool_size", pool_size, int)
        _check_table(table)
        self.metadata = make_metadata(table, schema=schema)
        self.table = self.metadata.tables[table if schema is None else f"{schema}.{table}"]
        engine: sa.Engine
        if isinstance(database, sa.Engine):
            engine = database
        else:
            engine = self._make_engine(database, timeout, pool_size)
        self._url = engine.url.set(query={})  # which may hold passwords as well
        self._secrets = _secrets(engine.url)
        self._database = Database.of(engine.dialect)
        self._connections = Connections(
            engine, size=pool_size, timeout=timeout, keep=not isinstance(database, sa.Engine)
        )
        self._statements = Statements(self.table, engine.dialect)
        self._get_sql = self._statements.get.sql
        self._set_sql = self._statements.set.sql
        self._fetch_one = self._database.fetch_one
        self._timeout = timeout
        self._driver: str = engine.dialect.driver
        # Two stores share their senders' locks if they share the table.
        self._lock_space = f"salmon_state {engine.url.database} {self.table.fullname} ".encode()
        self._file_locks = self._database.file_locks(engine.url)
        self._locks_processes = self._file_locks is not None or self._database.has_locks
        try:
            self._prepare(create)
        except BaseException:
            self._close()
            raise

    # ---------------------------------------------------------------- opening

    def _make_engine(self, database: str | sa.URL, timeout: float, size: int) -> sa.Engine:
        try:
            url = sa.make_url(database)
        except (ArgumentError, ValueError):
            raise ConfigurationError(
                "a database URL looks like 'sqlite:///run/states.db' or "
                "'postgresql+psycopg://user:password@host/database'"
            ) from None
        kind = Database.named(url.get_backend_name())
        if "+" not in url.drivername:
            url = url.set(drivername=f"{url.drivername}+{kind.driver}")
        try:
            dialect = url.get_dialect()
            dialect.import_dbapi()
        except (NoSuchModuleError, ImportError) as error:
            hint = f": pip install 'salmon-state[{kind.extra}]'" if kind.extra else ""
            raise ConfigurationError(
                f"the driver of {url.drivername!r} is not installed{hint} ({error})"
            ) from error
        if dialect.is_async:
            raise ConfigurationError(
                f"{url.drivername!r} is an asynchronous driver, and Salmon is not: "
                f"use {url.get_backend_name()}+{kind.driver}"
            )
        url = kind.prepare_url(url)
        given = url.query
        arguments = {
            name: value
            for name, value in kind.connect_arguments(url, timeout).items()
            if name not in given
        }
        engine = sa.create_engine(
            url,
            connect_args=arguments,
            pool_size=size,
            max_overflow=0,
            pool_timeout=timeout,
            pool_reset_on_return=None,  # nothing is ever left open: a failed connection is closed
            isolation_level="AUTOCOMMIT",
            poolclass=sa.QueuePool,
        )

        @sa.event.listens_for(engine, "do_connect")
        def connect(
            dialect: sa.Dialect, _record: object, args: list[Any], options: dict[str, Any]
        ) -> Any:
            return kind.connect(dialect, args, options, timeout)

        return engine

    def _prepare(self, create: bool) -> None:
        try:
            lease = self._connections.take()
            try:
                prepare_tables(lease.connection, self.metadata, self.table, create=create)
                lease.connection.commit()
            except BaseException:
                self._connections.discard(lease)
                raise
            self._connections.give_back(lease)
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            cause = _original(error)
            # TypeError, ValueError: the driver does not know an option of the URL's query.
            if isinstance(cause, (TypeError, ValueError, IdentifierError)) or (
                self._database.is_misconfigured(cause)
            ):
                raise ConfigurationError(f"{self!r}: {self._describe(cause)}") from cause
            self._raise(cause)

    # ---------------------------------------------------------------- hooks: one conversation

    def _read(self, module: str, sender: Sender) -> str | None:
        digests = (sender_digest(sender), module_digest(module))
        row = self._connections.run(self._fetch_one, self._get_sql, digests)
        return None if row is None else decode_state(row[0])

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        statement = self._statements.get_sender
        return decode_states(
            self._connections.run(_fetch_all, statement.sql, (sender_digest(sender),))
        )

    def _write(self, changes: Iterable[Change]) -> None:
        rows, gone = [], []
        for module, sender, state, updated_at in changes:
            digests = (sender_digest(sender), module_digest(module))
            if state is None:
                gone.append(digests)
            else:
                key = encode_key(module, sender)
                rows.append((*digests, key, encode_state(state), updated_at))
        if len(rows) + len(gone) == 1:  # one statement commits itself
            sql, values = (self._set_sql, rows) if rows else (self._statements.remove.sql, gone)
            self._connections.run(_execute, sql, values[0])
        elif rows or gone:

            def write(cursor: Any) -> None:
                # In the order of the key, so that two writers do not wait for each other.
                if rows:
                    cursor.executemany(self._set_sql, sorted(rows))
                if gone:
                    cursor.executemany(self._statements.remove.sql, sorted(gone))

            self._connections.transaction(write)

    def _compare_and_set(
        self, module: str, sender: Sender, expected: str | None, state: str | None
    ) -> bool:
        if expected is None and state is None:
            return self._read(module, sender) is None
        transition = Transition(module, sender, state, self._clock(), True, expected)
        return self._change(*self._statements.transition(transition)) == 1

    def _change(self, sql: str, parameters: tuple[Any, ...]) -> int:
        """Runs a statement that must not happen twice; returns how many rows it changed."""

        def change(cursor: Any) -> int:
            cursor.execute(sql, parameters)
            count: int = cursor.rowcount
            return count

        return self._connections.transaction(change)

    # ---------------------------------------------------------------- hooks: the unit of work

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        if self._file_locks is None:
            return super()._lock(sender, timeout)
        return self._file_locks.acquire(sender, timeout)

    def _begin(self) -> UnitOfWork:
        return _WORK[type(self._database)](self)

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        self._connections.transaction(
            lambda cursor: self._statements.write(cursor, moves, transitions)
        )

    # ---------------------------------------------------------------- hooks: many conversations

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
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
            rows = self._connections.run(_fetch_all, statement.sql, statement.bind(**values))
            for _, _, key, stored, updated_at in rows:
                yield Record(*decode_key(key), decode_state(stored), from_microseconds(updated_at))
            if len(rows) < _PAGE:
                return
            values["after_sender"], values["after_module"] = rows[-1][:2]
            statement = further = further or self._statements.page(first=False, **filters)

    def _set_all(self, sender: Sender, state: str | None) -> int:
        return self._change(*self._statements.move(Move(sender, state, self._clock())))

    def _rename(self, module: str, old: str, new: str | None) -> int:
        values = {"module": module_digest(module), "in_state": encode_state(old)}
        if new is not None:
            values["to_state"] = encode_state(new)
        return self._in_batches(values, remove=new is None)

    def _purge(self, before: int, module: str | None, state: str | None) -> int:
        values: dict[str, Any] = {"before": before}
        if module is not None:
            values["module"] = module_digest(module)
        if state is not None:
            values["in_state"] = encode_state(state)
        return self._in_batches(values, remove=True)

    def _in_batches(self, values: dict[str, Any], *, remove: bool) -> int:
        """Changes all rows that match, some thousand at a time; returns how many.

        A single statement over a million rows would hold its locks, and the writers that wait for
        them, for longer than a mail server can wait.
        """
        filters = {
            "module": "module" in values,
            "state": "in_state" in values,
            "idle": "before" in values,
        }
        end = self._statements.batch_end(**filters)
        change = self._statements.change_batch(remove=remove, **filters)
        values = {**values, "after_sender": _NOBODY, "size": _BATCH}
        total = 0
        while True:
            row = self._connections.run(self._fetch_one, end.sql, end.bind(**values))
            if row is None:
                return total
            values["last_sender"] = row[0]
            total += self._change(change.sql, change.bind(**values))
            values["after_sender"] = values["last_sender"]

    def _count(self) -> int:
        count: int = self._connections.run(self._fetch_one, self._statements.count.sql, ())[0]
        return count

    def _wipe(self) -> None:
        truncate = self._database.truncate(self._statements.table_name)
        if truncate:
            with suppress(self._connections.driver_error):  # no right to, or it is in use
                self._connections.transaction(partial(_execute_each, truncate))
                return
        self._in_batches({}, remove=True)

    # ---------------------------------------------------------------- hooks: the store itself

    def _ping(self) -> None:
        self._connections.run(self._fetch_one, self._get_sql, (_NOBODY, _NOBODY))

    def _close(self) -> None:
        self._connections.close()
        if self._file_locks is not None:
            self._file_locks.close()

    def _place(self) -> str:
        return self._url.render_as_string(hide_password=True)

    def _wrap(self, error: Exception) -> StorageError:
        error = _original(error)
        text = self._describe(error)
        if self._database.is_damaged(error):
            return StorageError(f"{self._place()}: {text}")
        if isinstance(error, (self._connections.driver_error, SQLAlchemyError, OSError)):
            return StorageUnavailable(text)
        return super()._wrap(error)

    def _describe(self, error: object) -> str:
        """Returns an error in one line, without the password."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


_WORK: Mapping[type[Database], type[SQLWork]] = {
    SQLite: SQLiteWork,
    PostgreSQL: PostgreSQLWork,
    MariaDB: MariaDBWork,
}


def _check_positive(name: str, value: float, *kinds: type) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < _FOREVER:
        what = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigurationError(f"{name} must be greater than 0 and an {what}, got {value!r}")


def _check_table(name: str) -> None:
    if not name or len(f"{name}_version".encode()) > _LONGEST_NAME:
        raise ConfigurationError(
            f"table must be a name of 1 to {_LONGEST_NAME - len('_version')} bytes, got {name!r}"
        )


def _secrets(url: sa.URL) -> list[str]:
    """Returns the passwords in a URL, wherever the driver takes them from; the longest first."""
    found = {str(url.password or "")}
    for name, values in url.normalized_query.items():
        if "pass" in name.lower():
            found.update(values)
    return sorted(found - {""}, key=len, reverse=True)


def _original(error: Exception) -> Exception:
    """Returns the driver's error inside SQLAlchemy's."""
    if isinstance(error, DBAPIError) and isinstance(error.orig, Exception):
        return error.orig
    return error


def _execute_each(statements: Iterable[str], cursor: Any) -> None:
    for statement in statements:
        cursor.execute(statement)


def _fetch_all(driver: Any, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
    cursor = driver.cursor()
    cursor.execute(sql, parameters)
    rows: list[Any] = cursor.fetchall()
    cursor.close()
    return rows


def _execute(driver: Any, sql: str, parameters: tuple[Any, ...]) -> None:
    cursor = driver.cursor()
    cursor.execute(sql, parameters)
    cursor.close()
