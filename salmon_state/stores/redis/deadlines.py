"""Until when a server may run what it was sent: afterwards, who sent it was told that it failed.

A request that is delayed on its way outlives the patience of who sent it, and the connection: it
must not undo what was acknowledged in between. So each script is told a moment by the server's
clock. Each connection learns that clock when it is first written on, and rarely again.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

__all__ = ["CLOCKS", "Clocks", "Timed"]

_DRIFT = 0.001
"""How much faster one clock may run than another: twice what is allowed to whoever adjusts it."""

_NO_LIMIT = 3600.0
"""In seconds, for an application's client that waits for ever."""


class Timed(tuple[bytes | int, ...]):
    """A command to which its deadline is added when it is sent."""

    __slots__ = ()


class _Clock(NamedTuple):
    theirs: float
    """What the server's clock said, in seconds since 1970."""
    heard: float
    """When that was here, which is later, by our clock that nobody sets."""


class Clocks:
    """What is known of the clocks of servers, by connection."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Any, _Clock] = WeakKeyDictionary()

    def deadline(self, connection: Any) -> bytes:
        """Returns when we shall have given up what is sent now, in microseconds since 1970.

        It is too early rather than too late: by how long the server's answer took when it was
        asked, and by what the two clocks may have come apart since.
        """
        patience = connection.socket_timeout or _NO_LIMIT
        clock = self._known.get(connection)
        age = 0.0 if clock is None else time.monotonic() - clock.heard
        if clock is None or age * _DRIFT > patience / 10:
            clock, age = self._ask(connection), 0.0
        return b"%d" % ((clock.theirs + age * (1 - _DRIFT) + patience) * 1_000_000)

    def forget(self, connection: Any = None) -> None:
        """Forgets the clock of a connection, which may lead to another server now, or all."""
        if connection is None:
            self._known.clear()
        else:
            self._known.pop(connection, None)

    def _ask(self, connection: Any) -> _Clock:
        connection.send_command(b"TIME")
        seconds, microseconds = connection.read_response(disable_decoding=True)
        clock = _Clock(int(seconds) + int(microseconds) / 1_000_000, time.monotonic())
        connection.register_connect_callback(self.forget)
        self._known[connection] = clock
        return clock


CLOCKS = Clocks()
"""Those of this process."""
