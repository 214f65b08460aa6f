"""Proves the store with the kit: `pip install '.[test]'`, then `pytest`."""

from functools import partial
from pathlib import Path

import pytest

from salmon_state import open_storage
from salmon_state.testing import OpenStore, SharedStoreSuites


class TestFileStorage(SharedStoreSuites):
    """What a store is asked that outlives its process, and that processes share."""

    memory = 50_000_000  # a sender's file is made in memory
    thousands = 300  # files that are synced, each

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        """Returns what opens it, as often as a test needs and in whichever process."""
        return partial(open_storage, f"files:///{tmp_path}")
