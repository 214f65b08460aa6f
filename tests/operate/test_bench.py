"""bench: it measures both sides, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from salmon_state import open_storage
from tests.operate.typing_commands import rows
from tests.services import fresh_url


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shelve", "sqlite", "postgresql", "mariadb", "redis_server"])
def test_both_sides(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = fresh_url(request, kind, tmp_path)
    with open_storage(url) as store:
        said = rows(url, "bench", "--seconds", "0.1")
        assert [row["what"] for row in said] == ["get", "set", "mail"]
        assert all(row["store"] > 0 and row["driver"] > 0 and row["ratio"] > 0 for row in said)
        assert len(store) == 0
    assert {file for file in tmp_path.iterdir() if ".bench" in file.name} == set()


def test_a_store_without_a_driver() -> None:
    said = rows("memory://", "bench", "--seconds", "0.1")
    assert [row["driver"] for row in said] == [None] * 3
