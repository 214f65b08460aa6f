"""Lines in the log that come again and again."""

from __future__ import annotations

import pytest

from salmon_state.mail.receivers.repeated import Repeated


def test_what_is_repeated_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    repeated = Repeated(every=60.0)
    for number in range(1_000):
        repeated.say("a client of %d", number)
        repeated.say("something else")
    assert caplog.messages == ["a client of 0", "something else"]
    repeated._every = 0.0
    repeated.say("a client of %d", 7)
    repeated.say("a client of %d", 8)
    assert caplog.messages[2:] == [
        "a client of 7 (and 999 times since the last such line)",
        "a client of 8",
    ]
