"""A call that stops in the middle, while somebody else does something.

A race that a hundred rounds may miss is found in a few when the call stops at moments spread over
all of it, whatever code of the store or its driver that is. It goes on when the other one is done;
or after a blink, because the other one may wait for a lock that the call holds.

The moments between the lines of the store's own class come first: what it does in two steps, where
it must be one, leaves its gap there; then those behind a change of a file, of which there are few.
Of a loop only the first rounds count: otherwise nearly all moments would be in the one with most
rounds, and none where the loop after it has its gaps.

This module is imported by the processes as well; it needs neither pytest nor Hypothesis.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import takewhile
from types import FrameType
from typing import Any

from salmon_state.storage import StateStorage
from salmon_state.testing.processes import PATIENCE

__all__ = ["StoppingCall", "spread", "stop_at_change"]

BLINK = 0.02
"""Seconds for which a call stops, if the other one cannot go on before."""
_ROUNDS = 4
"""How often a call from the same place counts."""
_CHANGES = (
    *("write", "writev", "pwrite", "pwritev", "flush", "fsync", "fdatasync", "truncate"),
    *("ftruncate", "posix_fallocate", "sendfile", "copy_file_range", "rename", "replace"),
    *("link", "symlink", "unlink", "remove", "mkdir", "rmdir"),
)
"""The functions and methods by which Python changes files."""


def spread(events: int, count: int) -> Iterator[int]:
    """Yields so many moments of a call, at most 16, of which the first few are already far apart.

    Args:
        events: How many calls and returns there are in it; without any there is no moment.
        count: How many moments.
    """
    for number in range(count if events else 0):
        turned = int(f"{number:04b}"[::-1], 2)  # 0, 8, 4, 12, 2 ...
        yield max(1, round(events * (turned + 0.5) / 16))


class StoppingCall:
    """A call in a thread of its own, which stops at one of the calls and returns inside it.

    Args:
        call: What is called.
        moment: At which of the calls and returns that are counted it stops, from 1.
        own: A class; counted is only what is called from the files that its methods are in.
        on_files: Counted is only that something that changes a file has returned.

    Attributes:
        events: How many calls and returns were counted until it stopped, or ended.
        blinked: Whether it went on before the other one was done.
        result: What the call returned.
    """

    def __init__(
        self,
        call: Callable[[], Any],
        moment: int,
        own: type | None = None,
        *,
        on_files: bool = False,
    ) -> None:
        self._call = call
        self._moment = moment
        self._on_files = on_files
        self._files = None if own is None else _files_of(own)
        self._reached, self._go_on = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._rounds: Counter[tuple[int, int, str]] = Counter()
        self.events = 0
        self.blinked = False
        self.result: Any = None

    def run_beside(self, meanwhile: Callable[[], Any]) -> tuple[Any, Any]:
        """Makes the call, and the other one when it stops; returns what both returned."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        assert self._reached.wait(PATIENCE), "a call is stuck in the store"
        try:
            seen = meanwhile()
        finally:
            self._go_on.set()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a call is stuck in the store"
        if self._error is not None:
            raise self._error
        return self.result, seen

    def _run(self) -> None:
        sys.setprofile(self._count)
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001 - it is raised again by whoever waits
            self._error = error
        finally:
            sys.setprofile(None)
            self._reached.set()

    def _count(self, frame: FrameType, event: str, called: object) -> None:
        # It stays until the end: Python has no reference of its own to what it is just calling.
        if self.events == self._moment or not self._counts(frame, event, called):
            return
        self.events += 1
        if self.events == self._moment:
            self._reached.set()
            self.blinked = not self._go_on.wait(BLINK)

    def _counts(self, frame: FrameType, event: str, called: object) -> bool:
        if self._on_files and not (event == "c_return" and _changes_a_file(called)):
            return False
        caller = frame.f_back if event in ("call", "return") else frame
        if caller is None or (self._files and caller.f_code.co_filename not in self._files):
            return False
        place = id(caller.f_code), caller.f_lasti, event
        self._rounds[place] += 1
        return self._rounds[place] <= _ROUNDS


def stop_at_change(call: Callable[[], object], moment: int) -> int:
    """Makes a call; returns how many changes of files there were.

    Args:
        call: What is called.
        moment: Behind which change of a file this process stops itself with SIGSTOP; 0 for none.
    """
    changes = 0

    def count(_: FrameType, event: str, called: object) -> None:
        nonlocal changes
        if event == "c_return" and _changes_a_file(called):
            changes += 1
            if changes == moment:
                os.kill(os.getpid(), signal.SIGSTOP)

    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return changes


def _changes_a_file(called: object) -> bool:
    its = type(getattr(called, "__self__", None))  # of a method
    module = getattr(called, "__module__", None) or its.__module__
    return module in ("posix", "_io") and getattr(called, "__name__", "") in _CHANGES


def _files_of(cls: type) -> set[str]:
    its = takewhile(lambda base: base is not StateStorage, cls.__mro__)
    codes = (getattr(each, "__code__", None) for base in its for each in vars(base).values())
    return {code.co_filename for code in codes if code}
