from __future__ import annotations

import pytest

from salmon_state import MemoryStorage
from salmon_state.testing import (
    ContractSuite,
    HostileKeySuite,
    ModelSuite,
    OpenStore,
    RouterSuite,
    ThreadSuite,
)


class TestMemory(ContractSuite, HostileKeySuite, ModelSuite, RouterSuite, ThreadSuite):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        return MemoryStorage
