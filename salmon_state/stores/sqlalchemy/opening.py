"""From what a user gives to an engine: URLs, drivers, options."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from salmon_state.errors import ConfigurationError
from salmon_state.masking import check_login, is_secret
from salmon_state.options import check_query
from salmon_state.stores.sqlalchemy.database import Database
from salmon_state.stores.sqlalchemy.databases.mariadb import MariaDB
from salmon_state.stores.sqlalchemy.databases.postgresql import PostgreSQL
from salmon_state.stores.sqlalchemy.databases.sqlite import SQLite

__all__ = ["check_table", "database_named", "make_engine", "secrets_of"]

_LONGEST_NAME = 63
"""In bytes; PostgreSQL's limit, and MariaDB has one more."""


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


def make_engine(
    database: str | sa.URL, timeout: float, size: int, arguments: Iterable[str]
) -> sa.Engine:
    """Returns the engine of a store that was given a URL.

    Args:
        database: As `SQLAlchemyStorage` is given it.
        timeout: How long connecting and each statement may take, in seconds.
        size: How many connections it opens at most.
        arguments: The names of the options that are none of the URL's.

    Raises:
        ConfigurationError: The URL cannot work, or its driver is missing.
    """
    if isinstance(database, str):
        check_login(database)
    try:
        url = sa.make_url(database)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "a database URL looks like 'sqlite:///run/states.db' or "
            "'postgresql+psycopg://user:password@host/database'"
        ) from None
    kind = database_named(url.get_backend_name())
    if "+" not in url.drivername:
        url = url.set(drivername=f"{url.drivername}+{kind.drivers[0]}")
    usual = " or ".join(f"{url.get_backend_name()}+{driver}" for driver in kind.drivers)
    try:
        dialect = url.get_dialect()
        if dialect.is_async:
            raise ConfigurationError(
                f"{url.drivername!r} is an asynchronous driver, and Salmon is not: use {usual}"
            )
        if dialect.driver not in kind.drivers:
            raise ConfigurationError(
                f"a store does not open {url.drivername!r} by itself, as it knows no way to bound "
                f"how long that waits: use {usual}, or give it an Engine of your own"
            )
        driver = dialect.import_dbapi()
    except (NoSuchModuleError, ImportError) as error:
        hint = f": pip install '{kind.package}'" if kind.package else ""
        raise ConfigurationError(
            f"the driver of {url.drivername!r} is not installed{hint} ({error})"
        ) from error
    given = url.query
    known = kind.options(driver)
    if known is not None:
        asked: Iterable[tuple[str, Any]] = given.items()
        if isinstance(database, str):  # SQLAlchemy leaves out what has no value
            asked = parse_qsl(database.partition("?")[2], keep_blank_values=True)
        check_query(url.get_backend_name(), asked, known, arguments)
    url = kind.prepare_url(url)
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


def check_table(name: str) -> None:
    """Raises `ConfigurationError` if a table, or that of its version, cannot have this name."""
    if not name or len(f"{name}_version".encode()) > _LONGEST_NAME:
        raise ConfigurationError(
            f"table must be a name of 1 to {_LONGEST_NAME - len('_version')} bytes, got {name!r}"
        )


def secrets_of(url: sa.URL) -> list[str]:
    """Returns the passwords in a URL, wherever the driver takes them from."""
    found = [str(url.password or "")]
    for name, values in url.normalized_query.items():
        if is_secret(name):
            found.extend(values)
    return found
