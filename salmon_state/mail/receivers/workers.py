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

Only so many workers as are said to be useful side by side are younger than that. Python runs one
thread at a time anyway, and those that compete for it slow each other down: on SQLite one alone was
measured to handle 2,300 mails a second, two 1,600 and eight 1,100. With a database server two
handle 1,450 where one handles 1,200, as one runs while the other waits for an answer.
"""

_TOGETHER = 0.002
"""Seconds for which a worker goes on with further mails before those that it has are settled.

On SQLite four or five mails are settled by one write to the disk then. And as the loop and the
worker change places less often, a mail takes 0.7 times as much of the processor.
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

    A sender's next mail begins when the one before is settled, and waits without keeping a worker
    from others; so nobody has more than one worker, however many mails they send. Senders take
    turns in the order in which they came.

    A worker that is done takes the next mail itself. If the loop gave it one, it would stand still
    while the loop wakes up and wakes it. Nor is the loop told of each mail that is to be settled,
    but of those that were handled within a moment, which are settled together before. If the next
    one takes longer than such a moment, another worker settles those before it.

    Args:
        loop: Where the results are told.
        threads: How many mails may be in hand at a time.
        patience: Seconds after which a mail whose turn has not come is given up.
        side_by_side: How many mails are begun before it is known that one of them waits.
        settle: What is to be done with results before they are told, for several at a time.
        is_settled: Whether there is nothing to be done with a result: then it is told at once.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        threads: int,
        patience: float,
        side_by_side: int = 1,
        settle: Callable[[list[_Result]], None] = lambda results: None,
        is_settled: Callable[[_Result], bool] = lambda result: False,
    ) -> None:
        self._loop = loop
        self._threads = threads
        self._patience = patience
        self._side_by_side = side_by_side
        self._settle = settle
        self._is_settled = is_settled
        self._lock = threading.Lock()  # of all below
        self._behind: dict[str, deque[_Job[_Result]]] = {}  # senders who have a turn, and the rest
        self._ready: deque[_Job[_Result]] = deque()
        self._working = 0
        self._untold = 0
        self._young: tuple[_Job[_Result], ...] = ()  # in the order in which they began
        self._done: list[tuple[_Job[_Result], _Result]] = []  # and not settled
        self._until = 0.0  # more may be done
        self._is_watching = False
        self._is_closed = False
        self.idle = asyncio.Event()
        self.idle.set()
        self._begun = [SimpleQueue[_Job[_Result] | None]() for _ in range(threads)]
        # The last one that went to rest is the first to be woken: its caches are warm.
        self._resting = list(self._begun)
        for number, begun in enumerate(self._begun):
            # A daemon: one that hangs must not keep the process from ending.
            name = f"worker {number}"
            threading.Thread(target=self._run, args=(begun,), name=name, daemon=True).start()

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
            job.done.add_done_callback(lambda _: self._let_go(job))
        self._watch()
        return job.done

    def _give_up(self, job: _Job[_Result]) -> None:
        with self._lock:
            if job.began is None and not job.done.done():
                job.done.set_exception(TooBusy())

    def _let_go(self, job: _Job[_Result]) -> None:
        """Forgets what was to be done: a mail is large, and its turn may come much later."""
        with self._lock:
            if job.began is None:
                del job.work

    def _tell(self, done: list[tuple[_Job[_Result], _Result]]) -> None:
        for job, result in done:
            if job.patience is not None:
                job.patience.cancel()
            if not job.done.done():  # the client has not gone
                job.done.set_result(result)
        self._watch()
        with self._lock:
            self._untold -= len(done)
            if not self._untold and not self._ready:
                self.idle.set()

    def _watch(self) -> None:
        """Has the young looked at when one is old: one timer for many that are done by then."""
        with self._lock:  # a worker between two mails has none
            young = self._young
        if young and not self._is_watching:
            self._is_watching = True
            self._loop.call_at((young[0].began or 0.0) + _BRIEF, self._look)

    def _look(self) -> None:
        self._is_watching = False
        with self._lock:
            brief = self._loop.time() - _BRIEF
            while self._young and (self._young[0].began or 0.0) <= brief:
                self._young = self._young[1:]
                self._begin()
            if self._done and not self._young and self._resting:
                self._resting.pop().put(None)
        self._watch()

    def close(self) -> None:
        """Lets the threads end, when they are done with what they have in hand."""
        with self._lock:
            self._ready.clear()
            self._behind.clear()
            self._is_closed = True
        for begun in self._begun:
            begun.put(None)

    # ---------------------------------------------------------------- in a worker

    def _run(self, begun: SimpleQueue[_Job[_Result] | None]) -> None:
        while True:
            job = begun.get()
            if job is None:
                if self._is_closed:
                    return
                job = self._go_on(begun)
            elif done := self._settled():  # of a worker that may be long at what it does now
                with self._lock:
                    self._begin()  # what has waited for one of them; this one has something to do
                self._tell_soon(done)
            while job is not None:
                result = job.work()
                job = self._end(job, result) or self._go_on(begun)

    def _end(self, job: _Job[_Result], result: _Result) -> _Job[_Result] | None:
        """Returns what to do before the results are settled, if anything is."""
        is_settled = self._is_settled(result)
        with self._lock:
            self._working -= 1
            self._young = tuple(each for each in self._young if each is not job)
            if is_settled:
                self._leave(job)
            else:
                if not self._done:
                    self._until = (job.began or 0.0) + _TOGETHER
                self._done.append((job, result))
            # There must be one who settles them if the next one takes long.
            goes_on = not self._done or (self._resting and self._loop.time() < self._until)
            following = self._next() if goes_on else None
        if is_settled:
            self._tell_soon([(job, result)])
        return following

    def _go_on(self, begun: SimpleQueue[_Job[_Result] | None]) -> _Job[_Result] | None:
        """Settles what is done, and returns what to do then, if anything is."""
        done = self._settled()
        with self._lock:
            job = self._take(begun)
        self._tell_soon(done)  # not before there is something new to watch
        return job

    def _settled(self) -> list[tuple[_Job[_Result], _Result]]:
        """Returns what is to be told, when it is settled."""
        with self._lock:
            done, self._done = self._done, []
        if done:
            self._settle([result for _, result in done])
        with self._lock:
            for job, _ in done:
                self._leave(job)
        return done

    def _tell_soon(self, done: list[tuple[_Job[_Result], _Result]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits
            self._loop.call_soon_threadsafe(self._tell, done)

    # ---------------------------------------------------------------- with the lock

    def _begin(self) -> None:
        """Wakes a worker if there is something to do; one that is about to rest looks itself."""
        job = self._next() if self._resting else None
        if job is not None:
            self._resting.pop().put(job)

    def _take(self, begun: SimpleQueue[_Job[_Result] | None]) -> _Job[_Result] | None:
        """Returns what a worker does next, or lets it rest."""
        job = self._next()
        if job is None:
            self._resting.append(begun)
        return job

    def _next(self) -> _Job[_Result] | None:
        """Returns what is to begin now, if anything may."""
        while self._ready and self._working < self._threads:
            if len(self._young) == self._side_by_side:
                break
            job = self._ready.popleft()
            if job.done.done():  # given up, or the client has gone
                self._leave(job)
                continue
            job.began = self._loop.time()
            self._working += 1
            self._untold += 1
            self._young = (*self._young, job)
            return job
        return None

    def _leave(self, job: _Job[_Result]) -> None:
        behind = self._behind.get(job.sender)
        if behind:
            self._ready.append(behind.popleft())
        elif behind is not None:
            del self._behind[job.sender]
