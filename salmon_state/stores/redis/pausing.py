"""Keeping all others from writing for a moment, with what Redis itself has for it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import ResponseError

from salmon_state.errors import StorageUnavailable
from salmon_state.stores.redis.connections import Command, Connections, talk
from salmon_state.stores.redis.servers import UNREACHABLE, Server

__all__ = ["paused"]

_PROBE: Command = (b"EVAL_RO", b"return 0", 0)
"""A server that does not know it would keep our own scripts waiting, too."""
_WITNESS: Command = (b"EVAL", b"return 0", 0)
"""Is kept waiting, as it might write; whoever else ends a pause ends them all."""


@contextmanager
def paused(server: Server, seconds: float) -> Iterator[None]:
    """Has each primary keep whoever writes waiting; whatever store, prefix or database it is in.

    A server ends it a second after the time by itself, if nobody lives to end it before.

    Raises:
        NotImplementedError: A server does not know how, or does not let this user.
        StorageUnavailable: When it is left: it has ended before, by itself or with another one, or
            another server has become the primary, so that others may have written.
    """
    began, layout = time.monotonic(), server.layout()
    held: list[tuple[Connections, Any]] = []
    witnesses: list[tuple[Connections, Any, Any]] = []
    try:
        for pool in server.pools():
            held.append((pool, pool.make()))
            _ask(held[-1][1], _PROBE)
            _ask(held[-1][1], (b"CLIENT", b"PAUSE", math.ceil(1000 * (seconds + 1)), b"WRITE"))
            witnesses.append((*held[-1], pool.make()))
            witnesses[-1][-1].send_command(*_WITNESS)
        server.paused = True
        yield
        in_time = time.monotonic() - began < seconds + 1
    finally:
        server.paused = False
        waiting = [_waits(*each) for each in witnesses]
        answered = [_end(pool, connection) for pool, connection in held]
    if not (in_time and all(waiting) and all(answered) and server.layout() == layout):
        raise StorageUnavailable(
            f"others may have written: they were to wait for {seconds:g} s, which was too short, "
            "or the end of another copy let them go on, or another server has become the primary"
        )


def _ask(connection: Any, command: Command) -> None:
    (reply,) = talk(connection, (command,))
    if isinstance(reply, ResponseError):
        raise NotImplementedError(
            "Redis keeps nobody from writing, which takes version 7 and the rights to CLIENT PAUSE "
            f"and EVAL_RO: stop what writes. It said: {reply}"
        ) from reply


def _waits(pool: Connections, connection: Any, witness: Any) -> bool:
    """Returns whether a witness still waits, and so does whoever writes."""
    try:
        talk(connection, ((b"TIME",),))  # what the server said before has come by then
        return not witness.can_read()
    except UNREACHABLE:
        return False
    finally:
        witness.disconnect()
        pool.pool.release(witness)


def _end(pool: Connections, connection: Any) -> bool:
    """Lets others go on; returns whether it is still a primary that kept them waiting."""
    try:
        (reply,) = talk(connection, ((b"CLIENT", b"UNPAUSE"),))
        return reply == b"OK" and bool(pool.pool.owns_connection(connection))
    except UNREACHABLE:
        return False
    finally:
        pool.pool.release(connection)
