"""A directory for a store, and what happens to it while the store is in use."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from salmon_state.testing.faults import Fault, moved_away, no_space, unmounted


class InADirectory:
    """Where a store has its files, for the suites that ask what it says about faults."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        place = tmp_path / "place"
        place.mkdir()
        return place

    @pytest.fixture(params=[moved_away, unmounted])
    def take_away(self, place: Path, request: pytest.FixtureRequest) -> Fault:
        return partial(request.param, place)

    @pytest.fixture
    def fail_writes(self) -> Fault:
        return no_space
