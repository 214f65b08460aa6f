"""SQLAlchemyStorage: states in a SQL database, shared by processes and machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IdentifierError, SQLAlchemyError

from salmon_state.errors import ConfigurationError, StorageError, StorageUnavailable
from salmon_state.keys import Sender
from salmon_state.masking import Mask
from salmon_state.options import options_of
from salmon_state.records import Change, Move, Record, Transition
from salmon_state.storage import StateStorage
from salmon_state.stores.locks import FileLocks
from salmon_state.stores.sqlalchemy.connections import Connections, execute, fetch_all
from salmon_state.stores.sqlalchemy.conversations import (
    MariaDBWork,
    PostgreSQLWork,
    SQLiteWork,
    SQLWork,
)
from salmon_state.stores.sqlalchemy.databases import (
    Database,
    MariaDB,
    PostgreSQL,
    SQLite,
    database_of,
)
from salmon_state.stores.sqlalchemy.opening import (
    check_positive,
    check_table,
    make_engine,
    secrets_of,
)
from salmon_state.stores.sqlalchemy.schema import (
    decode_state,
    decode_states,
    encode_state,
    make_metadata,
    module_digest,
    prepare_tables,
    sender_digest,
)
from salmon_state.stores.sqlalchemy.statements import Statements, moved_whole
from salmon_state.stores.sqlalchemy.sweeps import Sweeps
from salmon_state.units import UnitOfWork

__all__ = ["SQLAlchemyStorage"]

_NOBODY = b""


class SQLAlchemyStorage(StateStorage):
    """Keeps the states in a SQL database, through SQLAlchemy 2.

    Any number of threads and processes share it; with a database server, machines too. On SQLite
    the file is in WAL mode and every commit reaches the disk before it returns; on a database
    server durability is what the server is configured for. After the death of a process or of the
    machine each state is the one last acknowledged; after a failover too, if PostgreSQL waits for
    a synchronous standby: what that has not confirmed within the timeout is `StorageUnavailable`.

    An SQLite file that is replaced (a backup moved into place) is opened anew by the next write,
    and by a read if none looked in the last 0.05 s; while it is missing, `StorageUnavailable` is
    raised. Remove the old ``-wal`` and ``-shm`` files when you replace it.

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
        StorageUnavailable: The database cannot be reached now, or only reads, as a standby does
            until it is promoted: worth another try.

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
        check_positive("timeout", timeout, int, float)
        check_positive("pool_size", pool_size, int)
        check_table(table)
        self.metadata = make_metadata(table, schema=schema)
        self.table = self.metadata.tables[table if schema is None else f"{schema}.{table}"]
        engine: sa.Engine
        if isinstance(database, sa.Engine):
            engine = database
        else:
            engine = make_engine(database, timeout, pool_size, options_of(type(self)) or ())
        self._url = engine.url.set(query={})  # which may hold passwords as well
        self._mask = Mask(secrets_of(engine.url))
        self._database = database_of(engine.dialect)
        self._connections = Connections(
            engine, size=pool_size, timeout=timeout, keep=not isinstance(database, sa.Engine)
        )
        # Two stores share their senders' locks if they share the table.
        self._lock_space = f"salmon_state {engine.url.database} {self.table.fullname} ".encode()
        # At most 64 characters, and one name space for all databases of a server.
        self._moves_lock = sha256(self._lock_space + b"moves").hexdigest()[:60]
        self._statements = Statements(self.table, engine.dialect, self._lock_space)
        self._sweeps = Sweeps(self._connections, self._statements, self._database)
        self._get_sql = self._statements.get.sql
        self._set_sql = self._statements.set.sql
        self._remove_sql = self._statements.remove.sql
        self._fetch_one = self._database.fetch_one
        self._timeout = timeout
        self._driver: str = engine.dialect.driver
        self._file_locks: FileLocks | None = None
        try:
            self._prepare(create)
        except BaseException:
            self._close()
            raise
        self._locks_processes = self._file_locks is not None or self._database.has_locks

    def _prepare(self, create: bool) -> None:
        try:
            lease = self._connections.take()
            try:
                self._database.check_writers(lease.connection)
                prepare_tables(lease.connection, self.metadata, self.table, create=create)
                self._file_locks = self._database.file_locks(lease.connection, self.table.schema)
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
                text = f"{self._describe(cause)}{self._database.advice(cause)}"
                wrong = ConfigurationError(f"{self!r}: {text}")
                raise self._mask.apply(wrong, cause)  # noqa: B904 - it has its cause
            self._raise(cause)

    # ---------------------------------------------------------------- hooks: one conversation

    def _read(self, module: str, sender: Sender) -> str | None:
        digests = (sender_digest(sender), module_digest(module))
        row = self._connections.run(self._fetch_one, self._get_sql, digests)
        return None if row is None else decode_state(row[0])

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        statement = self._statements.get_sender
        return decode_states(
            self._connections.run(fetch_all, statement.sql, (sender_digest(sender),))
        )

    def _write(self, changes: Iterable[Change]) -> None:
        changes = tuple(changes)
        if len(changes) == 1:  # one statement commits itself
            module, sender, state, updated_at = changes[0]
            sql = self._remove_sql if state is None else self._set_sql
            row = self._statements.row(module, sender, state, updated_at)
            self._connections.run(execute, sql, row)
        elif changes:
            self._connections.transaction(
                lambda cursor: self._statements.write_many(cursor, changes)
            )

    def _compare_and_set(
        self, module: str, sender: Sender, expected: str | None, state: str | None
    ) -> bool:
        if expected is None and state is None:
            return self._read(module, sender) is None
        transition = Transition(module, sender, state, self._clock(), True, expected)
        return self._connections.change(*self._statements.transition(transition)) == 1

    # ---------------------------------------------------------------- hooks: the unit of work

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        if self._file_locks is None:
            return super()._lock(sender, timeout)
        return self._file_locks.acquire(sender, timeout)

    def _begin(self) -> UnitOfWork:
        return _WORK[type(self._database)](self)

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        def write(cursor: Any) -> None:
            self._statements.write(cursor, moves, transitions)

        if len(moves) + len(transitions) == 1 and not self._database.remote:
            self._connections.run(lambda driver: write(driver.cursor()))
        else:
            moving = self._moves_lock if moved_whole(moves, transitions) else ""
            self._connections.transaction(write, moving=moving)

    # ---------------------------------------------------------------- hooks: many conversations

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        return self._sweeps.scan(module, sender, state)

    def _set_all(self, sender: Sender, state: str | None) -> int:
        move = Move(sender, state, self._clock())
        if not self._database.remote:  # one statement, beside which nobody writes
            return self._connections.change(*self._statements.move(move))
        return self._connections.transaction(
            lambda cursor: self._statements.write(cursor, (move,), ()), moving=self._moves_lock
        )

    def _rename(self, module: str, old: str, new: str | None) -> int:
        values = {"module": module_digest(module), "in_state": encode_state(old)}
        if new is not None:
            values["to_state"] = encode_state(new)
        return self._sweeps.change(values, remove=new is None)

    def _purge(self, before: int, module: str | None, state: str | None) -> int:
        values: dict[str, Any] = {"before": before}
        if module is not None:
            values["module"] = module_digest(module)
        if state is not None:
            values["in_state"] = encode_state(state)
        return self._sweeps.change(values, remove=True)

    def _count(self) -> int:
        count: int = self._connections.run(self._fetch_one, self._statements.count.sql, ())[0]
        return count

    def _wipe(self) -> None:
        self._sweeps.wipe()

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
        return self._mask(f"{type(error).__name__}: {error}")


_WORK: Mapping[type[Database], type[SQLWork]] = {
    SQLite: SQLiteWork,
    PostgreSQL: PostgreSQLWork,
    MariaDB: MariaDBWork,
}


def _original(error: Exception) -> Exception:
    """Returns the driver's error inside SQLAlchemy's."""
    if isinstance(error, DBAPIError) and isinstance(error.orig, Exception):
        return error.orig
    return error
