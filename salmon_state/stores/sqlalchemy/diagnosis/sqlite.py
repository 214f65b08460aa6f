"""What there is to say of an SQLite file and of those who share it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from salmon_state.findings import Finding
from salmon_state.stores.files import beside, diagnose_files
from salmon_state.stores.holders import diagnose_locks

__all__ = ["diagnose_sqlite"]


def diagnose_sqlite(connection: sa.Connection, tables: sa.MetaData) -> Iterator[Finding]:
    """Yields what there is to say of each file that holds the tables."""
    pragmas = ("journal_mode", "synchronous")
    journal, synchronous = (
        connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() for pragma in pragmas
    )
    driver = connection.connection.driver_connection
    commits = f"synchronous is {synchronous}"
    if getattr(driver, "wal", None) is not None:  # or it is somebody else's engine
        commits = "each commit is synced"
    yield Finding("durability", f"journal_mode is {journal}, {commits}")
    (file,) = (
        Path(name)
        for _, schema, name in connection.exec_driver_sql("PRAGMA database_list")
        if schema == (next(iter(tables.tables.values())).schema or "main")
    )
    yield from diagnose_files(file)
    yield from diagnose_locks(beside(file, ".conversations"))
