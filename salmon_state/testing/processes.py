"""Other processes that use a store at the same time: started, told what to do, and killed.

This module is what those processes import; it needs neither pytest nor Hypothesis.
"""

from __future__ import annotations

import inspect
import itertools
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.entries import Kind, Seen, Write
from salmon_state.keys import Sender
from salmon_state.storage import Record, StateStorage
from salmon_state.testing.tally import TALLY

__all__ = ["PATIENCE", "StoreProcess", "forking_context", "store_processes"]

PATIENCE = 180.0
"""Seconds after which a process is taken to be stuck; nothing here takes a twentieth of it."""

_STORES_NEED = ("salmon_state.stores", "sqlalchemy.dialects", "psycopg", "pymysql", "redis")
_PROCESSES_NEED = {__name__}

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
            raise AssertionError(f"the process was stuck for {PATIENCE} seconds and was killed")
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
    """
    TALLY["processes"] += count
    processes = [_IDLE.pop() if _IDLE else StoreProcess() for _ in range(count)]
    try:
        for process in processes:
            process.start(_open, open_store, os.getcwd())
        for process in processes:
            process.result()
        yield processes
        for process in processes:
            if process.usable:
                process.call(_close)
    finally:
        for process in processes:
            if process.usable:
                _IDLE.append(process)
            else:
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
            answer = ("error", (error, traceback.format_exc()))
        pipe.send(answer)


def _open(open_store: Callable[..., StateStorage], directory: str) -> None:
    _close(*_OPENED)
    os.chdir(directory)
    _OPENED.append(open_store())


def _close(*stores: StateStorage) -> None:
    for store in stores:
        store.close()
    _OPENED.clear()


# ---------------------------------------------------------------- what they are told to do


def do(store: StateStorage, method: str, *arguments: Any) -> Any:
    """Calls one method."""
    return getattr(store, method)(*arguments)


def read(store: StateStorage) -> list[Record]:
    """Returns all records."""
    return list(store)


def set_many(store: StateStorage, states: Sequence[tuple[str, Sender, str]]) -> None:
    """Sets one state after the other."""
    for module, sender, state in states:
        store.set(module, sender, state)


def get_many(store: StateStorage, keys: Sequence[tuple[str, Sender]]) -> list[str]:
    """Returns the states of some conversations."""
    return [store.get(module, sender) for module, sender in keys]


def get_and_list(
    store: StateStorage, keys: Sequence[tuple[str, Sender]]
) -> tuple[list[str], list[Record]]:
    """Returns the states of some conversations, and all records."""
    return get_many(store, keys), read(store)


def set_forever(store: StateStorage, module: str, senders: int) -> Iterator[int]:
    """Moves some senders on in turn, step by step, and acknowledges each set when it returned."""
    for step in itertools.count():
        store.set(module, f"{step % senders}@x", f"S{step}")
        yield step


def win(store: StateStorage, module: str, sender: Sender, last: int) -> int:
    """Counts up with others by compare_and_set; returns the number of steps that it won."""
    won = 0
    while True:
        state = store.get(module, sender)
        step = 0 if state == ROUTE_FIRST_STATE else int(state)
        if step >= last:
            return won
        won += store.compare_and_set(module, sender, state, str(step + 1))


KINDS = (Kind.HANDLED, Kind.OUTGOING, Kind.BODY, Kind.TRANSITION)
"""What a mail may write beside its state."""


def commit_forever(store: StateStorage, sender: Sender, each: int) -> Iterator[int]:
    """Commits a state and so many entries of each kind together, again and again."""
    for step in itertools.count():
        state = Write(Kind.STATE, sender, "app", f"S{step}", step)
        names = [f"{step}.{number:03}" for number in range(each)]
        store._commit([state, *(Write(k, sender, n, b"x", step) for k in KINDS for n in names)])
        yield step


def commit_and_stop(store: StateStorage, sender: Sender) -> None:
    """Stands still in the middle of a commit until it is told to go on."""

    def writes() -> Iterator[Write]:
        yield Write(Kind.STATE, sender, "one", "ONE", 1)
        os.kill(os.getpid(), signal.SIGSTOP)
        yield Write(Kind.STATE, sender, "two", "ONE", 1)

    store._commit(writes())


def take_all(store: StateStorage, kind: Kind, until: int, limit: int) -> list[Any]:
    """Claims until nothing is due; returns what it got."""
    taken = []
    while claimed := store._claim(kind, until, limit):
        taken += [entry[:3] for entry in claimed]
    return taken


def take_and_finish(store: StateStorage, kind: Kind, until: int, limit: int) -> Iterator[Any]:
    """Claims, removes what it has claimed one by one, and acknowledges each."""
    while claimed := store._claim(kind, until, limit):
        for entry in claimed:
            store._commit([Write(*entry[:3], None, None, Seen(at=until))])
            yield entry[:3]


def main() -> None:
    """Does one thing with a store in another Python; see `salmon_state.testing.versions`."""
    import pickle

    request = sys.stdin.buffer.read()
    try:
        open_store, function, arguments = pickle.loads(request)  # noqa: S301 - from the test itself
        store = open_store()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, ImportError) or any(frame.name == "<module>" for frame in frames):
            sys.exit(f"{CANNOT_IMPORT} {type(error).__name__}: {error}")
        raise
    with store:
        sys.stdout.buffer.write(pickle.dumps(function(store, *arguments), protocol=4))


CANNOT_IMPORT = "cannot import the store:"
