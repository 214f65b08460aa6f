"""A table of an application's own, beside the states."""

from __future__ import annotations

import sqlalchemy as sa

from salmon_state import current_conversation
from tests.stores.sqlalchemy_places import Place


class Subscribers:
    """Subscribers of whatever an application is for."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._table = sa.Table(
            "subscribers", sa.MetaData(), sa.Column("address", sa.String(100), primary_key=True)
        )
        engine = sa.create_engine(place.url)
        self._table.create(engine)
        engine.dispose()

    def add(self, address: str) -> None:
        """What a handler does."""
        conversation = current_conversation()
        assert conversation is not None
        conversation.connection.execute(self._table.insert(), {"address": address})

    def committed(self) -> set[str]:
        """What everybody else sees."""
        return {row[0] for row in self._place.rows("SELECT address FROM subscribers")}
