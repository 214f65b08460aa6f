"""The tables: what a row looks like, and how they come to exist in the right version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from salmon_state.errors import ConfigurationError, MigrationPending
from salmon_state.stores.sqlalchemy.database import Database

__all__ = [
    "SCHEMA_VERSION",
    "make_metadata",
    "missing_indexes",
    "prepare_tables",
    "stored_version",
]

SCHEMA_VERSION = 2
"""The version of the tables that this code reads and writes."""

_NO_TABLE, _NO_ROW = -2, -1
"""What stands for a version when there is none."""

_DIGEST = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
_LONG_TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_LONG_BYTES = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def _whole(state: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    return state


def _beginning(state: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    return sa.func.substr(state, sa.literal_column("1"), sa.literal_column("100"))


STATE_INDEXES: Mapping[str, Callable[[sa.ColumnElement[str]], sa.ColumnElement[str]]] = {
    "sqlite": _whole,
    "postgresql": _beginning,  # which has no room for long ones
}
"""Of what of a state an index can be that gives an order as well."""


def make_metadata(
    table: str = "salmon_state", *, schema: str | None = None, indexes: bool = False
) -> sa.MetaData:
    """Returns the tables of a store as SQLAlchemy metadata, without connecting to anything.

    For Alembic: put it into ``target_metadata`` and make the store with ``create=False``.

    The states have a table of their own, and entries of all other kinds share one. A row is found
    by two SHA-256 digests, so that no collation, length limit or NUL rule of any database has a
    say in which conversation is which; and because the sender's comes first, the primary key finds
    everything of a sender as well. ``key`` is for people to read: ``repr([module, sender])`` in
    ASCII, of other kinds with the entry's name instead of the module, or if that is longer than
    10,000 characters its JSON, compressed. ``state`` is in ASCII too (see `encode_state`);
    ``updated_at`` and ``at`` are in microseconds since 1970 UTC.

    Args:
        table: The name of the table of the states.
        schema: The database schema of all tables, if not the default one.
        indexes: Whether states are found by what they are, by their module and by their time; see
            `SQLAlchemyStorage`.
    """
    metadata = sa.MetaData(schema=schema)
    # A collation of bytes: nothing in these tables is a natural-language text.
    bytewise = {"engine": "InnoDB", "charset": "ascii", "collate": "ascii_bin"}
    options: dict[str, Any] = {
        f"{dialect}_{name}": value
        for dialect in ("mysql", "mariadb")
        for name, value in bytewise.items()
    }
    states = sa.Table(
        table,
        metadata,
        sa.Column("sender_digest", _DIGEST, primary_key=True),
        sa.Column("module_digest", _DIGEST, primary_key=True),
        sa.Column("key", _LONG_TEXT, nullable=False),
        sa.Column("state", _LONG_TEXT, nullable=False),
        sa.Column("updated_at", sa.BigInteger),
        sqlite_with_rowid=False,
        **options,
    )
    entries = sa.Table(
        f"{table}_entries",
        metadata,
        sa.Column("sender_digest", _DIGEST, primary_key=True),
        sa.Column("kind", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("name_digest", _DIGEST, primary_key=True),
        sa.Column("key", _LONG_TEXT, nullable=False),
        sa.Column("value", _LONG_BYTES, nullable=False),
        sa.Column("at", sa.BigInteger),
        **options,
    )
    column = entries.c
    due = (column.kind, column.at, column.sender_digest, column.name_digest)
    sa.Index(f"{table}_due", *due)
    if indexes:
        column = states.c
        place = (column.module_digest, column.sender_digest)
        sa.Index(f"{table}_by_module", column.module_digest)
        sa.Index(f"{table}_by_time", column.updated_at, column.sender_digest, column.module_digest)
        for dialect, part in STATE_INDEXES.items():
            by_state = sa.Index(f"{table}_by_state", part(column.state), *place)
            by_state.ddl_if(dialect).info["dialect"] = dialect
        for dialect in ("mysql", "mariadb"):  # its index of a part of a column gives none
            by_state = sa.Index(
                f"{table}_by_state", column.state, mysql_length=100, mariadb_length=100
            )
            by_state.ddl_if(dialect).info["dialect"] = dialect
    sa.Table(
        f"{table}_version",
        metadata,
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        **options,
    )
    return metadata


def _indexes_of(table: sa.Table, dialect: sa.Dialect) -> Iterator[sa.Index]:
    """Yields the indexes that a table has in a database."""
    for index in table.indexes:
        if index.info.get("dialect", dialect.name) == dialect.name:
            yield index


def missing_indexes(connection: sa.Connection, table: sa.Table) -> list[sa.Index]:
    """Returns the indexes that a table is to have, and has not."""
    found = sa.inspect(connection).get_indexes(table.name, table.schema)
    there = {index["name"] for index in found}
    return [each for each in _indexes_of(table, connection.dialect) if each.name not in there]


# ---------------------------------------------------------------- the tables in the database


def prepare_tables(
    connection: sa.Connection,
    database: Database,
    metadata: sa.MetaData,
    table: sa.Table,
    *,
    create: bool,
) -> None:
    """Makes sure that the tables exist in the version that this code knows.

    The common case, everything is there, is one query and needs no right but to read.

    Raises:
        MigrationPending: They are missing or old, and may not be created or migrated.
        ConfigurationError: They are newer than the code, or the user may not read and write them.
    """
    version_table = metadata.tables[f"{table.key}_version"]
    with _explained(database, table):
        version = stored_version(connection, version_table)
    if version == _NO_ROW and not create:
        version = SCHEMA_VERSION  # whoever made the tables, such as Alembic, keeps them current
    if version < SCHEMA_VERSION:
        if not create:
            raise _by_hand(connection, metadata, table, version)
        try:
            version = _create_or_migrate(connection, database, metadata, table)
        except DBAPIError as error:
            if not database.is_forbidden(error):
                raise
            raise _by_hand(connection, metadata, table, version) from error.orig
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"the table {table.fullname!r} has version {version}, and this salmon-state knows "
            f"versions up to {SCHEMA_VERSION}: install a newer salmon-state"
        )
    if create and table.indexes:
        _create_indexes(connection, database, table)
    with _explained(database, table):
        for each in (table, metadata.tables[f"{table.key}_entries"]):
            database.check_rights(connection, each)


@contextmanager
def _explained(database: Database, table: sa.Table) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if not database.is_forbidden(error):
            raise
        raise ConfigurationError(
            f"this user must be granted SELECT, INSERT, UPDATE and DELETE on {table.fullname!r} "
            f"and '{table.fullname}_entries', and SELECT on '{table.fullname}_version': "
            f"{_one_line(error.orig)}"
        ) from error.orig


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def stored_version(connection: sa.Connection, version_table: sa.Table) -> int:
    """Returns the version of the tables in a database; negative if nothing says one."""
    if not sa.inspect(connection).has_table(version_table.name, schema=version_table.schema):
        return _NO_TABLE
    version = connection.scalar(sa.select(sa.func.max(version_table.c.version)))
    return _NO_ROW if version is None else int(version)


def _create_or_migrate(
    connection: sa.Connection, database: Database, metadata: sa.MetaData, table: sa.Table
) -> int:
    version_table = metadata.tables[f"{table.key}_version"]
    with database.schema_lock(connection):
        version = stored_version(connection, version_table)  # another process may have been here
        if version in (_NO_TABLE, _NO_ROW):
            _run(connection, _creating(metadata.sorted_tables, connection.dialect))
            connection.execute(version_table.insert().values(version=SCHEMA_VERSION))
            return SCHEMA_VERSION
        while version < SCHEMA_VERSION:
            _run(connection, MIGRATIONS[version](metadata, table, connection.dialect))
            version += 1
            connection.execute(version_table.update().values(version=version))
        return version


def _creating(tables: Iterable[sa.Table], dialect: sa.Dialect) -> Iterator[sa.Executable]:
    for table in tables:
        yield CreateTable(table)
        for index in _indexes_of(table, dialect):
            yield CreateIndex(index)


def _run(connection: sa.Connection, statements: Iterable[sa.Executable]) -> None:
    """Runs statements, but for those that create what is there.

    MariaDB commits each of them: whoever was at it before may have been killed between two.
    """
    for statement in statements:
        if isinstance(statement, (CreateTable, CreateIndex)):
            statement.element.create(connection, checkfirst=True)
        else:
            connection.execute(statement)


def _add_entries(
    metadata: sa.MetaData, table: sa.Table, dialect: sa.Dialect
) -> Iterator[sa.Executable]:
    """From 1 to 2: a table for the other kinds of entries. Who has version 1 open needs nothing."""
    return _creating([metadata.tables[f"{table.key}_entries"]], dialect)


_Migration = Callable[[sa.MetaData, sa.Table, sa.Dialect], Iterable[sa.Executable]]

MIGRATIONS: Mapping[int, _Migration] = {1: _add_entries}
"""By version: what turns the tables of that version into those of the next one."""


def _create_indexes(connection: sa.Connection, database: Database, table: sa.Table) -> None:
    missing = missing_indexes(connection, table)
    if missing:
        with database.schema_lock(connection):
            for index in missing:
                index.create(connection, checkfirst=True)


def _by_hand(
    connection: sa.Connection, metadata: sa.MetaData, table: sa.Table, version: int
) -> MigrationPending:
    """Returns what to tell somebody who may not create tables, with the statements to run."""
    dialect = connection.dialect
    versions = dialect.identifier_preparer.format_table(metadata.tables[f"{table.key}_version"])
    if version in (_NO_TABLE, _NO_ROW):
        trouble = "is missing and was not created"
        steps: list[Any] = list(_creating(metadata.sorted_tables, dialect))
        last = f"INSERT INTO {versions} VALUES ({SCHEMA_VERSION})"  # noqa: S608
    else:
        trouble = f"has version {version} and was not brought to {SCHEMA_VERSION}"
        pending = [MIGRATIONS[each] for each in range(version, SCHEMA_VERSION)]
        steps = [
            statement for migrate in pending for statement in migrate(metadata, table, dialect)
        ]
        last = f"UPDATE {versions} SET version = {SCHEMA_VERSION}"  # noqa: S608
    statements = [*(str(step.compile(dialect=dialect)).strip() for step in steps), last]
    text = (
        f"the table {table.fullname!r} {trouble}; open the store once with create=True as a user "
        "who may do so, or have somebody run:\n" + "".join(f"{each};\n" for each in statements)
    )
    return MigrationPending(text.rstrip(), statements)
