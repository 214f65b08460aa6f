"""Until when a server may run what it was sent: afterwards, who sent it was told that it failed.

Each script is told so. Each connection learns the server's clock when it is first written on, and
rarely again.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from salmon_state.stores.clock import ServerClock

__all__ = ["CLOCKS", "Clocks", "Timed"]

_NO_LIMIT = 3600.0
"""In seconds, for an application's client that waits for ever."""


class Timed(tuple[bytes | int, ...]):
    """A command to which its deadline is added when it is sent."""

    __slots__ = ()


class Clocks:
    """What is known of the clocks of servers, by connection."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Any, ServerClock] = WeakKeyDictionary()

    def deadline(self, connection: Any) -> bytes:
        """Returns when we shall have given up what is sent now, in microseconds since 1970."""
        clock = self._known.get(connection)
        known = clock is not None
        if clock is None:
            clock = ServerClock(_ask, connection.socket_timeout or _NO_LIMIT)
        deadline = clock.deadline(connection)
        if not known:  # asking may have connected, with which it would have been forgotten
            self._known[connection] = clock
            connection.register_connect_callback(self.forget)
        return b"%d" % (deadline * 1_000_000)

    def forget(self, connection: Any = None) -> None:
        """Forgets the clock of a connection, which may lead to another server now, or all."""
        if connection is None:
            self._known.clear()
        else:
            self._known.pop(connection, None)


def _ask(connection: Any) -> float:
    connection.send_command(b"TIME")
    seconds, microseconds = connection.read_response(disable_decoding=True)
    return int(seconds) + int(microseconds) / 1_000_000


CLOCKS = Clocks()
"""Those of this process."""
