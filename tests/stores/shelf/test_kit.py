"""The kit over a shelf."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from salmon_state import ShelveStorage
from salmon_state.testing import (
    ContractSuite,
    DurableSuite,
    EntrySuite,
    HostileKeySuite,
    ModelSuite,
    RouterSuite,
    SharedEntrySuite,
    SharedSuite,
    ThreadSuite,
    VersionSuite,
)
from salmon_state.testing.suite import OpenStore


class TestShelve(
    ContractSuite,
    EntrySuite,
    HostileKeySuite,
    ModelSuite,
    RouterSuite,
    ThreadSuite,
    DurableSuite,
    SharedEntrySuite,
    SharedSuite,
):
    runs = 30

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(ShelveStorage, str(tmp_path / "states"))


@pytest.mark.slow
class TestVersions(VersionSuite):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(ShelveStorage, str(tmp_path / "states"))


@pytest.mark.stress
class TestManyKills(DurableSuite, SharedSuite, SharedEntrySuite):
    kills = 200
    moments = 16
    forks = 16
    takers_killed = commits_killed = kills_beside_others = 20
    commit_size = 125

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(ShelveStorage, str(tmp_path / "states"))
