"""Moments: whoever comes at any moment of a call finds it not begun, or done."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

from salmon_state.storage import StateStorage
from salmon_state.testing.stopping import StoppingCall, spread

__all__ = ["Meeting", "meet_at_each_moment"]

BLINKS = 6
"""As often the other one had to wait when it is clear that there is a lock."""


class Meeting(NamedTuple):
    """Two who come upon the same entries."""

    call: Callable[[], Any]
    meanwhile: Callable[[], Any]
    check: Callable[[Any, Any], None]
    """Called with what both returned."""


def meet_at_each_moment(
    prepare: Callable[[StateStorage, StateStorage, int], Meeting],
    store: StateStorage,
    other: StateStorage,
    moments: int,
) -> None:
    """Repeats a meeting at moments spread over the whole call.

    Args:
        prepare: One of `meetings.MEETINGS`; called with a number that is new each time.
        store: Who makes the call.
        other: Who comes meanwhile; another handle to the same place, or the same store.
        moments: At how many moments of the call, at most 16; at as many between the lines of the
            store's own class, where what should be one step and is two has its gap; and at as
            many behind changes of files, if Python makes them.
    """
    numbers = count()
    for own, on_files in ((type(store), False), (None, True), (None, False)):
        first = prepare(store, other, next(numbers))
        whole = StoppingCall(first.call, sys.maxsize, own, on_files=on_files)
        whole.run_beside(lambda: None)
        first.check(whole.result, first.meanwhile())
        blinks = 0
        for moment in spread(whole.events, moments):
            meeting = prepare(store, other, next(numbers))
            stopping = StoppingCall(meeting.call, moment, own, on_files=on_files)
            meeting.check(*stopping.run_beside(meeting.meanwhile))
            blinks += stopping.blinked
            if blinks == BLINKS:
                break
