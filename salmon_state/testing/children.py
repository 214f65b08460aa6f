"""What the processes of the kit have forked children do; needs neither pytest nor Hypothesis."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from salmon_state.storage import StateStorage
from salmon_state.testing.descriptors import open_files
from salmon_state.testing.forking import ending_of
from salmon_state.testing.keys import MODULE, SENDER
from salmon_state.testing.tasks import churn_steps, step_of

__all__ = ["call_in_child", "churn_until_it_fails", "die_in_step", "left_open"]

_CHANGES = ("os.rename", "os.remove", "os.link", "os.truncate")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def call_in_child(
    store: StateStorage,
    call: Callable[[StateStorage], Any],
    meanwhile: Callable[[StateStorage], object] | None = None,
) -> Any:
    """Forks; returns what a call in the child returned, as JSON has it.

    Args:
        store: With which both are called.
        call: What the child does.
        meanwhile: What its parent does before.

    Raises:
        AssertionError: The call in the child raised something, or was stuck.
    """
    waiting, go_on = os.pipe()
    with tempfile.TemporaryFile("w+", encoding="ascii") as answer:
        child = os.fork()
        if child == 0:
            try:
                os.close(go_on)
                os.read(waiting, 1)  # until its parent has closed the other end
                json.dump(_outcome(call, store), answer)
                answer.flush()
            finally:
                os._exit(0)
        try:
            if meanwhile is not None:
                meanwhile(store)
        finally:
            os.close(waiting)
            os.close(go_on)
            ending_of(child)
        answer.seek(0)
        text = answer.read()
    assert text, "a forked child died"
    found, raised = json.loads(text)
    assert not raised, f"a forked child could not do it: {raised}"
    return found


def _outcome(call: Callable[[StateStorage], Any], store: StateStorage) -> tuple[Any, str]:
    try:
        return call(store), ""
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        return None, repr(error)


def die_in_step(store: StateStorage, senders: Sequence[str], number: int, moment: int) -> bool:
    """Has a forked child commit a step, which is killed before it renames or removes a file.

    Args:
        store: Where.
        senders: For `step_of`.
        number: For `step_of`.
        moment: How many files it renames or removes before.

    Returns:
        Whether it was killed; otherwise the step is committed.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            left = iter(range(moment))
            sys.addaudithook(lambda event, _: _die_if_none(event, left))
            store._commit(step_of(senders, number))
            status = 0
        finally:
            os._exit(status)
    status = ending_of(child)
    assert status in (0, -signal.SIGKILL), "a forked child could not commit"
    return status != 0


def _die_if_none(event: str, left: Iterator[int]) -> None:
    if event in ("os.rename", "os.remove") and next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)


def left_open(store: StateStorage) -> int:
    """Returns how many more files and sockets are open after a hundred calls than after two."""
    counts = []
    for number in range(50):
        store.set(MODULE, SENDER, f"S{number}")
        store.get(MODULE, SENDER)
        counts.append(len(open_files()))
    return counts[-1] - counts[0]


def churn_until_it_fails(store: StateStorage, word: str, moment: int) -> tuple[str, bool]:
    """Makes the steps of a churn, in the middle of which the place can no longer be changed.

    No file can then be renamed, removed, cut or opened to write, as far as Python does that. It
    stays so, and is for a child that is going to end.

    Args:
        store: Where.
        word: For `churn_steps`.
        moment: How many files are changed before.

    Returns:
        The state that was committed last, if any, and whether any file could not be changed.
    """
    left, failed = iter(range(moment)), []

    def fail(event: str, arguments: tuple[Any, ...]) -> None:
        if _is_change(event, arguments) and next(left, None) is None:
            failed.append(event)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sys.addaudithook(fail)
    done = [""]
    with suppress(Exception):  # a commit that raises has not happened
        done += churn_steps(store, word)
    return done[-1], bool(failed)


def _is_change(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
    return event in _CHANGES
