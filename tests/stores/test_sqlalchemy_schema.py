"""The tables: who makes them, when, and what somebody without the right to is told."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import ConfigurationError, SQLAlchemyStorage
from salmon_state.stores.sqlalchemy import SCHEMA_VERSION, make_metadata, schema
from tests.services import PASSWORD
from tests.stores.sqlalchemy_places import HANG, Place, run_threads
from tests.stores.sqlalchemy_workers import CONTEXT, open_and_set, processes


def test_twenty_processes_create_the_tables_at_once(place: Place) -> None:
    barrier = CONTEXT.Barrier(20)
    with processes(open_and_set, [(place.url, number, barrier) for number in range(20)]) as answers:
        assert sorted(answers.next() for _ in range(20)) == list(range(20))
    with SQLAlchemyStorage(place.url, create=False) as store:
        assert len(store) == 20
    assert place.rows("SELECT version FROM salmon_state_version") == [(SCHEMA_VERSION,)]


def test_a_user_who_may_not_create_is_told_what_to_run(served: Place) -> None:
    if served.kind == "postgresql":
        limited = served.user("USAGE ON SCHEMA public")
    else:
        limited = served.user(f"SELECT, INSERT, UPDATE, DELETE ON {served.database}.*")
    for create in (True, False):
        with pytest.raises(ConfigurationError) as refused:
            SQLAlchemyStorage(limited, create=create)
        text = str(refused.value)
        assert "CREATE TABLE salmon_state (" in text
        assert "CREATE TABLE salmon_state_version (" in text
        assert PASSWORD not in text
    assert tables(served) == []

    served.run(*statements(text))
    grant(served, limited)
    with SQLAlchemyStorage(limited, create=False) as store:
        store.set("app", "a@x", "POSTING")
        assert store.get("app", "a@x") == "POSTING"


def test_the_statements_suit_any_name(served: Place) -> None:
    served.run('CREATE SCHEMA "Mail List"' if served.kind == "postgresql" else "SELECT 1")
    options: dict[str, Any] = {"schema": "Mail List"} if served.kind == "postgresql" else {}
    with pytest.raises(ConfigurationError) as refused:
        SQLAlchemyStorage(served.url, table="The States", create=False, **options)
    served.run(*statements(str(refused.value)))
    with SQLAlchemyStorage(served.url, table="The States", create=False, **options) as store:
        store.set("app", "a@x", "POSTING")
        assert store.get("app", "a@x") == "POSTING"
        store.clear()
        assert len(store) == 0


def test_create_false_never_tries(place: Place) -> None:
    with pytest.raises(ConfigurationError, match="CREATE TABLE salmon_state"):
        SQLAlchemyStorage(place.url, create=False)
    assert tables(place) == []


def test_a_newer_version_is_refused(place: Place) -> None:
    SQLAlchemyStorage(place.url).close()
    place.run(f"UPDATE salmon_state_version SET version = {SCHEMA_VERSION + 1}")
    for create in (True, False):
        with pytest.raises(ConfigurationError, match=f"version {SCHEMA_VERSION + 1}.*newer"):
            SQLAlchemyStorage(place.url, create=create)


def test_two_stores_in_one_database(place: Place) -> None:
    with SQLAlchemyStorage(place.url) as one, SQLAlchemyStorage(place.url, table="other") as two:
        one.set("app", "a@x", "ONE")
        two.set("app", "a@x", "TWO")
        assert (one.get("app", "a@x"), two.get("app", "a@x")) == ("ONE", "TWO")
    assert tables(place) == [
        f"{name}{suffix}"
        for name in ("other", "salmon_state")
        for suffix in ("", "_entries", "_version")
    ]


def test_a_schema_of_its_own(postgresql: Any) -> None:
    place = Place("postgresql", postgresql.fresh_database(), postgresql)
    with pytest.raises(ConfigurationError, match="mail"):
        SQLAlchemyStorage(place.url, schema="mail")
    place.run("CREATE SCHEMA mail")
    with SQLAlchemyStorage(place.url, schema="mail") as store:
        store.set("app", "a@x", "POSTING")
        assert [record.state for record in store] == ["POSTING"]
    assert tables(place) == []
    assert place.rows("SELECT state FROM mail.salmon_state") == [("POSTING",)]


def test_another_database_of_the_server_as_schema(mariadb: Any) -> None:
    place = Place("mariadb", mariadb.fresh_database(), mariadb)
    other = sa.make_url(mariadb.fresh_database()).database
    with SQLAlchemyStorage(place.url, schema=other) as store:
        store.set("app", "a@x", "POSTING")
    assert tables(place) == []
    assert place.rows(f"SELECT state FROM {other}.salmon_state") == [("POSTING",)]
    with pytest.raises(ConfigurationError, match="nowhere"):
        SQLAlchemyStorage(place.url, schema="nowhere")


def test_tables_that_the_application_made_from_the_metadata(place: Place) -> None:
    """As Alembic does: the tables, and nothing in them."""
    engine = sa.create_engine(place.url)
    make_metadata().create_all(engine)
    engine.dispose()
    with SQLAlchemyStorage(place.url, create=False) as store:
        store.set("app", "a@x", "POSTING")
    with SQLAlchemyStorage(place.url) as store:
        assert store.get("app", "a@x") == "POSTING"


def test_the_metadata_joins_an_applications_own(place: Place) -> None:
    metadata = sa.MetaData()
    sa.Table("customer", metadata, sa.Column("id", sa.Integer, primary_key=True))
    for table in make_metadata().sorted_tables:
        table.to_metadata(metadata)
    assert sorted(metadata.tables) == [
        "customer", "salmon_state", "salmon_state_entries", "salmon_state_version",
    ]  # fmt: skip


def test_migration_happens_once_for_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with SQLAlchemyStorage(place.url) as store:
        store.set("app", "a@x", "POSTING")
    migrated = []

    def migrate(
        metadata: sa.MetaData, table: sa.Table, dialect: sa.Dialect
    ) -> Iterator[sa.Executable]:
        yield sa.text(f"ALTER TABLE {table.name} ADD COLUMN note INTEGER")
        migrated.append(threading.get_ident())

    monkeypatch.setattr(schema, "MIGRATIONS", {SCHEMA_VERSION: migrate})
    monkeypatch.setattr(schema, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    with pytest.raises(ConfigurationError, match="create=True") as refused:
        SQLAlchemyStorage(place.url, create=False)
    assert "ALTER TABLE salmon_state ADD COLUMN note INTEGER;" in str(refused.value)
    migrated.clear()

    barrier = threading.Barrier(8)
    states = []

    def open_and_read() -> None:
        barrier.wait(HANG)
        with SQLAlchemyStorage(place.url) as store:
            states.append(store.get("app", "a@x"))

    run_threads(open_and_read, 8)
    assert states == ["POSTING"] * 8
    assert len(migrated) == 1
    assert place.rows("SELECT note FROM salmon_state") == [(None,)]
    assert place.rows("SELECT version FROM salmon_state_version") == [(SCHEMA_VERSION + 1,)]


def test_a_migration_that_fails_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SQLAlchemyStorage(place.url) as store:
        store.set("app", "a@x", "POSTING")

    def migrate(
        metadata: sa.MetaData, table: sa.Table, dialect: sa.Dialect
    ) -> Iterator[sa.Executable]:
        yield table.update().values(state="BROKEN")
        raise ArithmeticError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", {SCHEMA_VERSION: migrate})
        patch.setattr(schema, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
        with pytest.raises(Exception, match="in the middle"):
            SQLAlchemyStorage(place.url)
    assert place.rows("SELECT version FROM salmon_state_version") == [(SCHEMA_VERSION,)]
    if place.kind != "mariadb":  # where altering a table commits, there is nothing to roll back
        with SQLAlchemyStorage(place.url) as store:
            assert store.get("app", "a@x") == "POSTING"


def tables(place: Place) -> list[str]:
    if place.kind == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
    elif place.kind == "postgresql":
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    else:
        query = (
            "SELECT table_name FROM information_schema.tables "
            f"WHERE table_schema = '{place.database}'"
        )
    return sorted(name for (name,) in place.rows(query))


def statements(message: str) -> list[str]:
    """Returns the statements in an error message, as an administrator would copy them."""
    return re.findall(r"^(?:CREATE|INSERT|UPDATE) .*?;$", message, re.DOTALL | re.MULTILINE)


def grant(place: Place, url: str) -> None:
    user = sa.make_url(url).username
    if place.kind == "postgresql":
        place.run(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}")
