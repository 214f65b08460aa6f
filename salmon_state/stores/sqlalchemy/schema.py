"""The tables: what a row looks like, and how they come to exist in the right version."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable

from salmon_state.errors import ConfigurationError, StorageError
from salmon_state.keys import Sender, ascii_key, parse_key
from salmon_state.stores.encoding import decode_state as decode_state
from salmon_state.stores.encoding import encode_state as encode_state
from salmon_state.stores.sqlalchemy.databases import Database, database_of

__all__ = ["SCHEMA_VERSION", "make_metadata"]

SCHEMA_VERSION = 1
"""The version of the tables that this code reads and writes."""

MIGRATIONS: Mapping[int, Callable[[sa.Connection, sa.Table], None]] = {}
"""By version: what turns the tables of that version into those of the next one."""

_NO_TABLE, _NO_ROW = -2, -1
"""What stands for a version when there is none."""

LONGEST_READABLE_KEY = 10_000
"""In characters; longer ones are compressed, and read one at a time."""
_COMPRESSED = "zlib+json:"
_COMPRESSED_ASCII = "zlib:"
"""What earlier versions wrote: `ascii_key`, compressed."""

_DIGEST = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
_LONG_TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def make_metadata(table: str = "salmon_state", *, schema: str | None = None) -> sa.MetaData:
    """Returns the tables of a store as SQLAlchemy metadata, without connecting to anything.

    For Alembic: put it into ``target_metadata`` and make the store with ``create=False``.

    A row is found by two SHA-256 digests, so that no collation, length limit or NUL rule of any
    database has a say in which conversation is which; and because the sender's comes first, the
    primary key finds all conversations of a sender as well. ``key`` is for people to read:
    ``repr([module, sender])`` in ASCII, or if that is longer than 10,000 characters its JSON,
    compressed. ``state``
    is in ASCII too (see `encode_state`); ``updated_at`` is in microseconds since 1970 UTC.
    """
    metadata = sa.MetaData(schema=schema)
    # A collation of bytes: nothing in these tables is a natural-language text.
    bytewise = {"engine": "InnoDB", "charset": "ascii", "collate": "ascii_bin"}
    options: dict[str, Any] = {
        f"{dialect}_{name}": value
        for dialect in ("mysql", "mariadb")
        for name, value in bytewise.items()
    }
    sa.Table(
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
    sa.Table(
        f"{table}_version",
        metadata,
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        **options,
    )
    return metadata


# ---------------------------------------------------------------- from names to columns


def sender_digest(sender: Sender) -> bytes:
    """Returns what all conversations of a sender share in the primary key."""
    return hashlib.sha256(ascii(sender).encode()).digest()


@lru_cache(maxsize=256)
def _short_module_digest(module: str) -> bytes:
    return hashlib.sha256(ascii(module).encode()).digest()


def module_digest(module: str) -> bytes:
    """Returns what tells the conversations of a sender apart in the primary key."""
    if len(module) > 200:  # made by a key generator from what an attacker wrote: not to be kept
        return _short_module_digest.__wrapped__(module)
    return _short_module_digest(module)


def encode_key(module: str, sender: Sender) -> str:
    """Returns the text of the ``key`` column.

    5,000,000 characters of NUL are 20 MB in ASCII, and MariaDB accepts no more than 16 MiB in one
    statement. Compressed, no 5 MB that a mail can bring take more than 10 MiB, random bytes
    included; at the lowest level, because a higher one makes little of those and takes seconds.
    """
    key = ascii_key(module, sender)
    if len(key) <= LONGEST_READABLE_KEY:
        return key
    packed = zlib.compress(_as_json(module, sender).encode("utf-8", "surrogatepass"), 1)
    return _COMPRESSED + base64.b64encode(packed).decode()


def decode_key(text: str) -> tuple[str, Sender]:
    """Returns the module and the sender; the inverse of `encode_key`.

    Raises:
        StorageError: `encode_key` writes no such text.
    """
    if text.startswith(_COMPRESSED):
        return _parse_json(_decompress(text, _COMPRESSED))
    if text.startswith(_COMPRESSED_ASCII):
        return parse_key(_decompress(text, _COMPRESSED_ASCII))
    return parse_key(text)


def _as_json(module: str, sender: Sender) -> str:
    return json.dumps([module, sender], ensure_ascii=False)


def _parse_json(text: str) -> tuple[str, Sender]:
    try:
        module, sender = json.loads(text)
        if _as_json(module, sender) == text and type(module) is str and _is_sender(sender):
            return module, sender
    except (ValueError, TypeError, RecursionError):
        pass
    raise StorageError(f"damaged key {text[:200]!r}: expected the JSON of [module, sender]")


def _is_sender(value: object) -> bool:
    return value is None or type(value) is str


def _decompress(text: str, prefix: str) -> str:
    try:
        packed = base64.b64decode(text[len(prefix) :])
        return zlib.decompress(packed).decode("utf-8", "surrogatepass")
    except (ValueError, zlib.error):
        raise StorageError(f"damaged key {text[:200]!r}: cannot be decompressed") from None


def decode_states(rows: Iterable[Any]) -> dict[str, str]:
    """Returns the states by module from rows of ``key`` and ``state`` of one sender."""
    return {decode_key(key)[0]: decode_state(state) for key, state in rows}


# ---------------------------------------------------------------- the tables in the database


def prepare_tables(
    connection: sa.Connection, metadata: sa.MetaData, table: sa.Table, *, create: bool
) -> None:
    """Makes sure that the tables exist in the version that this code knows.

    The common case, everything is there, is one query and needs no right but to read.

    Raises:
        ConfigurationError: They are missing and may not be created, are newer than the code, or
            the user may not read and write them.
    """
    version_table = metadata.tables[f"{table.key}_version"]
    database = database_of(connection.dialect)
    with _explained(database, table):
        version = _stored_version(connection, version_table)
    if version == _NO_ROW and not create:
        version = SCHEMA_VERSION  # whoever made the tables, such as Alembic, keeps them current
    if version < SCHEMA_VERSION:
        if not create:
            raise ConfigurationError(_by_hand(connection, metadata, table, version))
        try:
            version = _create_or_migrate(connection, metadata, table, version_table)
        except DBAPIError as error:
            if not database.is_forbidden(error):
                raise
            raise ConfigurationError(_by_hand(connection, metadata, table, version)) from error.orig
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"the table {table.fullname!r} has version {version}, and this salmon-state knows "
            f"versions up to {SCHEMA_VERSION}: install a newer salmon-state"
        )
    with _explained(database, table):
        database.check_rights(connection, table)


@contextmanager
def _explained(database: Database, table: sa.Table) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if not database.is_forbidden(error):
            raise
        raise ConfigurationError(
            f"this user must be granted SELECT, INSERT, UPDATE and DELETE on {table.fullname!r} "
            f"and SELECT on '{table.fullname}_version': {_one_line(error.orig)}"
        ) from error.orig


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _stored_version(connection: sa.Connection, version_table: sa.Table) -> int:
    if not sa.inspect(connection).has_table(version_table.name, schema=version_table.schema):
        return _NO_TABLE
    version = connection.scalar(sa.select(sa.func.max(version_table.c.version)))
    return _NO_ROW if version is None else int(version)


def _create_or_migrate(
    connection: sa.Connection, metadata: sa.MetaData, table: sa.Table, version_table: sa.Table
) -> int:
    with database_of(connection.dialect).schema_lock(connection):
        version = _stored_version(connection, version_table)  # another process may have been here
        if version in (_NO_TABLE, _NO_ROW):
            metadata.create_all(connection)
            connection.execute(version_table.insert().values(version=SCHEMA_VERSION))
            return SCHEMA_VERSION
        while version < SCHEMA_VERSION:
            MIGRATIONS[version](connection, table)
            version += 1
            connection.execute(version_table.update().values(version=version))
        return version


def _by_hand(
    connection: sa.Connection, metadata: sa.MetaData, table: sa.Table, version: int
) -> str:
    if version not in (_NO_TABLE, _NO_ROW):
        return (
            f"the table {table.fullname!r} has version {version} and must be brought to "
            f"{SCHEMA_VERSION}: open the store once with create=True as a user who may alter it"
        )
    statements = [
        str(CreateTable(each).compile(dialect=connection.dialect)).strip() + ";"
        for each in metadata.sorted_tables
    ]
    version_table = connection.dialect.identifier_preparer.format_table(
        metadata.tables[f"{table.key}_version"]
    )
    statements.append(f"INSERT INTO {version_table} VALUES ({SCHEMA_VERSION});")  # noqa: S608
    return (
        f"the table {table.fullname!r} is missing and was not created; "
        "have somebody who may create tables run:\n" + "\n".join(statements)
    )
