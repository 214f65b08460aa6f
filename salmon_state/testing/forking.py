"""What the processes of the kit do about forks; needs no pytest."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain

from salmon_state.storage import StateStorage
from salmon_state.testing.keys import MODULE, SENDER
from salmon_state.testing.stopping import StoppingCall, spread

__all__ = ["ending_of", "fork_while_opening", "fork_while_writing"]


def fork_while_opening(
    store: StateStorage, open_store: Callable[[], StateStorage], forks: int, seconds: int
) -> list[int]:
    """Forks while another thread opens a store, at so many moments; returns how children ended.

    That is 0, and after a child that ended otherwise no further one is tried.

    Raises:
        AssertionError: A child was still not done after so many seconds.
    """
    stops = _stops(partial(_open_and_use, open_store), None, forks)
    return _fork_at(stops, store, open_store, seconds)


def fork_while_writing(
    store: StateStorage, open_store: Callable[[], StateStorage], forks: int, seconds: int
) -> list[int]:
    """The same while another thread writes to the store that its child goes on with."""
    writing = partial(store.set, MODULE, SENDER, "WRITTEN")
    between_lines = _stops(writing, type(store), forks - forks // 2)
    anywhere = _stops(writing, None, forks // 2)
    return _fork_at(chain(between_lines, anywhere), store, open_store, seconds)


def _stops(call: Callable[[], object], own: type | None, count: int) -> Iterator[StoppingCall]:
    whole = StoppingCall(call, sys.maxsize, own)
    whole.run_beside(lambda: None)
    for moment in spread(whole.events, count):
        yield StoppingCall(call, moment, own)


def _fork_at(
    stops: Iterable[StoppingCall],
    store: StateStorage,
    open_store: Callable[[], StateStorage],
    seconds: int,
) -> list[int]:
    ended = []
    for number, stop in enumerate(stops):
        fork = partial(_fork, store, open_store, number, seconds)
        ended.append(stop.run_beside(fork)[1])
        store.set(MODULE, f"parent{number}@x", "PARENT")
        if ended[-1] != 0:  # the next one would be stuck as long
            break
    return ended


def _open_and_use(open_store: Callable[[], StateStorage]) -> None:
    with open_store() as store:
        store.get(MODULE, SENDER)


def _fork(
    store: StateStorage, open_store: Callable[[], StateStorage], number: int, seconds: int
) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are threads is what is tested
        child = os.fork()
    if child == 0:
        status = 1
        try:
            if number % 2:
                store.close()  # which is the parent's to use
            with open_store() if number % 2 else store as own:
                own.set(MODULE, f"child{number}@x", "CHILD")
            with open_store() as own:
                status = 0 if own.get(MODULE, f"child{number}@x") == "CHILD" else 2
        finally:
            os._exit(status)
    return ending_of(child, seconds)


def ending_of(child: int, seconds: float = 120.0) -> int:
    """Waits for a forked child, and returns its exit status, or the negative number of a signal.

    The child itself has no clock, as it may be stuck in what the store does before `os.fork`
    returns in it. It is told of sooner than its parent is taken to be stuck.

    Raises:
        AssertionError: It has not ended after so many seconds, and was killed.
    """
    deadline = time.monotonic() + seconds
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(
                f"a forked child was stuck in the store, and was killed after {seconds:g} s"
            )
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])
