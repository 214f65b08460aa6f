"""Forking in a test: jobs in a child, and locks that another thread holds meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

PATIENCE = 60


def fork() -> int:
    """Forks, and traces nothing in the child.

    coverage.py has a lock, too: if another thread holds it, the child would wait for ever.
    """
    tracer = sys.gettrace()
    sys.settrace(None)
    child = os.fork()
    if child:
        sys.settrace(tracer)
    return child


def in_child(job: Callable[[], object]) -> int:
    """Forks and returns how the child ended: 0 if the job returned, -14 if it hung."""
    child = fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            job()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def held(lock: AbstractContextManager[object]) -> Iterator[None]:
    """Has another thread hold a lock."""
    holding, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            holding.set()
            ended.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert holding.wait(PATIENCE)
        yield
    finally:
        ended.set()
        thread.join(PATIENCE)
