"""Until when a request may begin, by the clock of the server."""

from __future__ import annotations

import time

import pytest

from salmon_state.stores.clock import ServerClock


@pytest.mark.parametrize(("took", "asked"), [(0.3, 1), (0.5, 2)])
def test_an_answer_that_was_long_in_coming_counts_once(
    monkeypatch: pytest.MonkeyPatch, took: float, asked: int
) -> None:
    """It says little about the time: all that it took is missing from the patience."""
    now, answers = 1000.0, [took, 0.0]

    def ask(connection: object) -> float:
        nonlocal now
        theirs = 2e9 + now
        now += answers.pop(0)
        return theirs

    monkeypatch.setattr(time, "monotonic", lambda: now)
    server = ServerClock(ask, 4.0)
    assert server.deadline(None) - 2e9 == pytest.approx(now + 3.6 - took)
    patience = 3.6 - took if asked == 1 else 3.6
    assert server.deadline(None) - 2e9 == pytest.approx(now + patience)
    assert 2 - len(answers) == asked
