"""The conversation suites catch every wrong store, and every test of them catches one."""

from __future__ import annotations

from collections.abc import Set

import pytest

from salmon_state.testing import ConversationSuite, SharedConversationSuite
from tests.testing import wrong_conversation_suites
from tests.testing.wrong_conversation_suites import IN_MEMORY, ON_DISK, Expected, case_name
from tests.testing.wrong_runs import failures_in

CASES = (*IN_MEMORY, *ON_DISK)
SUITES = (ConversationSuite, SharedConversationSuite)


@pytest.fixture(scope="module")
def caught(tmp_path_factory: pytest.TempPathFactory) -> Set[str]:
    """Runs the suites over the wrong stores; gives the names of the cases that failed."""
    return failures_in(wrong_conversation_suites, tmp_path_factory.mktemp("wrong"))


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_the_suites_catch(caught: Set[str], case: Expected) -> None:
    assert case_name(case) in caught


def test_the_suites_catch_nothing_else(caught: Set[str]) -> None:
    assert caught - {case_name(case) for case in CASES} == set()


def test_every_test_of_the_suites_can_fail() -> None:
    tests = {name for suite in SUITES for name in dir(suite) if name.startswith("test_")}
    assert tests - {expected for _, expected in CASES} == set()
