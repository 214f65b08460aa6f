"""Conversations: one sender, one lock, one snapshot, one commit."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import TYPE_CHECKING, Any

from salmon.server import SMTPError

from salmon_state.errors import StorageError, StorageUnavailable, given_up
from salmon_state.keys import Sender
from salmon_state.records import Move, Transition
from salmon_state.units import LockOnly

if TYPE_CHECKING:
    from salmon_state.storage import StateStorage

__all__ = ["ERROR_STATE", "Conversation", "current_conversation"]


class Active(threading.local):
    """The innermost conversation of each thread: one of these for all stores and one for each."""

    conversation: Conversation | None = None


_innermost = Active()

ERROR_STATE = "ERROR"
"""What Salmon sets when a handler raises."""

_LONGEST_WAIT = 1_000_000.0
"""In seconds; what is longer, a thread's lock or a database would refuse."""


def _leave_to_the_parent() -> None:
    """Makes a forked child begin outside the conversations that its parent is in."""
    conversation = _innermost.conversation
    while conversation is not None:
        conversation._store._active.conversation = None
        conversation = conversation._before
    _innermost.conversation = None


os.register_at_fork(after_in_child=_leave_to_the_parent)


def current_conversation() -> Conversation | None:
    """Returns the innermost conversation that this thread is in, of whatever store."""
    return _innermost.conversation


