"""The kit catches every wrong store, and every test of the kit catches one."""

from __future__ import annotations

import sys
from collections.abc import Set

import pytest

import salmon_state.testing
from salmon_state.testing import StoreSuite, VersionSuite, versions
from tests.testing import wrong_conversation_suites, wrong_suites
from tests.testing.wrong_runs import failures_in
from tests.testing.wrong_suites import IN_MEMORY, ON_DISK, Expected, case_name

CASES = (*IN_MEMORY, *ON_DISK)
SUITES = [
    getattr(salmon_state.testing, name)
    for name in salmon_state.testing.__all__
    if name.endswith("Suite") and name != "StoreSuite"
]


@pytest.fixture(scope="module")
def caught(tmp_path_factory: pytest.TempPathFactory) -> Set[str]:
    """Runs the kit over the wrong stores; gives the names of the cases that failed."""
    return failures_in(wrong_suites, tmp_path_factory.mktemp("wrong"))


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_the_kit_catches(caught: Set[str], case: Expected) -> None:
    if case[1] is VersionSuite and not _other_python():
        pytest.skip("there is no other Python on this machine that could read differently")
    assert case_name(case) in caught


def _other_python() -> bool:
    """Returns whether there is a Python whose Unicode tables differ: those of 3.11 and 3.12 do."""
    return bool(versions._interpreter("3.12" if sys.version_info < (3, 12) else "3.11"))


def test_every_test_of_the_kit_can_fail() -> None:
    tests = {name for suite in SUITES for name in dir(suite) if name.startswith("test_")}
    cases = (*CASES, *wrong_conversation_suites.IN_MEMORY, *wrong_conversation_suites.ON_DISK)
    assert tests - {case[-1] for case in cases} == set()


def test_suites_can_be_combined() -> None:
    """A class that subclasses several suites has the tests and the numbers of each of them."""
    names = [
        name
        for suite in SUITES
        for name in set(dir(suite)) - set(dir(StoreSuite))
        if not name.startswith("_")
    ]
    assert [name for name in names if names.count(name) > 1] == []
