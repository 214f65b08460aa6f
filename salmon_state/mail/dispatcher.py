"""Dispatcher: sends what an outbox holds, whoever else sends from the same store."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
from datetime import timedelta
from typing import Any

from salmon_state.checks import check_lifetime, check_seconds
from salmon_state.entries import MICROSECOND, SECOND, Kind
from salmon_state.errors import StorageError
from salmon_state.log import log
from salmon_state.mail.batches import decode
from salmon_state.mail.bodies import Bodies
from salmon_state.mail.claims import Claim, ClaimLost, Commits
from salmon_state.mail.expiry import Expiry
from salmon_state.mail.jobs import Jobs
from salmon_state.mail.outbox import Outbox
from salmon_state.mail.sending import Sending
from salmon_state.mail.sessions import Line
from salmon_state.mail.turns import Turns
from salmon_state.mail.verdicts import Schedule

__all__ = ["Dispatcher"]

_IDLE = 60.0
"""Seconds after which a connection is closed that nobody needs."""
_LONGEST_REST = 5.0
_THREADS = 8
"""How many send at least, if there are as many connections: each of its own accord."""
_SIDE_BY_SIDE = 4
"""Over how many connections, at most, one of them sends: mails that wait for each other, but share
a mark, its commit and a turn of the interpreter."""


class Dispatcher:
    """Sends the mails of an outbox through its relay, over several connections that stay open.

    Any number of them, in any number of processes and on any number of machines, share an outbox:
    each batch is claimed by one. When that dies, it is free again after `lease`. A recipient is
    marked as done as soon as the relay has taken the mail; after a crash between the final dot of
    a transaction and that mark, those of this transaction are sent it once more.

    Args:
        outbox: What to send, through its relay.
        connections: How many at the same time, at most. Up to eight threads send, one of which is
            kept from each domain that has the others waiting; with more connections than threads
            each sends up to four mails of a batch side by side, if the relay offers PIPELINING.
        poll: Seconds between two looks for what other processes recorded; what this process
            records is seen at once.
        lease: Seconds for which a claim lasts unless it is extended, as it is while this lives.
        first_retry: Seconds after which a recipient who was refused for now is tried again; each
            further time it is twice as long, give or take a quarter.
        longest_retry: Seconds that are the most.
        give_up: How long to try.
        keep: How long what was given up is kept for `Outbox.retry`.

    Raises:
        TypeError, ValueError: The outbox has no relay, or a number or a time is none.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        connections: int = 32,
        poll: float = 1.0,
        lease: float = 60.0,
        first_retry: float = 300.0,
        longest_retry: float = 4 * 3600.0,
        give_up: timedelta = timedelta(days=5),
        keep: timedelta = timedelta(days=30),
    ) -> None:
        if outbox.relay is None:
            raise ValueError("the outbox has no relay to send through")
        if isinstance(connections, bool) or not isinstance(connections, int) or connections < 1:
            raise ValueError(f"connections must be a whole number, 1 or more, got {connections!r}")
        times = {"poll": poll, "lease": lease, "first_retry": first_retry}
        for name, seconds in {**times, "longest_retry": longest_retry}.items():
            check_seconds(name, seconds, positive=True)
        check_lifetime("give_up", give_up)
        check_lifetime("keep", keep)
        self._outbox = outbox
        self._store = outbox.storage
        self._senders = min(connections, max(_THREADS, connections // _SIDE_BY_SIDE))
        self._side_by_side = connections // self._senders
        self._rest = min(poll, lease / 4)
        self._lease = round(lease * SECOND)
        turns = Turns(self._store)
        self._commits = Commits(self._store)
        self._bodies = Bodies(self._commits)
        self._expiry = Expiry()
        self._sending = Sending(
            outbox,
            turns,
            self._bodies,
            Schedule(first_retry, longest_retry, give_up // MICROSECOND),
            keep // MICROSECOND,
            self._senders,
        )
        self._jobs = Jobs()
        self._woken = threading.Event()
        self._threads: list[threading.Thread] = []

    # ---------------------------------------------------------------- its life

    def start(self) -> None:
        """Starts its threads and returns; it is stopped at the latest when the process ends."""
        atexit.register(self._at_exit, os.getpid())
        self._outbox.listeners.append(self.wake)
        for number in range(self._senders):
            self._run(self._work, f"sender {number}")
        self._run(self._feed, "claims")

    def _run(self, target: Any, name: str) -> None:
        thread = threading.Thread(target=target, name=f"outbox {name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def wake(self) -> None:
        """Makes it look at once for what there is to send."""
        self._woken.set()

    def stop(self, timeout: float = 10.0) -> bool:
        """Ends when the transactions in hand have had their answer; what is left stays for others.

        Args:
            timeout: Seconds to wait for that.

        Returns:
            Whether it has ended. If not, its claims end after the lease.
        """
        atexit.unregister(self._at_exit)
        self._sending.stopping.set()
        self._woken.set()
        if self.wake in self._outbox.listeners:
            self._outbox.listeners.remove(self.wake)
        self._jobs.end(self._senders)
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _at_exit(self, process: int) -> None:
        if os.getpid() == process:  # a child that was forked has none of its threads
            self.stop()

    def __enter__(self) -> Dispatcher:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # ---------------------------------------------------------------- the thread that claims

    def _feed(self) -> None:
        """Claims what is due as long as there is room, and extends what is claimed."""
        stopping, rest = self._sending.stopping, 0.0
        while not stopping.is_set() or self._jobs:
            self._woken.clear()
            try:
                for claim in self._jobs.claims():
                    if claim.is_old(1 / 3):
                        claim.extend()
                if not stopping.is_set() and self._claim_some():
                    continue
                self._bodies.step(busy=bool(self._jobs))
                self._expiry.step(self._store)
                rest = 0.0
            except StorageError:  # which is logged
                rest = min(_LONGEST_REST, 2 * rest or 0.1)
            except Exception:  # noqa: BLE001 - without this thread nothing would be sent
                self._store._log_traceback("the outbox could not be looked into")
                rest = _LONGEST_REST
            self._woken.wait(rest or self._rest)
            if rest:
                stopping.wait(rest)

    def _claim_some(self) -> bool:
        """Claims and hands out; returns whether there may be more, and room for it."""
        pause = self._sending.pause
        room = (1 if pause.failures else 2 * self._senders) - len(self._jobs)
        # One commit for several: while a claim is written, other mails wait.
        if room <= 0 or pause.is_on() or self._jobs.are_waiting:
            return False
        until = self._store._clock() + self._lease
        entries = self._store._call(self._store._claim, Kind.OUTGOING, until, room)
        for entry in sorted(entries, key=lambda entry: entry.name):
            if self._jobs.renew(entry):
                continue
            try:
                self._jobs.add(Claim(self._commits, entry, decode(entry), self._lease))
            except StorageError as error:  # it is damaged
                self._store._log_traceback(str(error))
        return len(entries) == room

    # ---------------------------------------------------------------- the threads that send

    def _work(self) -> None:
        """Sends what there is to send, until there is nothing more."""
        line = Line(self._outbox.relay, self._side_by_side)
        while True:
            try:
                job = self._jobs.take(_IDLE)
            except queue.Empty:
                line.close()
                continue
            if job is None:
                line.close()
                return
            while (claim := self._jobs.next_of(job)) is not None:
                try:
                    self._sending.send(claim, line)
                    while not self._jobs.is_over(claim):  # it was claimed anew
                        self._sending.send(claim, line)
                except ClaimLost:
                    log().warning("%r: the claim of %s was lost", self._outbox, claim.name)
                except StorageError:  # which is logged; the claim ends by itself
                    pass
                except Exception:  # noqa: BLE001 - the others must be sent
                    self._store._log_traceback(f"{claim.name} of the outbox was not sent")
                finally:
                    self._jobs.leave(job, claim)
                    self._woken.set()
