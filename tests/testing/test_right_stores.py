"""The whole kit finds nothing wrong with a right store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from salmon_state.testing import (
    ContractSuite,
    DurableSuite,
    HostileKeySuite,
    ModelSuite,
    OpenStore,
    RouterSuite,
    SharedSuite,
    ThreadSuite,
    VersionSuite,
)
from tests.testing.right_stores import TableStorage


class TestTable(
    ContractSuite,
    HostileKeySuite,
    ModelSuite,
    RouterSuite,
    ThreadSuite,
    DurableSuite,
    SharedSuite,
    VersionSuite,
):
    runs = 30

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(TableStorage, str(tmp_path / "states.db"))
