"""The conversation suites catch every wrong store, and every test of them catches one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Set
from pathlib import Path
from xml.etree import ElementTree

import pytest

import salmon_state.testing
from salmon_state.testing import ConversationSuite, SharedConversationSuite, StoreSuite
from tests.testing import wrong_conversation_suites
from tests.testing.wrong_conversation_suites import IN_MEMORY, ON_DISK, Expected, case_name

CASES = (*IN_MEMORY, *ON_DISK)
SUITES = (ConversationSuite, SharedConversationSuite)


@pytest.fixture(scope="module")
def caught(tmp_path_factory: pytest.TempPathFactory) -> Set[str]:
    """Runs the suites over the wrong stores; gives the names of the cases that failed."""
    report = tmp_path_factory.mktemp("wrong") / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "--tb=no", f"--junitxml={report}"]
    subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(wrong_conversation_suites.__file__)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, wrong_conversation_suites.RUN_BY: "1"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    return {
        case.attrib["classname"].rpartition(".")[2]
        for case in ElementTree.parse(report).iter("testcase")
        if case.find("failure") is not None  # and not an error in a fixture
    }


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_the_suites_catch(caught: Set[str], case: Expected) -> None:
    assert case_name(case) in caught


def test_the_suites_catch_nothing_else(caught: Set[str]) -> None:
    assert caught - {case_name(case) for case in CASES} == set()


def test_every_test_of_the_suites_can_fail() -> None:
    tests = {name for suite in SUITES for name in dir(suite) if name.startswith("test_")}
    assert tests - {expected for _, expected in CASES} == set()


def test_the_suites_can_be_combined_with_the_rest_of_the_kit() -> None:
    names = {name for name in salmon_state.testing.__all__ if name.endswith("Suite")}
    suites = {getattr(salmon_state.testing, name) for name in names - {"StoreSuite"}}
    found = [
        name
        for suite in suites
        for name in set(dir(suite)) - set(dir(StoreSuite))
        if not name.startswith("_")
    ]
    assert [name for name in found if found.count(name) > 1] == []
