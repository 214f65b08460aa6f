"""Proves the store with the kit: `pip install '.[test]'`, then `pytest`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from salmon_state import StateStorage, open_storage
from salmon_state.keys import Sender
from salmon_state.testing import FaultSuite, FileSuite, OpenStore, SharedStoreSuites
from salmon_state.testing.faults import Fault, moved_away, no_space, unmounted

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


class TestFaults(FaultSuite, FileSuite):
    """What a store is asked that has files: they are away, damaged, or cannot be written."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        """Makes a directory that can be moved away."""
        place = tmp_path / "states"
        place.mkdir()
        return place

    @pytest.fixture
    def open_store(self, place: Path) -> OpenStore:
        """Returns what opens it, with a short time limit: the tests wait for it."""
        return partial(open_storage, f"files:///{place}", timeout=0.5)

    @pytest.fixture
    def open_at(self) -> Callable[[str], StateStorage]:
        """Returns what opens it at a path, which may be relative."""

        def open_at(path: str) -> StateStorage:
            Path(path).mkdir(exist_ok=True)
            return open_storage(f"files:///{path}")

        return open_at

    @pytest.fixture(params=[moved_away, unmounted])
    def take_away(self, place: Path, request: pytest.FixtureRequest) -> Fault:
        """Returns what makes a context in which the place is away."""
        return partial(request.param, place)

    @pytest.fixture
    def fail_writes(self) -> Fault:
        """Returns what makes a context in which nothing can be written."""
        return no_space

    @pytest.fixture
    def damage(self, place: Path) -> Callable[[str, Sender], None]:
        """Returns what damages what is kept of a sender, and of nobody else."""

        def damage(module: str, sender: Sender) -> None:
            [path] = (path for path in place.iterdir() if str(sender) in path.read_text("ascii"))
            path.write_bytes(b"x")

        return damage
