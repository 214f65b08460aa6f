"""Moments as stores hold them."""

from __future__ import annotations

from datetime import datetime, timezone

from hypothesis import given
from hypothesis import strategies as st

from salmon_state.entries import from_microseconds, to_microseconds


@given(st.datetimes(datetime(1970, 1, 1), timezones=st.just(timezone.utc)))
def test_moments_survive_storing(moment: datetime) -> None:
    assert from_microseconds(to_microseconds(moment)) == moment


@given(st.none() | st.integers(-(10**15), 10**17))
def test_microseconds_survive_reading(moment: int | None) -> None:
    assert to_microseconds(from_microseconds(moment)) == moment
