"""The store that Salmon's documentation asks its users to write: a class and a session."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from salmon.routing import ROUTE_FIRST_STATE, StateStorage
from sqlalchemy import orm

Pairs = list[tuple[str, str, str]]


class Base(orm.DeclarativeBase):
    """What the class of the rows derives from."""


class Row(Base):
    """One conversation."""

    __tablename__ = "conversations"
    module: orm.Mapped[str] = orm.mapped_column(sa.String(200), primary_key=True)
    sender: orm.Mapped[str] = orm.mapped_column(sa.String(200), primary_key=True)
    state: orm.Mapped[str] = orm.mapped_column(sa.String(100))


class ORMStorage(StateStorage):
    """A session for each call; on SQLite with the journal and the durability of ours."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _make_durable)
        Base.metadata.create_all(self._engine)
        self._session = orm.sessionmaker(self._engine)

    def get(self, key: str, sender: str) -> str:
        with self._session() as session:
            row = session.get(Row, (key, sender))
            return ROUTE_FIRST_STATE if row is None else row.state

    def set(self, key: str, sender: str, state: str) -> None:
        with self._session.begin() as session:
            row = session.get(Row, (key, sender))
            if state == ROUTE_FIRST_STATE:
                if row is not None:
                    session.delete(row)
            elif row is None:
                session.add(Row(module=key, sender=sender, state=state))
            else:
                row.state = state

    def clear(self) -> None:
        with self._session.begin() as session:
            session.execute(sa.delete(Row))

    def fill(self, pairs: Pairs) -> None:
        rows = [
            {"module": module, "sender": sender, "state": state} for module, sender, state in pairs
        ]
        with self._session.begin() as session:
            session.execute(sa.insert(Row), rows)

    def close(self) -> None:
        self._engine.dispose()


def _make_durable(connection: Any, record: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
