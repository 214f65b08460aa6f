"""Workers: threads that handle mails, those of one sender one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

__all__ = ["TooBusy", "Workers"]

_BRIEF = 0.001
"""Seconds after which a worker is taken to wait for something: a network, a disk, a lock.

Only one worker at a time is younger than that. Python runs one thread at a time anyway, and those
that compete for it were measured to handle 1,100 mails a second on SQLite with eight threads where
one alone handles 1,900.
"""

_Result = TypeVar("_Result")


class TooBusy(Exception):
    """A mail waited too long for its turn, and nothing of it was handled."""


class _Job(Generic[_Result]):
    def __init__(
        self, sender: str, work: Callable[[], _Result], done: asyncio.Future[_Result]
    ) -> None:
        self.sender = sender
        self.work = work
        self.done = done
        self.began: float | None = None
        self.patience: asyncio.TimerHandle | None = None


class Workers(Generic[_Result]):
    """Threads for a loop, in which all public methods are called.

    A sender's next mail begins when the one before has ended, and waits without keeping a worker
    from others; so nobody has more than one worker, however many mails they send. Senders take
    turns in the order in which they came.

    A worker that is done takes the next mail itself. If the loop gave it one, it would stand still
    while the loop wakes up and wakes it.

    Args:
        loop: Where the results are told.
        threads: How many mails may be in hand at a time.
        patience: Seconds after which a mail whose turn has not come is given up.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int, patience: float) -> None:
        self._loop = loop
        self._threads = threads
        self._patience = patience
        self._begun: SimpleQueue[_Job[_Result] | None] = SimpleQueue()  # for workers that rest
        self._lock = threading.Lock()  # of the four below
        self._behind: dict[str, deque[_Job[_Result]]] = {}  # senders who have a turn, and the rest
        self._ready: deque[_Job[_Result]] = deque()
        self._working = 0
        self._newest: _Job[_Result] | None = None
        self._is_watching = False
        self.idle = asyncio.Event()
        self.idle.set()
        for number in range(threads):
            # A daemon: one that hangs must not keep the process from ending.
            name = f"worker {number}"
            threading.Thread(target=self._run, name=name, daemon=True).start()

    # ---------------------------------------------------------------- in the loop

    def submit(self, sender: str, work: Callable[[], _Result]) -> asyncio.Future[_Result]:
        """Lets a worker do something when it is the sender's turn.

        Args:
            sender: Whose turn it must be; with ``''`` nobody's.
            work: What to do; it must not raise.

        Returns:
            What becomes of it: the result, or `TooBusy`. Cancelled, it is not done if it has not
            begun.
        """
        job = _Job(sender, work, self._loop.create_future())
        self.idle.clear()
        with self._lock:
            if sender in self._behind:
                self._behind[sender].append(job)
            else:
                if sender:
                    self._behind[sender] = deque()
                self._ready.append(job)
            self._begin()
        if job.began is None:
            job.patience = self._loop.call_later(self._patience, self._give_up, job)
        self._watch()
        return job.done

    def _give_up(self, job: _Job[_Result]) -> None:
        with self._lock:
            if job.began is None and not job.done.done():
                job.done.set_exception(TooBusy())

    def _tell(self, job: _Job[_Result], result: _Result) -> None:
        if job.patience is not None:
            job.patience.cancel()
        if not job.done.done():  # the client has not gone
            job.done.set_result(result)
        self._watch()
        if not self._working and not self._ready:
            self.idle.set()

    def _watch(self) -> None:
        """Has the newest looked at when it is old: one timer for many that are done by then."""
        newest = self._newest
        if newest is not None and newest.began is not None and not self._is_watching:
            self._is_watching = True
            self._loop.call_at(newest.began + _BRIEF, self._look)

    def _look(self) -> None:
        self._is_watching = False
        with self._lock:
            newest = self._newest
            if newest and newest.began and newest.began + _BRIEF <= self._loop.time():
                self._newest = None
                self._begin()
        self._watch()

    def close(self) -> None:
        """Lets the threads end, when they are done with what they have in hand."""
        with self._lock:
            self._ready.clear()
            self._behind.clear()
        for _ in range(self._threads):
            self._begun.put(None)

    # ---------------------------------------------------------------- in a worker

    def _run(self) -> None:
        job = self._begun.get()
        while job is not None:
            result = job.work()
            following = self._end(job)
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits
                self._loop.call_soon_threadsafe(self._tell, job, result)
            job = following or self._begun.get()

    def _end(self, job: _Job[_Result]) -> _Job[_Result] | None:
        with self._lock:
            self._working -= 1
            if self._newest is job:
                self._newest = None
            self._leave(job)
            return self._next()

    # ---------------------------------------------------------------- with the lock

    def _begin(self) -> None:
        job = self._next()
        if job is not None:
            self._begun.put(job)

    def _next(self) -> _Job[_Result] | None:
        """Returns what is to begin now, if anything may."""
        while self._ready and self._newest is None and self._working < self._threads:
            job = self._ready.popleft()
            if job.done.done():  # given up, or the client has gone
                self._leave(job)
                continue
            job.began = self._loop.time()
            self._working += 1
            self._newest = job
            return job
        return None

    def _leave(self, job: _Job[_Result]) -> None:
        behind = self._behind.get(job.sender)
        if behind:
            self._ready.append(behind.popleft())
        elif behind is not None:
            del self._behind[job.sender]
