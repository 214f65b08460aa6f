"""What the processes of the kit do about forks; needs no pytest."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial

from salmon_state.storage import StateStorage
from salmon_state.testing.keys import MODULE, SENDER
from salmon_state.testing.stopping import StoppingCall, spread

__all__ = ["fork_while_opening"]


def fork_while_opening(
    store: StateStorage, open_store: Callable[[], StateStorage], forks: int, seconds: int
) -> list[int]:
    """Forks while another thread opens a store, at so many moments; returns how children ended.

    That is 0, or -14 for a child that was still not done after so many seconds, and then no
    further one is tried.
    """
    opening = partial(_open_and_use, open_store)
    whole = StoppingCall(opening, sys.maxsize)
    whole.run_beside(lambda: None)
    ended = []
    for number, moment in enumerate(spread(whole.events, forks)):
        child = partial(_in_child, store, open_store, f"child{number}@x", seconds)
        ended.append(StoppingCall(opening, moment).run_beside(child)[1])
        store.set(MODULE, f"parent{number}@x", "PARENT")
        if ended[-1] != 0:  # the next one would be stuck as long
            break
    return ended


def _open_and_use(open_store: Callable[[], StateStorage]) -> None:
    with open_store() as store:
        store.get(MODULE, SENDER)


def _in_child(
    store: StateStorage, open_store: Callable[[], StateStorage], sender: str, seconds: int
) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are threads is what is tested
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            store.set(MODULE, sender, "CHILD")
            with open_store() as own:
                status = 0 if own.get(MODULE, sender) == "CHILD" else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
