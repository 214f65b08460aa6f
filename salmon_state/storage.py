"""StateStorage: what every store promises, and what all stores share."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from salmon import routing
from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.checks import (
    check_idle_time,
    check_timeout,
    plain_module,
    plain_sender,
    plain_state,
)
from salmon_state.conversation import Active, Conversation
from salmon_state.errors import ConversationBusy, StorageError, StorageUnavailable, overtaken
from salmon_state.keys import Sender, ascii_key, parse_key
from salmon_state.log import log
from salmon_state.masking import Mask
from salmon_state.records import (
    MICROSECOND,
    Change,
    Move,
    Record,
    Transition,
    from_microseconds,
    to_microseconds,
)
from salmon_state.thread_locks import ThreadLocks
from salmon_state.units import UnitOfWork

# Whoever writes a store finds all that its hooks deal with here.
__all__ = [
    "Change",
    "Move",
    "Record",
    "Sender",
    "StateStorage",
    "Transition",
    "UnitOfWork",
    "ascii_key",
    "from_microseconds",
    "parse_key",
    "to_microseconds",
]


_Self = TypeVar("_Self", bound="StateStorage")
_Result = TypeVar("_Result")


class StateStorage(routing.StateStorage):
    """Keeps the state of every conversation: (module, sender) → name of a handler function.

    The public methods are the contract. They check what they are given, turn a driver's errors
    into `StorageError`, and call the private hooks at the end of the class, which are all that a
    backend fills in. What holds for every store:

    * Two different (module, sender) pairs never meet, and the same pair is found again by any
      other Python, driver or library version.
    * When a method that changes something returns, the change has happened; on a durable store it
      survives the death of the process and of the machine. When it raises, nothing has changed.
    * Every method may be called from any thread. Unless the store says otherwise, instances made
      for the same place by other processes see each other's changes at once.
    * After `close` every method raises `StorageUnavailable`.

    A subclass that only implements `get`, `set` and `clear`, as Salmon's documentation teaches,
    works with Salmon's router; what it cannot do raises `NotImplementedError` and says so.

    Args:
        protect: Makes `clear` raise instead of removing everything; for production, where
            ``Router.clear_states()`` or a test run by mistake would be a disaster.
    """

    _locks_processes = False
    """Whether conversations lock their sender between processes, and not only threads."""

    _protect = False
    _closed = False
    _mask = Mask()
    """What hides the secrets that the store was given, from whatever it lets out or logs."""
    _active = Active()  # of no store in particular: `conversation` gives each its own
    _clock: Callable[[], int] = staticmethod(lambda: time.time_ns() // 1000)

    def __init__(self, *, protect: bool = False) -> None:
        self._protect = protect

    # ---------------------------------------------------------------- one conversation

    def key(self, module: str, sender: Sender) -> str:
        """Returns ``repr([module, sender])``: no lower-casing, trimming or parsing.

        >>> StateStorage().key("app.handlers", "Anna@Example.com ")
        "['app.handlers', 'Anna@Example.com ']"
        """
        return repr([module, sender])

    def get(self, module: str, sender: Sender) -> str:
        """Returns the state of a conversation; never writes.

        Args:
            module: The handler module, or the key of a ``@state_key_generator``.
            sender: The sender exactly as Salmon gives it.

        Returns:
            The state that was last set, or ``ROUTE_FIRST_STATE`` (``'START'``) if there is none.

        Raises:
            TypeError: `module` is no ``str``, or `sender` neither ``str`` nor ``None``.
            StorageUnavailable: The store cannot be read now.
            StorageError: The entry is damaged.
        """
        if type(module) is not str or (type(sender) is not str and sender is not None):
            module, sender = plain_module(module), plain_sender(sender)
        if self._closed:
            self._refuse_closed()
        conversation = self._active.conversation
        try:
            if conversation is None:
                state = self._read(module, sender)
            else:
                state = conversation.get(module, sender)
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._raise(error)
        return ROUTE_FIRST_STATE if state is None else state

    def set(self, module: str, sender: Sender, state: str) -> None:
        """Sets the state of a conversation; the next `get`, from wherever, returns it.

        Args:
            module: The handler module, or the key of a ``@state_key_generator``.
            sender: The sender exactly as Salmon gives it.
            state: The name of the function to handle the sender's next mail.
                ``ROUTE_FIRST_STATE`` removes the entry.

        Raises:
            TypeError: A `state` that is no ``str``, or a bad `module` or `sender`.
            ValueError: An empty `state`.
            StorageUnavailable: The store cannot be written now.

        After a crash in mid-call the conversation has either its old state or the new one.
        """
        if type(module) is not str or (type(sender) is not str and sender is not None):
            module, sender = plain_module(module), plain_sender(sender)
        if type(state) is not str or not state:
            state = plain_state(state)
        if self._closed:
            self._refuse_closed()
        stored = None if state == ROUTE_FIRST_STATE else state
        conversation = self._active.conversation
        if conversation is not None:
            conversation.set(module, sender, stored, self._clock())
            return
        try:
            self._write((Change(module, sender, stored, self._clock()),))
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._raise(error)

    def compare_and_set(self, module: str, sender: Sender, expected: str, state: str) -> bool:
        """Sets the state only if it is still the expected one, as one atomic step.

        Of any number of threads and processes that try the same step, one succeeds.

        Args:
            module: As for `set`.
            sender: As for `set`.
            expected: The state that the conversation must be in; ``ROUTE_FIRST_STATE`` if it must
                have no entry.
            state: As for `set`.

        Returns:
            Whether it happened.

        Raises:
            TypeError, ValueError, StorageUnavailable: As for `set`.
        """
        module, sender = plain_module(module), plain_sender(sender)
        expected, state = plain_state(expected, "expected"), plain_state(state)
        before = None if expected == ROUTE_FIRST_STATE else expected
        after = None if state == ROUTE_FIRST_STATE else state
        conversation = self._active.conversation
        if conversation is None:
            return self._call(self._compare_and_set, module, sender, before, after)
        now = self._clock()
        return self._call(conversation.compare_and_set, module, sender, before, after, now)

    def conversation(self, sender: Sender, *, timeout: float = 2.0) -> Conversation:
        """Returns a context in which one mail of a sender is handled, all or nothing.

        >>> from salmon_state import MemoryStorage
        >>> store = MemoryStorage()
        >>> with store.conversation("anna@example.com"):
        ...     if store.get("app.handlers", "anna@example.com") == "START":
        ...         store.set("app.handlers", "anna@example.com", "CONFIRMING")

        *Entering* wins the sender's lock, so that nobody else, in any thread or process that the
        store is shared by, is in a conversation with this sender. Inside, this thread's `get`,
        `set`, `set_all` and `compare_and_set` are part of the conversation (see `Conversation`);
        `records`, ``len`` and other threads see what is committed; `rename`, `purge` and `clear`
        act at once.

        *Leaving* commits all writes together, atomically. Leaving with an ``Exception`` commits
        too, because Salmon has set the state ERROR before it lets one out. Nothing is kept when
        the mail will come again: after an ``SMTPError`` with a 4xx code or a `StorageError`; or
        when the process ends: after ``SystemExit`` or ``KeyboardInterrupt``. If somebody changed a
        state of the sender without a conversation meanwhile (an operator, a bounce handler), what
        they wrote stays, and leaving raises `ConversationBusy` so that the mail comes again.

        *Inside another conversation* of this thread with the same sender it joins; with another
        sender it tries the lock without waiting. Either way its writes are committed with the
        outer conversation's, or dropped alone when it is left with a temporary failure.

        The null sender (``None`` and ``''``) is nobody's conversation: its writes are committed
        together as well, but there is no lock.

        Args:
            sender: The sender exactly as Salmon gives it.
            timeout: How long to wait for the lock, in seconds; 0 does not wait.

        Raises:
            TypeError, ValueError: A bad `sender` or a negative `timeout`.
            ConversationBusy: The lock was not won in time, or see above.
            StorageUnavailable: The store cannot be read or, on leaving, written; nothing is kept.
            StorageError: An entry of the sender is damaged.

        After a crash inside, the states are as if the conversation had never begun, and the lock
        is free again: where an operating system or a database holds it, as soon as that notices
        the death of the process.
        """
        sender = plain_sender(sender)
        check_timeout(timeout)
        if "_active" not in self.__dict__:  # not in __init__, which stores may leave out
            self.__dict__.setdefault("_active", Active())
        return Conversation(self, sender, timeout)

    # ---------------------------------------------------------------- many conversations

    def records(
        self, *, module: str | None = None, sender: str | None = None, state: str | None = None
    ) -> Iterator[Record]:
        """Iterates over the conversations, in no particular order, without loading the store.

        Each conversation that exists during the whole iteration and is not changed comes exactly
        once; one that is set or removed meanwhile may or may not come. Setting states while
        iterating is allowed.

        Args:
            module: Only this module's conversations.
            sender: Only this sender's; ``None`` means everybody's.
            state: Only those in this state.

        Raises:
            TypeError, ValueError: A filter of the wrong type, or an empty `state`.
            StorageUnavailable: The store cannot be read now; also while iterating.
            StorageError: An entry is damaged; also while iterating.
        """
        if module is not None:
            module = plain_module(module)
        if state is not None:
            state = plain_state(state)
        sender = plain_sender(sender)
        return self._translated(self._call(self._scan, module, sender, state))

    def __iter__(self) -> Iterator[Record]:
        """The same as `records` without a filter."""
        return self.records()

    def __len__(self) -> int:
        """The number of conversations that are not in their first state."""
        return self._call(self._count)

    def __bool__(self) -> bool:
        """Always true: an empty store is still a store."""
        return True

    def set_all(self, sender: Sender, state: str) -> int:
        """Moves every existing conversation of a sender, in all modules, to one state.

        A bounce handler needs it: the mail comes from a mail daemon, the state is the bouncing
        subscriber's. ``ROUTE_FIRST_STATE`` removes the entries.

        Returns:
            How many conversations were moved; those without an entry are not touched.

        Raises:
            TypeError, ValueError, StorageUnavailable: As for `set`.
        """
        sender, state = plain_sender(sender), plain_state(state)
        stored = None if state == ROUTE_FIRST_STATE else state
        conversation = self._active.conversation
        if conversation is None:
            return self._call(self._set_all, sender, stored)
        return self._call(conversation.set_all, sender, stored, self._clock())

    def rename(self, module: str, old: str, new: str) -> int:
        """Moves every conversation of a module from one state to another.

        For when a handler function is renamed. The conversations keep their `updated_at`, because
        nobody has written a mail.

        Args:
            module: The handler module.
            old: The state to leave; not ``ROUTE_FIRST_STATE``, whose conversations have no entry.
            new: The state to take; ``ROUTE_FIRST_STATE`` removes the entries.

        Returns:
            How many conversations were moved.

        Raises:
            TypeError, ValueError, StorageUnavailable: As for `set`.

        A crash in mid-call may leave some moved and some not; calling it again finishes the work.
        """
        module = plain_module(module)
        old, new = plain_state(old, "old"), plain_state(new, "new")
        if old == ROUTE_FIRST_STATE:
            raise ValueError(
                f"old must not be {ROUTE_FIRST_STATE!r}: conversations in their first state "
                "have no entry that could be moved"
            )
        return self._call(self._rename, module, old, None if new == ROUTE_FIRST_STATE else new)

    def purge(
        self, *, older_than: timedelta, module: str | None = None, state: str | None = None
    ) -> int:
        """Removes the conversations that have been idle for longer than a given time.

        Args:
            older_than: The idle time, not negative. Entries without a known time (such as those
                of a shelf that Salmon wrote) are never removed.
            module: Only this module's conversations.
            state: Only those in this state.

        Returns:
            How many were removed.

        Raises:
            TypeError, ValueError: `older_than` is no ``timedelta`` or is negative, or a bad filter.
            StorageUnavailable: As for `set`.

        A crash in mid-call may leave some removed and some not; calling it again finishes the work.
        """
        check_idle_time(older_than)
        module = None if module is None else plain_module(module)
        state = None if state is None else plain_state(state)
        return self._call(self._purge, self._clock() - older_than // MICROSECOND, module, state)

    def clear(self) -> None:
        """Removes everything; meant for tests.

        Raises:
            StorageError: The store was made with ``protect=True``.
            StorageUnavailable: The store cannot be written now.
        """
        if self._protect:
            raise StorageError(
                f"clear() refused: {self!r} was made with protect=True; "
                "purge(older_than=timedelta(0)) removes entries on purpose"
            )
        self._call(self._wipe)
        if self._active.conversation is not None:
            self._active.conversation.forget()

    # ---------------------------------------------------------------- the store itself

    def ping(self) -> None:
        """Returns if the store can be reached and read.

        Raises:
            StorageUnavailable: It cannot.
        """
        self._call(self._ping)

    def close(self) -> None:
        """Releases what the store itself opened, and only that; harmless when repeated.

        Raises:
            StorageError: Something did not let itself be released; the store is closed all the
                same.
        """
        if not self._closed:
            self._closed = True
            try:
                self._close()
            except Exception as error:  # noqa: BLE001 - a driver may raise anything
                wrapped = error if isinstance(error, StorageError) else self._wrap(error)
                raise self._mask.apply(wrapped, error)  # noqa: B904 - it has its cause

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        place = self._mask.hide(self._place())
        return f"<{type(self).__name__}{' ' + place if place else ''}>"

    @property
    def _has_hooks(self) -> bool:
        """Whether this is more than a store with only ``get``, ``set`` and ``clear``."""
        return type(self)._read is not StateStorage._read

    # ---------------------------------------------------------------- error handling

    def _check_open(self) -> None:
        if self._closed:
            self._refuse_closed()

    def _refuse_closed(self) -> NoReturn:
        raise StorageUnavailable(f"{self!r} is closed: make a new one to go on")

    def _raise(self, error: Exception) -> NoReturn:
        """Raises what a public method lets out for an error that a hook raised."""
        if isinstance(error, NotImplementedError):
            raise error
        wrapped = error if isinstance(error, StorageError) else self._wrap(error)
        self._mask.apply(wrapped, error)
        level = logging.WARNING if isinstance(wrapped, ConversationBusy) else logging.ERROR
        log().log(level, "%r: %s", self, getattr(wrapped, "detail", wrapped))
        raise wrapped

    def _log_traceback(self, what: str) -> None:
        """Logs what failed and is not raised."""
        log().error("%r: %s\n%s", self, what, self._mask.hide(traceback.format_exc().rstrip()))

    def _call(self, hook: Callable[..., _Result], *arguments: Any) -> _Result:
        self._check_open()
        try:
            return hook(*arguments)
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._raise(error)

    def _translated(self, records: Iterator[Record]) -> Iterator[Record]:
        try:
            yield from records
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._raise(error)

    def _cannot(self, what: str) -> NoReturn:
        raise NotImplementedError(
            f"{type(self).__name__} cannot {what}: it implements get, set and clear only"
        )

    # ---------------------------------------------------------------- hooks for backends
    #
    # This is the interface for whoever writes a store, and as stable as the public methods: the
    # underscores keep applications out, not authors. docs/writing-a-store.md is the guide.
    #
    # Required are `_read`, `_read_sender`, `_write`, `_scan`, `_wipe` and `_exclusive`; the others
    # have defaults made of those. Arguments were checked: texts are plain `str` and may hold any
    # character, `None` as a state stands for having no entry, and START never comes. A hook may be
    # called from any thread and raises what it likes: `_wrap` says what becomes of it.

    def _read(self, module: str, sender: Sender) -> str | None:
        """Returns the state of one conversation, or ``None`` if it has no entry."""
        self._cannot("read states")

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        """Returns the states of one sender by module, all from one moment.

        A conversation keeps the mapping as its snapshot: it must not change when the store does.
        """
        self._cannot("find the conversations of one sender")

    def _write(self, changes: Iterable[Change]) -> None:
        """Writes all changes or none; when it returns they are durable.

        They may be an iterator, of several senders, and come with each (module, sender) once. To
        remove an entry that is not there is no error.
        """
        self._cannot("write several changes at once")

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        """Yields the records that match all filters exactly, with bounded memory.

        ``None`` does not filter. Nothing may stay locked or open between two records, as whoever
        iterates may set states meanwhile, or stop; `records` says what then must still come.
        """
        self._cannot("list its records")

    def _wipe(self) -> None:
        """Removes every entry."""
        self._cannot("remove everything")

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        """Waits for a sender's lock and returns what gives it back.

        The default is between the threads of the process. A store that is shared by processes has
        one between processes, which ends with the process that holds it, and says so by the class
        attribute ``_locks_processes = True``. It is asked for no null sender, and by a thread for
        several senders one after the other, with a `timeout` of 0 from the second on. What is
        returned is called once, perhaps after `close`.

        Raises:
            ConversationBusy: It was not won within `timeout` seconds; 0 does not wait.
        """
        locks: ThreadLocks | None = self.__dict__.get("_thread_locks")
        if locks is None:
            locks = self.__dict__.setdefault("_thread_locks", ThreadLocks())
        return locks.acquire(sender, timeout)

    def _begin(self) -> UnitOfWork:
        """Returns what an outermost conversation works with: for databases with transactions."""
        return UnitOfWork(self)

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        """Makes the moves, then the transitions, all or none.

        Raises:
            ConversationBusy: A conditional transition found another state than it had seen.
        """
        with self._exclusive():
            changes = {}
            for sender, state, now in moves:
                for module in self._read_sender(sender):
                    changes[module, sender] = Change(module, sender, state, now)
            for module, sender, state, now, conditional, seen in transitions:
                if conditional and self._read(module, sender) != seen:
                    raise overtaken()
                changes[module, sender] = Change(module, sender, state, now)
            self._write(changes.values())

    def _exclusive(self) -> AbstractContextManager[object]:
        """Returns a context in which no other thread or process writes to the store.

        `_read`, `_read_sender`, `_scan` and `_write` are called inside it, so a `_write` that
        enters it by itself finds its own thread there already. The defaults of `_commit` and of
        the four hooks below need it. A backend whose database has a statement for their purpose
        fills those in instead, and can do without.

        Raises:
            StorageUnavailable: Others were writing for longer than the store cares to wait.
        """
        self._cannot("read and write in one step")

    def _compare_and_set(
        self, module: str, sender: Sender, expected: str | None, state: str | None
    ) -> bool:
        """Does `compare_and_set`; ``None`` stands for having no entry."""
        with self._exclusive():
            if self._read(module, sender) != expected:
                return False
            self._write((Change(module, sender, state, self._clock()),))
            return True

    def _set_all(self, sender: Sender, state: str | None) -> int:
        """Does `set_all`; ``None`` removes."""
        with self._exclusive():
            now = self._clock()
            changes = [Change(module, sender, state, now) for module in self._read_sender(sender)]
            self._write(changes)
            return len(changes)

    def _rename(self, module: str, old: str, new: str | None) -> int:
        """Does `rename`; ``None`` removes."""
        with self._exclusive():
            changes = [
                Change(module, record.sender, new, to_microseconds(record.updated_at))
                for record in self._scan(module, None, old)
            ]
            self._write(changes)
            return len(changes)

    def _purge(self, before: int, module: str | None, state: str | None) -> int:
        """Removes the entries set before a moment, given in microseconds since 1970 UTC."""
        with self._exclusive():
            changes = []
            for record in self._scan(module, None, state):
                updated_at = to_microseconds(record.updated_at)
                if updated_at is not None and updated_at < before:
                    changes.append(Change(record.module, record.sender, None, None))
            self._write(changes)
            return len(changes)

    def _count(self) -> int:
        """Returns the number of entries."""
        return sum(1 for _ in self._scan(None, None, None))

    def _ping(self) -> None:
        """Raises if the store cannot be reached or read; the default never does."""

    def _close(self) -> None:
        """Releases what the store opened, and only that; called once."""

    def _place(self) -> str:
        """Returns where the states are, for ``repr`` and messages."""
        return ""

    def _wrap(self, error: Exception) -> StorageError:
        """Returns the `StorageError` for whatever error a hook let out.

        The passwords in the URL of the store are masked in it afterwards, here and in its cause.

        `StorageUnavailable` is for what may be well a minute later, as it keeps the mail; a plain
        `StorageError` is for what somebody has to mend. Errors that are one already do not come.
        """
        if isinstance(error, (OSError, MemoryError)):
            return StorageUnavailable(f"{type(error).__name__}: {error}")
        return StorageError(f"{type(error).__name__}: {error}")
