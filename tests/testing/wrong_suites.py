"""The kit over every wrong store, to be run by test_wrong_stores.py, which expects the failures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from salmon_state.storage import StateStorage
from salmon_state.testing import OpenStore, StoreSuite, moments, stopping
from tests.testing import (
    wrong_cases,
    wrong_churn,
    wrong_conversation_cases,
    wrong_corners,
    wrong_details,
    wrong_faults,
    wrong_indexes,
    wrong_limits,
    wrong_moments,
    wrong_neighbours,
    wrong_shortcuts,
)
from tests.testing.right_stores import TablePlace

Expected = tuple[type[StateStorage], type[StoreSuite], str]

_THEMES = (
    *(wrong_conversation_cases, wrong_moments, wrong_limits, wrong_details, wrong_corners),
    *(wrong_churn, wrong_indexes, wrong_neighbours, wrong_shortcuts),
)
IN_MEMORY: tuple[Expected, ...] = (
    *wrong_cases.IN_MEMORY,
    *(case for theme in _THEMES for case in theme.IN_MEMORY),
)
ON_DISK: tuple[Expected, ...] = (
    *wrong_cases.ON_DISK,
    *(case for theme in (*_THEMES, wrong_faults) for case in theme.ON_DISK),
)

# More runs and kills, because a random one must meet what is wrong, and the first that does is
# the last; fewer of what takes long; and what waits for ever is not waited for.
_NUMBERS = {
    **dict.fromkeys(("runs", "conversation_runs"), 400),
    **dict.fromkeys(("kills", "kills_beside_others", "kills_waiting", "kills_inside"), 40),
    **dict.fromkeys(("steps_won", "writes", "mails"), 40),
    **dict.fromkeys(("moments", "thread_moments"), 16),
    **dict.fromkeys(("late_after", "late_for_writers"), 1.5),
    "freed_within": 0.5,
    "fork_seconds": 1,
    "tries": 1,
    "forks": 12,
    "commit_size": 5,
}


def case_name(case: Expected) -> str:
    """The name of the class that is made for a case."""
    store, _, test = case
    return f"Test{store.__name__}_{''.join(c if c.isalnum() else '_' for c in test)}"


class Patient:
    """Has a call that stops wait for the other one, however busy the machine is."""

    @pytest.fixture(autouse=True)
    def _long_blinks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stopping, "BLINK", 0.2)
        monkeypatch.setattr(moments, "BLINKS", 99)  # the gap may be behind moments under a lock


class InMemory(Patient):
    """Opens the wrong store."""

    wrong_store: Callable[..., StateStorage]

    @pytest.fixture
    def open_store(self) -> OpenStore:
        return partial(self.wrong_store, **getattr(self.wrong_store, "options", {}))


class OnDisk(Patient, TablePlace):
    """Opens the wrong store on a fresh file."""

    wrong_store: Callable[..., StateStorage]

    @pytest.fixture
    def open_store(self, place: Path) -> OpenStore:
        return partial(self.wrong_store, str(place / "states.db"))

    @pytest.fixture
    def open_at(self) -> Callable[[str], StateStorage]:
        return self.wrong_store


def _case_class(place: type, case: Expected) -> type:
    store, suite, expected = case
    wanted = expected.partition("[")[0]
    unwanted = (name for name in dir(suite) if name.startswith("test_") and name != wanted)
    return type(
        case_name(case),
        (place, suite),
        {**dict.fromkeys(unwanted), "wrong_store": store, **_NUMBERS},
    )


for _place, _cases in ((InMemory, IN_MEMORY), (OnDisk, ON_DISK)):
    for _case in _cases:
        globals()[case_name(_case)] = _case_class(_place, _case)
