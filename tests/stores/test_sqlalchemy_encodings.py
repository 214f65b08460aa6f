"""PostgreSQL databases in other encodings than UTF-8: what a store writes is ASCII anyway."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import ConfigurationError, SQLAlchemyStorage
from salmon_state.testing.keys import HOSTILE_KEYS


def database_in(encoding: str, postgresql: Any) -> str:
    name = "test_" + secrets.token_hex(6)
    options = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    with postgresql.connect() as administrator:
        administrator.execute(f"CREATE DATABASE {name} {options}")
    found: str = postgresql.url(database=name)
    return found


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
def test_every_key_is_found_again(postgresql: Any, encoding: str) -> None:
    url = database_in(encoding, postgresql)
    with SQLAlchemyStorage(url) as store:
        for number, (module, sender) in enumerate(HOSTILE_KEYS):
            store.set(module, sender, f"S{number}")
    with SQLAlchemyStorage(url) as store:
        states = {(record.module, record.sender): record.state for record in store}
    assert states == {key: f"S{number}" for number, key in enumerate(HOSTILE_KEYS)}


def test_an_engine_of_the_application(postgresql: Any) -> None:
    """One that gives bytes for text is told what to do about it."""
    url = database_in("SQL_ASCII", postgresql)
    engine = sa.create_engine(url)
    with pytest.raises(ConfigurationError, match="client_encoding"):
        SQLAlchemyStorage(engine)
    engine.dispose()
    engine = sa.create_engine(url, connect_args={"client_encoding": "utf8"})
    SQLAlchemyStorage(engine).close()
    engine.dispose()
