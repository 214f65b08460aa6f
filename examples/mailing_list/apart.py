"""Writes that are committed at once, while the mail that caused them is still in hand.

What a handler writes is part of its conversation and committed at the end. What must be there
before a mail is sent is written by another thread, which is in no conversation. It is started
before the first mail: ``salmon start`` ends the main thread, and some Pythons (3.12.1) start no
other one after that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

__all__ = ["at_once", "prepare"]

_work: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
_thread: threading.Thread | None = None


def prepare() -> None:
    """Starts the thread, unless it runs."""
    global _thread
    if _thread is None or not _thread.is_alive():
        _thread = threading.Thread(target=_run, name="apart", daemon=True)
        _thread.start()


def at_once(write: Callable[..., Any], *arguments: Any) -> Any:
    """Makes a write of a store and returns what it returned, or raises what it raised."""
    prepare()
    done: Future[Any] = Future()
    _work.put((done, write, arguments))
    return done.result()


def _run() -> None:
    while True:
        done, write, arguments = _work.get()
        try:
            done.set_result(write(*arguments))
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            done.set_exception(error)
