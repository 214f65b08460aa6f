"""Leases: locks on senders that end by themselves, for stores that have no lock of their own."""

from __future__ import annotations

import os
import random
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from salmon_state.entries import (
    ABSENT,
    CHECK,
    SECOND,
    Condition,
    Entry,
    Kind,
    Seen,
    Value,
    Want,
    Write,
)
from salmon_state.errors import Overtaken, StorageUnavailable, busy
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.keys import Sender
from salmon_state.log import log

__all__ = ["LEASE_SECONDS", "EntryLease", "EntryLeases", "Lease", "Leases", "holder_of"]

LEASE_SECONDS = 10.0
"""How long a lease outlives its process; it is extended three times in this time."""

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05


class Lease:
    """A lease that was won, or is being asked for.

    Attributes:
        sender: Whose it is.
        token: What nobody else knows; it begins with the machine and the process, for `holder_of`.
    """

    def __init__(self, leases: Leases, sender: Sender) -> None:
        self._leases = leases
        self.sender = sender
        whose = f"{socket.gethostname()} {os.getpid()} "
        self.token = whose.encode("ascii", "replace") + secrets.token_hex(16).encode()

    def release(self) -> None:
        """Gives it back, if it is still held; in vain if the store is away: then it ends later."""
        self._leases.release(self)


def holder_of(token: Any) -> str:
    """Returns who holds a lease, in words.

    >>> holder_of(b"mail1 4711 0123456789abcdef")
    'process 4711 on mail1'
    """
    match = re.fullmatch(rb"([!-~]{1,255}) ([0-9]{1,10}) [0-9a-f]+", bytes(token))
    if match is None:
        return "a process of an earlier version"
    return f"process {match[2].decode()} on {match[1].decode()}"


class Leases(Forkable):
    """The leases that the conversations of a store hold now; a thread extends them.

    The thread is started with the first lease and ends when there has been none for a while. A
    lease that it cannot extend, because the store was away or the process stood still, ends; who
    holds it finds out at the commit, which proves it. A subclass says where leases are.

    Args:
        seconds: How long a lease outlives its process.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
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

    def close(self) -> None:
        """Stops extending what is still held."""
        with self._changing:
            self._closed.set()
            self._held.clear()

    # ---------------------------------------------------------------- where they are

    def _take(self, lease: Lease) -> bool:
        """Tries to win a lease, once; returns whether it is held now."""
        raise NotImplementedError

    def _extend(self, lease: Lease) -> bool:
        """Makes a lease last anew; returns whether it was still held."""
        raise NotImplementedError

    def _end(self, lease: Lease) -> None:
        """Ends a lease that may still be held; may raise if the store is away."""
        raise NotImplementedError

    # ---------------------------------------------------------------- what becomes of them

    def acquire(self, lease: Lease, timeout: float) -> None:
        """Waits for a lease.

        Raises:
            ConversationBusy: Somebody else had it all the time.
            StorageUnavailable: It was won, and there is no thread to extend it.
        """
        deadline = time.monotonic() + timeout
        pause = _SHORTEST_PAUSE
        while not self._take(lease):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise busy(timeout)
            # Not all at the same moment, or the same one might lose every time.
            time.sleep(min(pause * random.uniform(0.5, 1.0), remaining))  # noqa: S311 - no secret
            pause = min(pause * 2, _LONGEST_PAUSE)
        try:
            self._hold(lease)
        except RuntimeError as error:
            self.release(lease)
            raise StorageUnavailable(f"a lease cannot be extended: {error}") from error

    def _hold(self, lease: Lease) -> None:
        with self._changing:
            self._held.add(lease)
            if self._thread is None:
                thread = threading.Thread(
                    target=self._extend_all, name="salmon_state leases", daemon=True
                )
                thread.start()
                self._thread = thread  # not one that was not started: no lease would last

    def forget(self, lease: Lease) -> bool:
        """Does not extend a lease any more, and leaves it to itself; returns whether it did."""
        with self._changing:
            known = lease in self._held
            self._held.discard(lease)
        return known

    def release(self, lease: Lease) -> None:
        """Ends a lease if it is still held."""
        if self.forget(lease):
            with suppress(Exception):  # whatever a driver raises: then it ends by itself
                self._end(lease)

    def _extend_all(self) -> None:
        while not self._closed.wait(self._seconds / 3):
            with self._changing:
                held = list(self._held)
                if not held:
                    self._thread = None
                    return
            for lease in held:
                try:
                    if not self._extend(lease):
                        self.forget(lease)
                except Exception as error:  # noqa: BLE001 - without this thread no lease would last
                    log().warning("a lease was not extended: %s", type(error).__name__)


class EntryLease(Lease):
    """A lease that is an entry of a store.

    Attributes:
        proof: What a commit asks, so that it fails if the lease was lost.
    """

    def __init__(self, leases: Leases, sender: Sender) -> None:
        super().__init__(leases, sender)
        self.proof = Write(Kind.LEASE, sender, "", CHECK, None, Seen(value=self.token))


class EntryLeases(Leases):
    """Leases that are entries of a store.

    When one ends is written down and compared with the clocks of the machines: where they differ
    by more than two thirds of it, two may believe to hold one, and one of them fails at its
    commit, by `EntryLease.proof`.

    Args:
        commit: As `Backend._commit`.
        load: As `Backend._load`.
        clock: The time in microseconds since 1970.
        seconds: How long a lease outlives its process.
    """

    def __init__(
        self,
        commit: Callable[[Iterable[Write]], object],
        load: Callable[[Sender, Sequence[Want]], list[Entry]],
        clock: Callable[[], int],
        seconds: float,
    ) -> None:
        super().__init__(seconds)
        self._commit = commit
        self._load = load
        self._clock = clock

    def win(self, sender: Sender, timeout: float) -> EntryLease:
        """Waits for a sender's lease; as `acquire`."""
        lease = EntryLease(self, sender)
        self.acquire(lease, timeout)
        return lease

    def restore(self) -> None:
        """Writes the leases that are held once more: the store was wiped."""
        with self._changing:
            held = list(self._held)
        for lease in held:
            self._write(lease, lease.token, ABSENT)  # or somebody was quicker: see the commit

    def _take(self, lease: Lease) -> bool:
        expect: Condition = ABSENT
        for entry in self._load(lease.sender, ((Kind.LEASE, ""),)):
            if entry.at is not None and entry.at > self._clock():
                return False
            expect = Seen(entry.value, entry.at)  # its holder died, or stood still for too long
        return self._write(lease, lease.token, expect)

    def _extend(self, lease: Lease) -> bool:
        return self._write(lease, lease.token, Seen(value=lease.token))

    def _end(self, lease: Lease) -> None:
        self._write(lease, None, Seen(value=lease.token))

    def _write(self, lease: Lease, value: Value | None, expect: Condition) -> bool:
        end = self._clock() + round(self._seconds * SECOND)
        try:
            self._commit([Write(Kind.LEASE, lease.sender, "", value, end, expect)])
        except Overtaken:
            return False
        return True


_watch = ForkWatch()