class Conversation:
    """One mail's dealings with the states of its sender; made by `StateStorage.conversation`.

    Inside, the store's ``get``, ``set``, ``set_all`` and ``compare_and_set`` in this thread see
    and change this conversation: reads of its sender come from one snapshot and the
    conversation's own writes, reads of others from the store, and all writes wait for the end.

    A conversation inside another one is a layer on it: leaving it normally hands its writes to
    the outer one, which commits everything; leaving it with a temporary failure drops them.

    Attributes:
        sender: Whose conversation it is.
    """

    def __init__(self, store: StateStorage, sender: Sender, timeout: float) -> None:
        self.sender = sender
        self._store = store
        self._timeout = min(timeout, _LONGEST_WAIT)
        self._changes: dict[tuple[str, Sender], tuple[str | None, int]] = {}
        self._moves: dict[Sender, tuple[str | None, int]] = {}
        self._expected: dict[tuple[str, Sender], str | None] = {}
        self._savepoint: Any = None
        self._outer: Conversation | None = None
        self._before: Conversation | None = None
        self._entered = False

    # ---------------------------------------------------------------- entering and leaving

    def __enter__(self) -> Conversation:
        store, sender = self._store, self.sender
        store._check_open()
        if self._entered:
            raise RuntimeError(
                "a conversation is entered once: call conversation() again for the next mail"
            )
        outer = self._outer = store._active.conversation
        self._pid = os.getpid()
        if outer is None:
            self._unit = store._begin() if store._has_hooks else LockOnly(store)
            self._snapshots: dict[Sender, Mapping[str, str]] = {}
        else:  # trying without waiting: two that wait for each other would wait for ever
            self._unit, self._snapshots, self._timeout = outer._unit, outer._snapshots, 0
        if sender not in self._snapshots:
            try:
                states = self._unit.enter(sender, self._timeout, lock=bool(sender))
            except BaseException as error:
                if outer is None:
                    self._close()
                if isinstance(error, Exception):
                    store._raise(error)
                raise
            self._snapshots[sender] = states
        self._entered = True
        self._before, _innermost.conversation = _innermost.conversation, self
        store._active.conversation = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pid != os.getpid():
            return  # a forked child: the lock, the connection and the commit are its parent's
        _innermost.conversation = self._before
        self._store._active.conversation = self._outer
        undo = error is not None and _will_come_again(error)
        if self._outer is not None:
            self._leave_layer(self._outer, undo=undo)
            return
        try:
            if not undo:
                self._store._check_open()  # it may have been closed inside
                self._unit.commit(self._all_moves(), self._transitions())
        except Exception as failure:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._store._raise(failure)
        finally:
            self._close()

    def _close(self) -> None:
        """Rolls back what is not committed and gives the locks back.

        Its failure changes nothing: what is committed is, and a connection that is broken frees
        its locks. It must not take the place of the error that ends the conversation either.
        """
        try:
            self._unit.close()
        except Exception:  # noqa: BLE001 - it is logged
            self._store._log_traceback("a conversation was not closed in order")

    def _leave_layer(self, outer: Conversation, *, undo: bool) -> None:
        if self._savepoint is not None:
            try:
                self._leave_savepoint(undo=undo)
            except Exception as failure:  # noqa: BLE001 - a driver may raise anything; see _raise
                if not undo:
                    self._store._raise(failure)
                # Otherwise another error is on its way, and the outer one cannot commit either.
        if undo:
            return
        for sender, (state, now) in self._moves.items():
            outer._move(sender, state, now)
        outer._changes.update(self._changes)
        for key, expected in self._expected.items():
            outer._expected.setdefault(key, expected)

    def _leave_savepoint(self, *, undo: bool) -> None:
        failed = self._unit.failed
        if undo or failed:
            self._savepoint.rollback()
        else:
            self._savepoint.commit()
        if failed and not undo and all(s != ERROR_STATE for s, _ in self._changes.values()):
            raise given_up()

    def _all_moves(self) -> list[Move]:
        return [Move(sender, *move) for sender, move in self._moves.items()]

    def _transitions(self) -> list[Transition]:
        transitions = []
        for (module, sender), (state, now) in self._changes.items():
            seen: str | None = None
            conditional = False
            if sender and sender in self._snapshots:
                seen, conditional = self._snapshots[sender].get(module), True
            elif (module, sender) in self._expected:
                seen, conditional = self._expected[module, sender], True
            if not (conditional and seen is None and state is None):
                transitions.append(Transition(module, sender, state, now, conditional, seen))
        return transitions

    # ---------------------------------------------------------------- what the store's methods do

    def get(self, module: str, sender: Sender) -> str | None:
        """Returns the state as this conversation sees it; ``None`` without an entry."""
        key = module, sender
        layer: Conversation | None = self
        moved: tuple[str | None, int] | None = None
        while layer is not None:
            if key in layer._changes:
                state = layer._changes[key][0]
                break
            moved = moved or layer._moves.get(sender)
            layer = layer._outer
        else:
            snapshot = self._snapshots.get(sender)
            state = self._unit.read(*key) if snapshot is None else snapshot.get(module)
        return state if state is None or moved is None else moved[0]

    def set(self, module: str, sender: Sender, state: str | None, now: int) -> None:
        """Sets a state, or removes the entry, at the end of the outermost conversation.

        Raises:
            StorageUnavailable: It is Salmon that sets ERROR because a handler let a `StorageError`
                out: it would answer 250, but the store's failure is no reason to lose a mail. Or
                it lets out whatever else, and nothing can be committed any more: Salmon would
                keep a copy of a mail that comes again.
        """
        if state == ERROR_STATE:
            self._check_error(sys.exc_info()[1])
        self._changes[module, sender] = state, now

    def _check_error(self, error: BaseException | None) -> None:
        if isinstance(error, StorageError):
            raise StorageUnavailable(f"a handler was stopped: {error}")
        if error is not None:
            try:
                self._unit.check()
            except Exception as failure:  # noqa: BLE001 - a driver may raise anything; see _raise
                self._store._raise(failure)

    def compare_and_set(
        self, module: str, sender: Sender, expected: str | None, state: str | None, now: int
    ) -> bool:
        """Sets a state if it is the expected one; of somebody else's, also at the commit."""
        self._check_hooks("compare_and_set")
        if self.get(module, sender) != expected:
            return False
        if self._own_write(module, sender) is None and self._own_move(sender) is None:
            self._expected.setdefault((module, sender), expected)
        self.set(module, sender, state, now)
        return True

    def set_all(self, sender: Sender, state: str | None, now: int) -> int:
        """Moves every conversation of a sender that exists; returns how many there are now."""
        self._check_hooks("set_all")
        modules = [module for module in self._modules(sender) if self.get(module, sender)]
        if sender in self._snapshots:
            for module in modules:
                self.set(module, sender, state, now)
        else:  # those that come to exist until the commit, too
            self._move(sender, state, now)
        return len(modules)

    def forget(self) -> None:
        """Drops what was read and written so far: the store was cleared."""
        for layer in self._layers():
            layer._changes.clear()
            layer._moves.clear()
            layer._expected.clear()
        for sender in self._snapshots:
            self._snapshots[sender] = {}

    def _layers(self) -> Iterator[Conversation]:
        """Yields this conversation and those that it is in, from the inside out."""
        layer: Conversation | None = self
        while layer is not None:
            yield layer
            layer = layer._outer

    def _own_write(self, module: str, sender: Sender) -> tuple[str | None, int] | None:
        key = module, sender
        return next(
            (layer._changes[key] for layer in self._layers() if key in layer._changes), None
        )

    def _own_move(self, sender: Sender) -> tuple[str | None, int] | None:
        return next(
            (layer._moves[sender] for layer in self._layers() if sender in layer._moves), None
        )

    def _check_hooks(self, method: str) -> None:
        if not self._store._has_hooks:
            self._store._cannot(f"do {method}")

    def _move(self, sender: Sender, state: str | None, now: int) -> None:
        for module in self._written_modules(sender):
            written = self._own_write(module, sender)
            if written is not None and written[0] is not None:
                self._changes[module, sender] = state, now
        earlier = self._own_move(sender)
        if earlier is None or earlier[0] is not None:  # what was removed is not moved again
            self._moves[sender] = state, now

    def _modules(self, sender: Sender) -> Iterable[str]:
        snapshot = self._snapshots.get(sender)
        stored = self._unit.read_sender(sender) if snapshot is None else snapshot
        return self._written_modules(sender) | {*stored}

    def _written_modules(self, sender: Sender) -> AbstractSet[str]:
        return {m for layer in self._layers() for m, whose in layer._changes if whose == sender}

    # ---------------------------------------------------------------- for handlers

    @property
    def connection(self) -> Any:
        """The SQLAlchemy connection of this conversation's transaction.

        What a handler writes through it is committed together with the states, or not at all. It
        must not be committed, rolled back or kept by the handler. On PostgreSQL a statement that
        fails takes everything down that was written through it, unless it was tried within
        ``connection.begin_nested()``: when the handler lets the error out, the state ERROR alone
        is committed; when it goes on, the conversation ends with `StorageUnavailable`. On SQLite,
        where only one may write at a time, the first statement that is no SELECT keeps everybody
        else from writing until the end; the driver's own cursor must not be used there. On MariaDB
        a `set_all` of another sender may then miss a conversation that begins at that moment.

        Raises:
            NotImplementedError: The store is no `SQLAlchemyStorage`.
            StorageUnavailable: The database cannot be reached now.
        """
        try:
            connection = self._unit.connection
            if self._outer is not None and self._savepoint is None:
                self._savepoint = connection.begin_nested()
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._store._raise(error)
        return connection


def _will_come_again(error: BaseException) -> bool:
    """Returns whether the sending server will send this mail again, so that nothing may be kept."""
    if isinstance(error, SMTPError):
        return 400 <= int(error.code) < 500
    return isinstance(error, StorageError) or not isinstance(error, Exception)
