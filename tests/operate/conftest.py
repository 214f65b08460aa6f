"""The stores that the commands are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services import fresh_url


@pytest.fixture(params=["shelve", "sqlite", "postgresql", "mariadb", "redis_server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store of each kind, which is yet to be made."""
    return fresh_url(request, request.param, tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The URL of a store in a file, which is yet to be made."""
    return f"sqlite:///{tmp_path}/states.db"
