"""Workers beside a loop that does nothing, and whose time stands, unless the test has it go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from salmon_state.mail.receivers.workers import Workers
from tests.mail.receivers.serving import HANG

IN_BETWEEN = 0.2
"""Seconds for a thread to do what it must not do meanwhile; it does so within one of them."""


class Loop:
    """What workers want of a loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Callable[[], None]] = []
        self.said: SimpleQueue[tuple[Any, ...]] = SimpleQueue()

    def time(self) -> float:
        return self.now

    def create_future(self) -> Any:
        return Future()

    def call_later(self, delay: float, act: Any, *arguments: Any) -> Any:
        return threading.Timer(delay, act)  # never started

    def call_at(self, when: float, act: Any) -> None:
        self.timers.append(act)

    def call_soon_threadsafe(self, act: Any, *arguments: Any) -> None:
        self.said.put((act, *arguments))

    def go_on(self, now: float) -> None:
        """Lets the time pass until then, by which all timers are due."""
        self.now = now
        timers, self.timers = self.timers, []
        for act in timers:
            act()

    def hear(self) -> None:
        """Does what a worker has said, or will soon."""
        act, *arguments = self.said.get(timeout=HANG)
        act(*arguments)


class Mail:
    """One that is at work until the test says so."""

    def __init__(self) -> None:
        self.begun, self.end = threading.Event(), threading.Event()

    def __call__(self) -> int:
        self.begun.set()
        return int(self.end.wait(2 * HANG))


def test_one_that_begins_while_the_loop_looks_is_watched() -> None:
    """It is taken by the worker that ends the one before, at that very moment."""
    in_between, looked = threading.Event(), threading.Event()
    first, second, slow = Mail(), Mail(), Mail()

    class Held(Workers[int]):
        is_held = False

        def _watch(self) -> None:
            if self.is_held:
                second.end.set()
                assert in_between.wait(HANG)
            super()._watch()
            looked.set()

        def _next(self) -> Any:
            if second.end.is_set() and not in_between.is_set():
                looked.clear()
                in_between.set()
                looked.wait(IN_BETWEEN)
            return super()._next()

    loop: Any = Loop()
    workers = Held(loop, 2, HANG)
    done = [workers.submit(f"{each}@x", each) for each in (first, second, slow)]
    loop.now = 0.0005
    first.end.set()
    assert second.begun.wait(HANG)
    workers.is_held = True
    loop.go_on(0.001)
    workers.is_held = False
    assert slow.begun.wait(HANG)
    loop.go_on(0.1)  # it is found to be slow
    loop.hear()
    assert [each.done() for each in done] == [True, True, False]
    slow.end.set()
    workers.close()


def test_one_that_waited_for_what_is_settled_beside_a_slow_one_begins() -> None:
    settling, go_on = threading.Event(), threading.Event()
    first, behind, slow, other = Mail(), Mail(), Mail(), Mail()

    def settle(results: list[int]) -> None:
        settling.set()
        assert go_on.wait(HANG)

    loop: Any = Loop()
    workers = Workers[int](loop, 3, HANG, settle=settle)
    done = workers.submit("anna@x", first)
    workers.submit("anna@x", behind)
    workers.submit("slow@x", slow)
    first.end.set()
    assert slow.begun.wait(HANG)
    workers.submit("other@x", other)
    loop.go_on(0.1)  # the slow one is found to be slow
    assert settling.wait(HANG)
    loop.go_on(0.2)  # and so is the other one, before it begins
    go_on.set()
    loop.hear()
    assert done.done()
    assert behind.begun.wait(HANG)
    for each in (behind, slow, other):
        each.end.set()
    workers.close()


def test_what_is_settled_is_told_at_once() -> None:
    """Also if the next one takes long, and nobody has looked yet."""
    first, slow = Mail(), Mail()
    settled: list[int] = []
    loop: Any = Loop()
    workers = Workers[int](loop, 2, HANG, settle=settled.extend, is_settled=lambda _: True)
    done = [workers.submit(f"{each}@x", each) for each in (first, slow)]
    first.end.set()
    assert slow.begun.wait(HANG)
    loop.hear()
    assert [each.done() for each in done] == [True, False]
    assert settled == []
    slow.end.set()
    workers.close()
