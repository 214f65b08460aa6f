"""How Hypothesis runs in all of these tests, whatever they import."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings


def test_how_long_an_example_takes_says_nothing() -> None:
    found = settings.get_current_profile_name(), settings().deadline
    assert found == ("salmon-state", None)
    assert HealthCheck.too_slow in settings().suppress_health_check


def test_examples_that_are_written_down_are_tried() -> None:
    assert set(settings().phases) == set(Phase)
