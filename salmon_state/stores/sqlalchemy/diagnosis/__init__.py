"""What a SQL database says of itself: the tables here, the rest in a module for each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sqlalchemy as sa

from salmon_state.findings import MANY, Finding, recommend_indexes
from salmon_state.stores.clock import compare_clocks
from salmon_state.stores.sqlalchemy.database import Database
from salmon_state.stores.sqlalchemy.schema import missing_indexes, stored_version

__all__ = ["diagnose"]


def diagnose(
    connection: sa.Connection,
    database: Database,
    tables: sa.MetaData,
    states: sa.Table,
    clock: Callable[[], int],
) -> Iterator[Finding]:
    """Yields what there is to say; see `StateStorage.diagnose`.

    Args:
        connection: One that commits each statement.
        database: Which kind of database it leads to.
        tables: Those of the store.
        states: That of the states.
        clock: Our time, in microseconds since 1970.
    """
    yield from database.diagnose(connection, tables)
    if database.remote:
        driver = connection.connection.driver_connection
        yield compare_clocks(clock, lambda: database.ask_time(driver))
    version = stored_version(connection, tables.tables[f"{states.key}_version"])
    said = version if version >= 0 else "that nothing says, as Alembic made them"
    yield Finding("schema", f"the tables have version {said}")
    yield from _missing_indexes(connection, tables)
    yield from _recommended_indexes(connection, states)


def _missing_indexes(connection: sa.Connection, tables: sa.MetaData) -> Iterator[Finding]:
    for table in tables.sorted_tables:
        for index in missing_indexes(connection, table):
            statement = sa.schema.CreateIndex(index).compile(dialect=connection.dialect)
            text = f"the index {index.name} is missing: each look goes through the whole table"
            yield Finding("indexes", text, " ".join(str(statement).split()))


def _recommended_indexes(connection: sa.Connection, states: sa.Table) -> Iterator[Finding]:
    if states.indexes or sa.inspect(connection).get_indexes(states.name, states.schema):
        return
    some = sa.select(sa.literal(1)).select_from(states).limit(MANY).subquery()
    if connection.scalar(sa.select(sa.func.count()).select_from(some)) == MANY:
        yield recommend_indexes(f"{MANY:,} conversations or more")
