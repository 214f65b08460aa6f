"""migrate: by the server's user or another, shown before it is done."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from salmon_state import ConfigurationError, open_storage
from salmon_state.stores.sqlalchemy.schema import SCHEMA_VERSION
from tests.operate.typing_commands import ANNA, APP, rows, typed
from tests.stores.sqlalchemy_places import Place

VERSION_1 = Path(__file__).parents[1] / "stores/version_1"


def test_tables_of_an_earlier_version(tmp_path: Path) -> None:
    shutil.copy(VERSION_1 / "states.db", tmp_path)
    url = f"sqlite:///{tmp_path}/states.db"
    before = rows(url, "migrate", "--dry-run")
    assert (rows(url, "migrate", "--dry-run"), before[0]["done"]) == (before, False)
    assert before[0]["statements"][-1].endswith(f"SET version = {SCHEMA_VERSION}")
    assert rows(url, "migrate") == [{**before[0], "done": True}]
    assert rows(url, "migrate") == [{"statements": [], "done": True}]
    assert "as it should be" in typed(url, "migrate").stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_by_another_user_than_the_servers(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(kind)
    place = Place(kind, server.fresh_database(), server)
    schema = f"{place.database}." if kind == "mariadb" else ""
    user = place.user(*([f"SELECT ON {schema}*"] if kind == "mariadb" else []))
    with pytest.raises(ConfigurationError, match="CREATE TABLE"):
        open_storage(user)
    place.run(*(each for each in rows(place.url, "migrate", "--dry-run")[0]["statements"]))
    assert rows(place.url, "migrate") == [{"statements": [], "done": True}]
    name = user.partition("://")[2].partition(":")[0]
    whom = f"{name}@'%'" if kind == "mariadb" else name
    for table in ("salmon_state", "salmon_state_entries", "salmon_state_version"):
        place.run(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}{table} TO {whom}")
    assert typed(user, "set", APP, ANNA, "POSTING").exit_code == 0


def test_a_store_without_tables(tmp_path: Path) -> None:
    url = f"shelve:///{tmp_path}/states"
    assert rows(url, "migrate") == [{"statements": [], "done": True}]
