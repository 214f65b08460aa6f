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
        self.patience: asyncio.TimerHandle | None = None


class Workers(Generic[_Result]):
    """Threads for a loop, in which all methods are called.

    A sender's next mail begins when the one before has ended, and waits without keeping a worker
    from others; so nobody has more than one worker, however many mails they send. Senders take
    turns in the order in which they came.

    Args:
        loop: Where the results are told.
        threads: How many mails may be in hand at a time.
        patience: Seconds after which a mail whose turn has not come is given up.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int, patience: float) -> None:
        self._loop = loop
        self._threads = threads
        self._patience = patience
        self._begun: SimpleQueue[_Job[_Result] | None] = SimpleQueue()
        self._behind: dict[str, deque[_Job[_Result]]] = {}  # senders who have a turn, and the rest
        self._ready: deque[_Job[_Result]] = deque()
        self._working = 0
        self._newest: _Job[_Result] | None = None
        self.idle = asyncio.Event()
        self.idle.set()
        for number in range(threads):
            # A daemon: one that hangs must not keep the process from ending.
            name = f"worker {number}"
            threading.Thread(target=self._run, name=name, daemon=True).start()

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
        job.patience = self._loop.call_later(self._patience, _give_up, job)
        self.idle.clear()
        if sender in self._behind:
            self._behind[sender].append(job)
        else:
            if sender:
                self._behind[sender] = deque()
            self._ready.append(job)
            self._begin()
        return job.done

    def _begin(self) -> None:
        while self._ready and self._newest is None and self._working < self._threads:
            job = self._ready.popleft()
            if job.patience is not None:
                job.patience.cancel()
            if job.done.done():
                self._leave(job)
                continue
            self._working += 1
            self._newest = job
            self._loop.call_later(_BRIEF, self._is_waiting, job)
            self._begun.put(job)
        if not self._working and not self._ready:
            self.idle.set()

    def _is_waiting(self, job: _Job[_Result]) -> None:
        if self._newest is job:
            self._newest = None
            self._begin()

    def _run(self) -> None:
        while (job := self._begun.get()) is not None:
            result = job.work()
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits
                self._loop.call_soon_threadsafe(self._end, job, result)

    def _end(self, job: _Job[_Result], result: _Result) -> None:
        self._working -= 1
        if self._newest is job:
            self._newest = None
        if not job.done.done():  # the client has not gone
            job.done.set_result(result)
        self._leave(job)
        self._begin()

    def _leave(self, job: _Job[_Result]) -> None:
        behind = self._behind.get(job.sender)
        if behind:
            self._ready.append(behind.popleft())
        elif behind is not None:
            del self._behind[job.sender]

    def close(self) -> None:
        """Lets the threads end, when they are done with what they have in hand."""
        for _ in range(self._threads):
            self._begun.put(None)


def _give_up(job: _Job[_Result]) -> None:
    if not job.done.done():
        job.done.set_exception(TooBusy())
