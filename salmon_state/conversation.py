"""Conversations: one sender, one lock, one snapshot, one commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from salmon.server import SMTPError

from salmon_state.backend import Backend, UnitOfWork
from salmon_state.draft import Draft
from salmon_state.entries import (
    ABSENT,
    ANYTHING,
    EVERY,
    STATE,
    Condition,
    Kind,
    Place,
    Seen,
    Want,
    Write,
)
from salmon_state.errors import StorageError
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.keys import Sender

__all__ = ["Active", "Conversation", "current_conversation"]

_LONGEST_WAIT = 1_000_000.0
"""In seconds; what is longer, a thread's lock or a database would refuse."""

_STATES: tuple[Want, ...] = ((STATE, EVERY),)

_TO_SEND = (Kind.OUTGOING, Kind.BODY)
"""What a handler that failed does not leave behind."""


class Active(threading.local):
    """The innermost conversation of each thread: one of these for all stores and one for each."""

    conversation: Conversation | None = None


class _Innermost(Active, Forkable):
    """That of each thread, of whatever store."""

    def after_fork(self, *, child: bool) -> None:
        """Makes a forked child begin outside the conversations that its parent is in."""
        global _process
        if not child:
            return
        _process = object()
        conversation = self.conversation
        while conversation is not None:
            conversation._active.conversation = None
            conversation = conversation._before
        self.conversation = None


_process = object()
"""Of its own in each forked child; to ask for the number of the process takes a system call."""

