"""Conversations in Redis: a lease on the sender, kept alive, and a commit that proves it."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from salmon_state.errors import busy
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.log import log
from salmon_state.storage import Move, Sender, Transition, UnitOfWork
from salmon_state.stores.redis.entries import decode_states
from salmon_state.stores.redis.scripts import ENTER, EXTEND, RELEASE, Lease, Plan
from salmon_state.stores.redis.servers import UNREACHABLE, Server
from salmon_state.thread_locks import ThreadLocks

if TYPE_CHECKING:
    from salmon_state.stores.redis.store import RedisStorage

__all__ = ["Leases", "RedisWork"]


_SHORTEST_PAUSE = 0.001
_LONGEST_PAUSE = 0.02


class Leases(Forkable):
    """The leases that the conversations of a store hold now; a thread extends them.

    The thread is started with the first lease and ends when there has been none for a while. A
    lease that it cannot extend, because the server or the process stood still, ends; who holds it
    finds out when it commits.

    Args:
        server: Where the leases are.
        lease: How long each of them lasts unless it is extended, in seconds.

    Attributes:
        threads: The locks between the threads of this process, which come first: only one of them
            asks the server, and the next one begins at once.
    """

    def __init__(self, server: Server, lease: float) -> None:
        self._server = server
        self._milliseconds = b"%d" % max(1, round(lease * 1000))
        self._interval = lease / 3
        self.threads = ThreadLocks()
        self._start_empty()
        _watch.add(self)

    def _start_empty(self) -> None:
        self._held: set[Lease] = set()
        self._changing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def after_fork(self, *, child: bool) -> None:
        """Begins anew in the child: the leases and the thread are the parent's."""
        if child:
            self._start_empty()

    def win(self, key: bytes, timeout: float) -> tuple[Lease, Any]:
        """Waits for a sender's lease; returns it and the sender's ``HGETALL``.

        Raises:
            ConversationBusy: Somebody else had it all the time.
        """
        lease = Lease(key, secrets.token_hex(16).encode())
        deadline = time.monotonic() + timeout
        pause = _SHORTEST_PAUSE
        while True:
            reply = self._server.run(
                ENTER, (lease.name, key), (lease.token, self._milliseconds), again=True
            )
            if reply is not None:
                self._hold(lease)
                return lease, reply
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise busy(timeout)
            # Not all at the same moment, or the same one might lose every time.
            time.sleep(min(pause * random.uniform(0.5, 1.0), remaining))  # noqa: S311 - no secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    def forget(self, lease: Lease) -> None:
        """Does not extend a lease any more: it was given back, or is left to end by itself."""
        with self._changing:
            self._held.discard(lease)

    def give_back(self, lease: Lease) -> None:
        """Ends a lease, if it is still ours; in vain if the server cannot be reached."""
        self.forget(lease)
        with suppress(*UNREACHABLE):  # then it ends by itself
            self._server.run(RELEASE, (lease.name,), (lease.token,))

    def close(self) -> None:
        """Stops extending what is still held."""
        with self._changing:
            self._closed.set()
            self._held.clear()

    def _hold(self, lease: Lease) -> None:
        with self._changing:
            self._held.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._extend_all, name="salmon_state leases", daemon=True
                )
                self._thread.start()

    def _extend_all(self) -> None:
        while not self._closed.wait(self._interval):
            with self._changing:
                held = list(self._held)
                if not held:
                    self._thread = None
                    return
            try:
                for lease in held:
                    argv = (lease.token, self._milliseconds)
                    if not self._server.run(EXTEND, (lease.name,), argv):
                        self.forget(lease)
            except Exception as error:  # noqa: BLE001 - without this thread no lease would last
                log().warning("leases were not extended: %s", type(error).__name__)


class RedisWork(UnitOfWork):
    """Leases on the senders, and one script that proves them and writes everything.

    It needs 1 round trip to begin and 1 to end, whether something is written or not.
    """

    _store: RedisStorage

    def __init__(self, store: RedisStorage) -> None:
        super().__init__(store)
        self._leases: list[Lease] = []
        self._in_doubt = False

    def enter(self, sender: Sender, timeout: float, *, lock: bool) -> Mapping[str, str]:
        if not lock:
            return self._store._read_sender(sender)
        deadline = time.monotonic() + timeout
        with ExitStack() as undo:
            release = self._store._leases.threads.acquire(sender, timeout)
            undo.callback(release)
            key = self._store._keys.of(sender)
            lease, reply = self._store._leases.win(key, max(0.0, deadline - time.monotonic()))
            undo.callback(self._store._leases.give_back, lease)
            states = decode_states(key, reply)
            undo.pop_all()
        self._releases.append(release)
        self._leases.append(lease)
        return states

    def commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        if not moves and not transitions:
            return
        plan = Plan(self._store._keys).add_moves(moves).add_transitions(transitions)
        try:
            self._store._apply(plan, self._leases)
        except UNREACHABLE:
            self._in_doubt = True
            raise
        for lease in self._leases:
            self._store._leases.forget(lease)
        self._leases = []

    def close(self) -> None:
        leases = self._store._leases
        try:
            for lease in self._leases:
                if self._in_doubt:  # the server does not answer: asking again would take as long
                    leases.forget(lease)
                else:
                    leases.give_back(lease)
        finally:
            super().close()


_watch = ForkWatch()
