"""The kinds of databases that can keep states, and what each needs that the others do not."""

from __future__ import annotations

import sqlalchemy as sa

from salmon_state.errors import ConfigurationError
from salmon_state.stores.sqlalchemy.databases.base import Database
from salmon_state.stores.sqlalchemy.databases.mariadb import MariaDB
from salmon_state.stores.sqlalchemy.databases.postgresql import PostgreSQL
from salmon_state.stores.sqlalchemy.databases.sqlite import SQLite

__all__ = ["Database", "MariaDB", "PostgreSQL", "SQLite", "database_named", "database_of"]


def database_of(dialect: sa.Dialect) -> Database:
    """Returns the database that a dialect of SQLAlchemy is for.

    Raises:
        ConfigurationError: As for `database_named`.
    """
    return database_named(dialect.name)


def database_named(name: str) -> Database:
    """Returns the database that SQLAlchemy calls by this name.

    Raises:
        ConfigurationError: It is none of those that a store can use.
    """
    for kind in (SQLite, PostgreSQL, MariaDB):
        if name in kind.names:
            return kind()
    raise ConfigurationError(
        f"no states can be kept in {name!r}: known: sqlite, postgresql, mysql, mariadb"
    )