_innermost = _Innermost()
_watch = ForkWatch()
_watch.add(_innermost)


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
        before_set: Called with this conversation and each state that is about to be set (``None``
            removes), for whoever knows what calls the store; may raise.
    """

    before_set: Callable[[Conversation, str | None], None] | None = None

    _outer: Conversation | None = None
    _before: Conversation | None = None
    _entered = False
    _failed = False

    def __init__(
        self,
        store: Backend,
        active: Active,
        sender: Sender,
        timeout: float,
        wants: Sequence[tuple[Kind, str]] = (),
    ) -> None:
        self.sender = sender
        self._store = store
        self._active = active
        self._timeout = min(timeout, _LONGEST_WAIT)
        self._wants = wants
        self._afterwards: dict[Callable[[], None], None] = {}

    # ---------------------------------------------------------------- entering and leaving

    def __enter__(self) -> Conversation:
        if self._store._closed:
            self._store._check_open()
        if self._entered:
            raise RuntimeError(
                "a conversation is entered once: call conversation() again for the next mail"
            )
        self._process = _process
        outer = self._outer = self._active.conversation
        if outer is None:
            self._depth, self._draft = 0, Draft()
            self._unit: UnitOfWork = self._store._begin()
        else:  # trying without waiting: two that wait for each other would wait for ever
            self._depth, self._draft = outer._depth + 1, Draft(outer._draft)
            self._unit, self._timeout = outer._unit, 0
        if not self._draft.knows(self.sender):
            try:
                entries = self._unit.enter(self.sender, self._timeout, (*_STATES, *self._wants))
            except BaseException as error:
                if outer is None:
                    self._close()
                if isinstance(error, Exception):
                    self._store._raise(error)
                raise
            for kind, name in self._wants:
                self._draft.note((kind, self.sender, name), None)
            self._draft.remember(self.sender, entries)
        self._entered = True
        self._before, _innermost.conversation = _innermost.conversation, self
        self._active.conversation = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not _process:
            return  # a forked child: the lock, the connection and the commit are its parent's
        _innermost.conversation = self._before
        self._active.conversation = self._outer
        undo = error is not None and _will_come_again(error)
        self._failed = self._failed or error is not None
        if self._failed:
            self._draft.drop(_TO_SEND)
        if self._outer is not None:
            self._leave_layer(self._outer, undo=undo)
            return
        try:
            if not undo:
                if self._store._closed:  # inside
                    self._store._check_open()
                self._unit.commit(self._draft.writes(), failed=self._failed)
        except Exception as failure:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._store._raise(failure)
        finally:
            self._close()
        if not undo:
            for call in self._afterwards:
                call()

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
        try:
            self._unit.leave(self._depth, undo=undo, failed=self._failed)
        except Exception as failure:  # noqa: BLE001 - a driver may raise anything; see _raise
            if not undo:
                self._store._raise(failure)
            # Otherwise another error is on its way, and the outer one cannot commit either.
        if not undo:
            self._draft.merge()
            outer._afterwards.update(self._afterwards)

    # ---------------------------------------------------------------- what the store's methods do

    def get(self, module: str, sender: Sender) -> str | None:
        """Returns the state as this conversation sees it; ``None`` without an entry."""
        place = (STATE, sender, module)
        state = self._draft.look(place)
        found: str | None = self._read(place) if state is ANYTHING else state
        return found

    def _read(self, place: Place) -> Any:
        """Returns what nobody has read yet."""
        value = self._unit.find(*place)
        if place[0] is not STATE:
            self._draft.note(place, value)
        return self._draft.moved(place, value)

    def set(self, module: str, sender: Sender, state: str | None, now: int) -> None:
        """Sets a state, or removes the entry, at the end of the outermost conversation."""
        if self.before_set is not None:
            self.before_set(self, state)
        expect = self._draft.expected((STATE, sender, module)) if sender else ANYTHING
        self._draft.add(Write(STATE, sender, module, state, now, expect))

    def compare_and_set(
        self, module: str, sender: Sender, expected: str | None, state: str | None, now: int
    ) -> bool:
        """Sets a state if it is the expected one; of somebody else's, also at the commit."""
        self._check_hooks("compare_and_set")
        if self.get(module, sender) != expected:
            return False
        expect: Condition = ABSENT if expected is None else Seen(value=expected)
        self._draft.add(Write(STATE, sender, module, state, now, expect))
        return True

    def set_all(self, sender: Sender, state: str | None, now: int) -> int:
        """Moves every conversation of a sender that exists; returns how many there are now."""
        self._check_hooks("set_all")
        names = self._draft.names(STATE, sender)
        known = self._draft.knows(sender)
        if not known:
            names |= {entry.name for entry in self._unit.load(sender, _STATES)}
        modules = [module for module in names if self.get(module, sender) is not None]
        if known:
            for module in modules:
                self.set(module, sender, state, now)
        else:  # those that come to exist until the commit, too
            self._draft.add(Write(STATE, sender, EVERY, state, now))
        return len(modules)

    def _check_hooks(self, what: Kind | str) -> None:
        if not self._store._has_hooks:
            self._store._cannot(f"keep a {what.name}" if isinstance(what, Kind) else f"do {what}")

    def forget(self) -> None:
        """Drops what was read and written so far: the store was cleared."""
        self._draft.clear()

    # ---------------------------------------------------------------- what is no state

    def add(self, write: Write) -> None:
        """Writes an entry of whatever kind and sender together with the states, or not at all.

        Of several about one entry the last one counts, with the expectation of the first. If the
        handler fails, what it wanted to send (`Kind.OUTGOING` and `Kind.BODY`) is dropped.

        Args:
            write: What to write; no `CHECK`.

        Raises:
            NotImplementedError: The store keeps states only.
        """
        self._check_hooks(write.kind)
        self._draft.add(write)

    def find(self, kind: Kind, sender: Sender, name: str) -> Any:
        """Returns the value of one entry as this conversation sees it; ``None`` if there is none.

        Read when the conversation began if it was asked for then, otherwise when it is first
        asked for: who finds and then removes an entry goes by one and the same.

        Raises:
            NotImplementedError: The store keeps states only.
            StorageError: It is damaged, or cannot be read now.
        """
        self._check_hooks(kind)
        try:
            place = (kind, sender, name)
            value = self._draft.look(place)
            return self._read(place) if value is ANYTHING else value
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._store._raise(error)

    def afterwards(self, call: Callable[[], None]) -> None:
        """Calls something, once, as soon as what this conversation writes is committed.

        For whoever waits for it in this process; if that process dies first, nothing is called.

        Args:
            call: Must neither raise nor take long.
        """
        self._afterwards[call] = None

    # ---------------------------------------------------------------- for handlers

    def fail(self) -> None:
        """Says that the handler failed, although no error leaves this conversation.

        Its states are committed all the same. What it did through `connection`, if that cannot be
        committed any more, is dropped.

        Raises:
            StorageUnavailable: It is certain by now that nothing can be committed.
        """
        self._failed = True
        try:
            self._unit.check()
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._store._raise(error)

    @property
    def connection(self) -> Any:
        """The SQLAlchemy connection of this conversation's transaction.

        What a handler writes through it is committed together with the states, or not at all. It
        must not be committed, rolled back or kept by the handler. On PostgreSQL a statement that
        fails takes everything down that was written through it, unless it was tried within
        ``connection.begin_nested()``: when the handler lets the error out, the states alone are
        committed; when it goes on, the conversation ends with `StorageUnavailable`. On SQLite,
        where only one may write at a time, the first statement that is no SELECT keeps everybody
        else from writing until the end; the driver's own cursor must not be used there. On MariaDB
        a `set_all` of another sender may then miss a conversation that begins at that moment.

        Raises:
            NotImplementedError: The store is no `SQLAlchemyStorage`.
            StorageUnavailable: The database cannot be reached now.
        """
        try:
            return self._unit.connection(self._depth)
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._store._raise(error)


def _will_come_again(error: BaseException) -> bool:
    """Returns whether the sending server will send this mail again, so that nothing may be kept."""
    if isinstance(error, SMTPError):
        return 400 <= int(error.code) < 500
    return isinstance(error, StorageError) or not isinstance(error, Exception)
