"""The kit catches every wrong store, and every test of the kit catches one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence, Set
from pathlib import Path
from xml.etree import ElementTree

import pytest

import salmon_state.testing
from salmon_state.testing import StoreSuite, VersionSuite, versions
from tests.testing import wrong_suites
from tests.testing.wrong_suites import IN_MEMORY, ON_DISK, Expected, case_name

SUITES = [
    getattr(salmon_state.testing, name)
    for name in salmon_state.testing.__all__
    if name.endswith("Suite") and name != "StoreSuite"
]


def failures_in(cases: Sequence[Expected], directory: Path) -> Set[str]:
    """Runs the kit over wrong stores, in a pytest of its own; returns the cases that failed."""
    report = directory / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "--tb=no", f"--junitxml={report}"]
    options.append("--hypothesis-profile=find-only")
    # What one of them leaves open, Python may notice in the fixture of another.
    options += ["-p", "no:unraisableexception", "-p", "no:threadexception"]
    tests = [f"{wrong_suites.__file__}::{case_name(case)}::{case[-1]}" for case in cases]
    subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=300,
        check=False,
    )
    return {
        case.attrib["classname"].rpartition(".")[2]
        for case in ElementTree.parse(report).iter("testcase")
        if case.find("failure") is not None  # and not an error in a fixture
    }


def caught(cases: Sequence[Expected], directory: Path) -> Set[str]:
    """Returns the cases that failed, be it at the second time.

    A call that stops for the other one goes on after a blink, which may be over on a machine that
    is busy with something else before the other one has had its turn.
    """
    found = failures_in(cases, directory)
    missed = [case for case in cases if case_name(case) not in found]
    return found | failures_in(missed, directory) if missed else found


@pytest.fixture(scope="module")
def caught_in_memory(tmp_path_factory: pytest.TempPathFactory) -> Set[str]:
    return caught(IN_MEMORY, tmp_path_factory.mktemp("wrong"))


@pytest.fixture(scope="module")
def caught_on_disk(tmp_path_factory: pytest.TempPathFactory) -> Set[str]:
    return caught(ON_DISK, tmp_path_factory.mktemp("wrong"))


@pytest.mark.parametrize("case", IN_MEMORY, ids=case_name)
def test_the_kit_catches_in_memory(caught_in_memory: Set[str], case: Expected) -> None:
    assert case_name(case) in caught_in_memory


@pytest.mark.parametrize("case", ON_DISK, ids=case_name)
def test_the_kit_catches_on_disk(caught_on_disk: Set[str], case: Expected) -> None:
    if case[1] is VersionSuite and not _other_python():
        pytest.skip("there is no other Python on this machine that could read differently")
    assert case_name(case) in caught_on_disk


def _other_python() -> bool:
    """Returns whether there is a Python whose Unicode tables differ: those of 3.11 and 3.12 do."""
    return bool(versions._interpreter("3.12" if sys.version_info < (3, 12) else "3.11"))


def test_every_test_of_the_kit_can_fail() -> None:
    tests = {name for suite in SUITES for name in dir(suite) if name.startswith("test_")}
    assert tests - {case[-1].partition("[")[0] for case in (*IN_MEMORY, *ON_DISK)} == set()


def test_there_are_many_wrong_stores() -> None:
    assert len({case[0] for case in (*IN_MEMORY, *ON_DISK)}) >= 120


def test_suites_can_be_combined() -> None:
    """A class that subclasses several suites has the tests and the numbers of each of them."""
    names = [
        name
        for suite in SUITES
        for name in set(dir(suite)) - set(dir(StoreSuite))
        if not name.startswith("_")
    ]
    assert [name for name in names if names.count(name) > 1] == []
