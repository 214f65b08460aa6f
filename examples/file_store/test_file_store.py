"""Proves the store with the kit: `pip install '.[test]'`, then `pytest`."""

from functools import partial
from pathlib import Path

import pytest

from salmon_state import open_storage
from salmon_state.testing import OpenStore, SharedStoreSuites

LIMITS = {"memory": "bytes for a commit of 20 MB, as a sender's file is made there"}


class TestFileStorage(SharedStoreSuites):
    """What a store is asked that outlives its process, and that processes share."""

    memory = 50_000_000
    records = thousands = 300  # files that are synced, each
    limits = LIMITS

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        """Returns what opens it, as often as a test needs and in whichever process."""
        return partial(open_storage, f"files:///{tmp_path}")
