"""What the tests of the shelf share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from salmon_state import ShelveStorage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "states"


@pytest.fixture
def store(path: Path) -> Iterator[ShelveStorage]:
    with ShelveStorage(path) as store:
        yield store
