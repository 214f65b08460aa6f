"""Other processes that use a store at the same time: started, told what to do, and killed.

This module is what those processes import; it needs neither pytest nor Hypothesis.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from salmon_state.storage import StateStorage
from salmon_state.testing.tally import TALLY

__all__ = ["PATIENCE", "StoreProcess", "forking_context", "store_processes"]

PATIENCE = 180.0
"""Seconds after which a process is taken to be stuck; nothing here takes a twentieth of it."""

_STORES_NEED = ("salmon_state.stores", "sqlalchemy.dialects", "psycopg", "pymysql", "redis")
_PROCESSES_NEED = {__name__, "salmon_state.testing.tasks"}

_IDLE: list[StoreProcess] = []


def forking_context(*modules: str) -> Any:
    """Returns the context for processes that share nothing that is open here.

    They are forked from a server that has opened nothing, and has imported some modules and what
    stores need as far as it is imported here: that takes longer than most tests.
    """
    context = multiprocessing.get_context("forkserver")
    imported = (name for name in sys.modules if name.startswith(_STORES_NEED))
    _PROCESSES_NEED.update(modules, imported)
    context.set_forkserver_preload(sorted(_PROCESSES_NEED))  # counts until the first one starts
    return context


class StoreProcess:
    """A process that has the store open and calls one function after the other with it.

    The functions are those of a module, so that they can be sent; a generator function sends back
    each item at once, as an acknowledgement.
    """

    def __init__(self) -> None:
        context = forking_context()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.busy = False

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Makes the process call ``function(store, *arguments)``, and does not wait."""
        self._pipe.send((function, arguments))
        self.busy = True

    def item(self) -> Any:
        """Waits for the next item of a generator function."""
        kind, value = self._receive()
        assert kind == "item", f"expected an item, got {kind} {value!r:.200}"
        return value

    def result(self) -> Any:
        """Waits for the end of the call; returns what it returned or raises what it raised."""
        kind, value = "item", None
        while kind == "item":
            kind, value = self._receive()
        self.busy = False
        return value

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Both of the above."""
        self.start(function, *arguments)
        return self.result()

    def kill_after(self, items: int, fraction: float) -> Any:
        """Kills the process some items later, and some way into the next; returns the last item.

        Right after an item it might be killed before it has begun the next, every time; how long
        one takes is measured.
        """
        began = time.monotonic()
        last = [self.item() for _ in range(items)][-1]
        time.sleep((time.monotonic() - began) / items * fraction)
        return [last, *self.kill()][-1]

    def wait_until_stopped(self) -> None:
        """Waits until the process has stopped itself with SIGSTOP."""
        deadline = time.monotonic() + PATIENCE
        while _state_of(self._process.pid) != "T":  # it is not our own child that we could wait for
            assert self._process.is_alive(), "the process ended and did not stop"
            assert time.monotonic() < deadline, "the process did not stop"
            time.sleep(0.002)

    def go_on(self) -> None:
        """Has a stopped process go on."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> list[Any]:
        """Kills the process with SIGKILL; returns the items that it still acknowledged."""
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGKILL)
        TALLY["killed"] += 1
        items = []
        try:
            while self._pipe.poll(PATIENCE):
                items.append(self._pipe.recv()[1])
        except (EOFError, ConnectionResetError):
            pass
        self._process.join(PATIENCE)
        assert self._process.exitcode == -signal.SIGKILL, f"it ended by itself: {self._process}"
        self._pipe.close()
        return items

    def discard(self) -> None:
        """Ends a process that is of no more use, whatever it is doing."""
        self._process.kill()
        self._process.join(PATIENCE)
        self._pipe.close()

    @property
    def usable(self) -> bool:
        """Whether it waits for something to do."""
        return not self.busy and not self._pipe.closed and self._process.is_alive()

    def _receive(self) -> tuple[str, Any]:
        if not self._pipe.poll(PATIENCE):
            self.discard()
            raise AssertionError(
                f"another process was stuck in the store for {PATIENCE:g} seconds, the limit of "
                "the kit, and was killed"
            )
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            self._process.join(PATIENCE)
            raise AssertionError(f"the process died: {self._process}") from None
        if kind == "error":
            self.busy = False
            error, text = value
            raise error from RuntimeError(f"in another process:\n{text}")
        return kind, value


def _state_of(pid: int | None) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def store_processes(
    open_store: Callable[..., StateStorage], count: int
) -> Iterator[Sequence[StoreProcess]]:
    """Gives as many processes as asked for, each of which has opened the store.

    Starting one takes longer than most tests, so those that are still well are used again; they
    end with the process that started them.

    Raises:
        TypeError: `open_store` cannot be sent to them.
    """
    try:
        pickle.dumps(open_store)
    except Exception as error:
        raise TypeError(
            "open_store must give what can be sent to other processes, such as a "
            f"functools.partial, a class or a function of a module: {error}"
        ) from error
    TALLY["processes"] += count
    processes = [_IDLE.pop() if _IDLE else StoreProcess() for _ in range(count)]
    try:
        for process in processes:
            process.start(_open, open_store, os.getcwd())
        for process in processes:
            process.result()
        yield processes
        well = [process for process in processes if process.usable]
        for process in well:
            process.call(_close)
        _IDLE.extend(well)
    finally:
        for process in processes:
            if process not in _IDLE:  # its store would be the next test's to close
                process.discard()


# ---------------------------------------------------------------- in the other process


_OPENED: list[StateStorage] = []


def _serve(pipe: Connection) -> None:
    answer: tuple[str, Any]
    while True:
        try:
            function, arguments = pipe.recv()
            own = (_OPENED[-1],) if _OPENED and function is not _open else ()
            if inspect.isgeneratorfunction(function):
                for item in function(*own, *arguments):
                    pipe.send(("item", item))
                answer = ("done", None)
            else:
                answer = ("done", function(*own, *arguments))
        except EOFError:
            return
        except Exception as error:  # noqa: BLE001 - it is raised again by the process that asked
            answer = ("error", (_to_be_sent(error), traceback.format_exc()))
        pipe.send(answer)


def _to_be_sent(error: Exception) -> Exception:
    """Returns an error, or what stands for one of a driver's that cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - whatever it raises for that
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _open(open_store: Callable[..., StateStorage], directory: str) -> None:
    _close(*_OPENED)
    os.chdir(directory)
    _OPENED.append(open_store())


def _close(*stores: StateStorage) -> None:
    for store in stores:
        store.close()
    _OPENED.clear()
    os.chdir("/")  # a test's own directory is away when the next one comes, which may import more
