"""Stores in SQLite that mistake what handlers write beside the states; the docstring says how."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from salmon_state import SQLAlchemyStorage
from salmon_state.backend import UnitOfWork
from salmon_state.testing import RowSuite


class InSQLite(SQLAlchemyStorage):
    """Rows are right here."""

    def __init__(self, path: str, *, protect: bool = False) -> None:
        super().__init__(f"sqlite:///{path}", protect=protect)
        self.path = path


class SaysNothingOfRows(InSQLite):
    """Has them, and denies it."""

    has_connection = False


class CommitsRowsAtOnce(InSQLite):
    """Gives handlers a connection that has nothing to do with the conversation."""

    def _begin(self) -> UnitOfWork:
        unit: Any = super()._begin()
        engine = sa.create_engine(f"sqlite:///{self.path}", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            unit.connection = lambda depth: connection
        return unit  # type: ignore[no-any-return]


class KeepsInnerRows(InSQLite):
    """Has one transaction for all conversations in one another, and undoes nothing in it."""

    def _begin(self) -> UnitOfWork:
        unit: Any = super()._begin()
        unit.leave = lambda depth, *, undo, failed: None
        return unit  # type: ignore[no-any-return]


class DropsWhatFailed(InSQLite):
    """Undoes the rows of a handler that raises, and commits its ERROR."""

    def _begin(self) -> UnitOfWork:
        unit: Any = super()._begin()
        commit = unit.commit

        def without_rows(writes: Any, *, failed: bool) -> None:
            if failed:
                unit.connection(0).exec_driver_sql("DELETE FROM rows")
            commit(writes, failed=failed)

        unit.commit = without_rows
        return unit  # type: ignore[no-any-return]


ON_DISK = (
    (SaysNothingOfRows, RowSuite, "test_rows_are_declared"),
    (CommitsRowsAtOnce, RowSuite, "test_rows_are_committed_with_the_states"),
    (DropsWhatFailed, RowSuite, "test_rows_of_a_mail_that_comes_again"),
    (KeepsInnerRows, RowSuite, "test_rows_of_an_inner_conversation"),
)
