"""StateStorage: what every store promises, and what all stores share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from salmon import routing
from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.backend import Backend
from salmon_state.checks import (
    check_idle_time,
    check_seconds,
    plain_module,
    plain_sender,
    plain_state,
)
from salmon_state.consistency import find_damage
from salmon_state.conversation import Active, Conversation
from salmon_state.entries import (
    ABSENT,
    EVERY,
    MICROSECOND,
    STATE,
    Condition,
    Entry,
    Kind,
    Seen,
    Where,
    Write,
    as_plain,
    from_microseconds,
)
from salmon_state.errors import Overtaken, StorageError
from salmon_state.findings import Finding
from salmon_state.keys import Sender
from salmon_state.thread_locks import ThreadLocks

__all__ = ["Record", "StateStorage"]

_TRIES = 5
"""Of a `compare_and_set` whose expectation holds, and did not a moment ago."""

_Self = TypeVar("_Self", bound="StateStorage")
_Result = TypeVar("_Result")


class Record(NamedTuple):
    """One conversation as a store holds it."""

    module: str
    """The handler module, or whatever a ``@state_key_generator`` made of it."""
    sender: Sender
    state: str
    """The name of the function that handles this sender's next mail; never START."""
    updated_at: datetime | None
    """When the state was last set, in UTC by the clock of whoever set it; ``None`` if unknown."""


class StateStorage(Backend, routing.StateStorage):
    """Keeps the state of every conversation: (module, sender) → name of a handler function.

    The public methods are the contract. They check what they are given, turn a driver's errors
    into `StorageError`, and call the hooks of `Backend`, which are all that a store fills in. What
    holds for every store:

    * Two different (module, sender) pairs never meet, and the same pair is found again by any
      other Python, driver or library version.
    * When a method that changes something returns, the change has happened; on a durable store it
      survives the death of the process and of the machine. When it raises, nothing has changed;
      but a `StorageUnavailable` because no answer came may mean that it has happened.
    * Every method may be called from any thread. Unless the store says otherwise, instances made
      for the same place by other processes see each other's changes at once.
    * After `close` every method raises `StorageUnavailable`.

    A subclass that only implements `get`, `set` and `clear`, as Salmon's documentation teaches,
    works with Salmon's router; what it cannot do raises `NotImplementedError` and says so.

    Args:
        protect: Makes `clear` raise instead of removing everything; for production, where
            ``Router.clear_states()`` or a test run by mistake would be a disaster.
    """

    _clock = staticmethod(lambda: time.time_ns() // 1000)
    _protect = False
    _active = Active()  # of no store in particular: `conversation` gives each its own

    def __init__(self, *, protect: bool = False) -> None:
        self._protect = protect
        # Those of the class would do, and do where a store leaves this out; but a `get` finds its
        # own ones in half the time, as long as there are no others in its dict.
        self._closed = False
        self._active = Active()
        self._threads = ThreadLocks()

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
            self._check_open()
        conversation = self._active.conversation
        state: str | None
        try:
            if conversation is None:
                state = self._find(STATE, sender, module)
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
            self._check_open()
        stored = None if state == ROUTE_FIRST_STATE else state
        conversation = self._active.conversation
        if conversation is not None:
            conversation.set(module, sender, stored, self._clock())
            return
        try:
            self._commit((Write(STATE, sender, module, stored, self._clock()),))
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
            return self._call(self._try, module, sender, before, after)
        now = self._clock()
        return self._call(conversation.compare_and_set, module, sender, before, after, now)

    def _try(self, module: str, sender: Sender, before: str | None, after: str | None) -> bool:
        if before is None and after is None:
            return self._find(STATE, sender, module) is None
        expect: Condition = ABSENT if before is None else Seen(before)
        for _ in range(_TRIES):
            try:
                self._commit((Write(STATE, sender, module, after, self._clock(), expect),))
            except Overtaken:
                # PostgreSQL does not see a row that was removed and made anew by the commit that
                # the statement waited for: no reason to say that the state was another one.
                if self._find(STATE, sender, module) != before:
                    break
            else:
                return True
        return False

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
        when the process ends: after ``SystemExit`` or ``KeyboardInterrupt``. If somebody changed,
        without a conversation (an operator, a bounce handler), a state of the sender that this one
        read or set, and this one writes anything, what they wrote stays, and leaving raises
        `ConversationBusy` so that the mail comes again. States that it did not look at may change,
        and a conversation that writes nothing is never refused.

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
        return self._converse(sender, timeout)

    def _converse(
        self, sender: Sender, timeout: float, wants: Sequence[tuple[Kind, str]] = ()
    ) -> Conversation:
        """Returns a `conversation` that also reads some of the sender's entries when it begins.

        Args:
            sender: As for `conversation`.
            timeout: As for `conversation`.
            wants: What its `Conversation.find` will be asked for, besides states.
        """
        if type(sender) is not str:
            sender = plain_sender(sender)
        if type(timeout) is not float or not timeout >= 0:
            check_seconds("timeout", timeout)
        if self._active is StateStorage._active:
            self.__dict__.setdefault("_active", Active())
        return Conversation(self, self._active, sender, timeout, wants)

    # ---------------------------------------------------------------- many conversations

    def records(
        self,
        *,
        module: str | None = None,
        sender: str | None = None,
        state: str | None = None,
        older_than: timedelta | None = None,
    ) -> Iterator[Record]:
        """Iterates over the conversations, in no particular order, without loading the store.

        Each conversation that exists during the whole iteration and is not changed comes exactly
        once; one that is set or removed meanwhile may or may not come. Setting states while
        iterating is allowed.

        Args:
            module: Only this module's conversations.
            sender: Only this sender's; ``None`` means everybody's.
            state: Only those in this state.
            older_than: Only those that have been idle for longer, which are those that `purge`
                would remove.

        Raises:
            TypeError, ValueError: A filter of the wrong type, an empty `state`, or a negative time.
            StorageUnavailable: The store cannot be read now; also while iterating.
            StorageError: An entry is damaged; also while iterating.
        """
        where = _where(module, state, None if older_than is None else self._moment(older_than))
        if sender is not None:
            where = where._replace(sender=plain_sender(sender))
        self._check_open()
        return self._go_through(STATE, where, _records)

    def _go_through(
        self, kind: Kind, where: Where, make: Callable[[list[Entry]], Iterable[_Result]]
    ) -> Iterator[_Result]:
        """Yields what is made of the entries of one page after the other.

        What a hook raises meanwhile comes out as from every public method.
        """
        try:
            for page in self._pages(kind, where):
                yield from make(page.entries)
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._raise(error)

    def __iter__(self) -> Iterator[Record]:
        """The same as `records` without a filter."""
        return self.records()

    def __len__(self) -> int:
        """The number of conversations that are not in their first state."""
        return self._call(self._count, STATE)

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
            write = Write(STATE, sender, EVERY, stored, self._clock())
            return self._call(self._commit, (write,))[0]
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
        if old == new:
            return sum(1 for _ in self.records(module=module, state=old))
        stored = None if new == ROUTE_FIRST_STATE else new
        return self._call(self._sweep, STATE, Where(name=module, value=old), stored)

    def rename_module(self, old: str, new: str) -> int:
        """Moves every conversation of a module to another one, for when a module is renamed.

        The conversations keep their states and their `updated_at`. Where the sender has one with
        the new module already, both stay as they are: ``records(module=old)`` has those left over.

        Returns:
            How many conversations were moved.

        Raises:
            TypeError: `old` or `new` is no ``str``.
            StorageUnavailable: As for `set`.

        A crash in mid-call may leave some moved and some not, none twice and none lost; calling it
        again finishes the work.
        """
        old, new = plain_module(old), plain_module(new)
        if old == new:
            return sum(1 for _ in self.records(module=old))

        def moves(entry: Entry) -> list[Write]:
            _, sender, _, state, at = entry
            return [
                Write(STATE, sender, old, None, None, Seen(state, at)),
                Write(STATE, sender, new, state, at, ABSENT),
            ]

        def is_free(entry: Entry) -> bool:
            return not self._load(entry.sender, ((STATE, new),))

        return self._call(self._rewrite, STATE, Where(name=old), moves, is_free)

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
        where = _where(module, state, self._moment(older_than))
        return self._call(self._sweep, STATE, where, None)

    def _moment(self, ago: timedelta) -> int:
        """Returns when that was, in microseconds since 1970 UTC."""
        check_idle_time(ago)
        return self._clock() - ago // MICROSECOND

    # ---------------------------------------------------------------- one person

    def export(self, sender: Sender) -> Iterator[dict[str, Any]]:
        """Iterates over everything that is kept about somebody, of every kind.

        >>> from salmon_state import MemoryStorage
        >>> store = MemoryStorage()
        >>> store.set("app.handlers", "anna@example.com", "POSTING")
        >>> [(entry["kind"], entry["name"], entry["value"]) for entry in store.export(
        ...     "anna@example.com")]
        [('STATE', 'app.handlers', 'POSTING')]

        Yields:
            What `json.dumps` takes: ``kind``, ``sender``, ``name``, ``at`` (ISO 8601, UTC, or
            ``None``), ``value`` and ``encoding``, which is ``"base64"`` for a value that is no
            UTF-8 and ``"text"`` for any other.

        Raises:
            TypeError: A bad `sender`.
            StorageUnavailable: The store cannot be read now; also while iterating.
            StorageError: An entry is damaged; also while iterating.
        """
        sender = plain_sender(sender)
        self._check_open()
        where, make = Where(sender=sender), partial(map, as_plain)
        return chain.from_iterable(self._go_through(kind, where, make) for kind in Kind)

    def erase(self, sender: Sender, *, timeout: float = 2.0) -> int:
        """Removes everything that is kept about somebody, of every kind, in one commit.

        It waits for a mail of the sender that is in hand, and is part of a `conversation` that
        this thread is in. A mail that comes again later is taken for a new one.

        Args:
            sender: The sender exactly as Salmon gives it.
            timeout: How long to wait for the sender's lock, in seconds.

        Returns:
            How many entries there were.

        Raises:
            TypeError, ValueError: A bad `sender` or a negative `timeout`.
            ConversationBusy: The lock was not won in time.
            StorageUnavailable: As for `set`; nothing is removed.
        """
        with self.conversation(sender, timeout=timeout) as conversation:
            found = sum(1 for entry in self.export(sender) if entry["kind"] != Kind.LEASE.name)
            for kind in Kind:
                if kind is not Kind.LEASE:  # that of this very conversation, perhaps
                    conversation.add(Write(kind, sender, EVERY, None))
        return found

    # ---------------------------------------------------------------- the store itself

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
        self._call(self._entry_leases.restore)
        if self._active.conversation is not None:
            self._active.conversation.forget()

    def ping(self) -> None:
        """Returns if the store can be reached and read.

        Raises:
            StorageUnavailable: It cannot.
        """
        self._call(self._ping)

    def check(self) -> Iterator[str]:
        """Goes through everything that is kept, of every kind, and looks each entry up again.

        >>> from salmon_state import MemoryStorage
        >>> list(MemoryStorage().check())
        []

        For an operator: a store may be in use meanwhile, and what is changed is no finding. It
        reads everything once, a page at a time; SQLite and the shelf first let the database check
        its file (``PRAGMA integrity_check``). What no look-up can show is a value that became
        another valid one: see "What damage is found" in ``docs/configuration.md``.

        Yields:
            A sentence for each thing that is damaged. A page that cannot be read ends its kind:
            mend that entry, and check again.

        Raises:
            StorageUnavailable: The store cannot be read now; also while iterating.
        """
        self._check_open()
        return find_damage(self)

    @contextmanager
    def paused(self, seconds: float = 10.0) -> Iterator[None]:
        """Keeps everybody else from writing while the block runs; reading goes on.

        For copies that are to be equal: keep it short. Whoever writes meanwhile waits, and after
        its own timeout the mail in hand is answered with 451 and comes again. It ends with its
        process; on Redis, which does not learn of that, after some seconds. SQL databases and the
        shelf can do this, and Redis from version 7 on, all of the server, where other stores'
        lists wait as well; on MariaDB it takes the right to LOCK TABLES.

        Args:
            seconds: How long the block may take, where the server ends it by itself.

        Raises:
            StorageUnavailable: Others were writing for too long; the block took longer than
                `seconds`, so that others may have written; or see `set`.
            NotImplementedError: This store cannot.
        """
        self._check_open()
        with ExitStack() as stack:
            self._call(stack.enter_context, self._call(self._pause, seconds))
            yield

    def diagnose(self) -> Iterator[Finding]:
        """Asks the server, the files and the locks whether all is as it should be.

        >>> from salmon_state import MemoryStorage
        >>> list(MemoryStorage().diagnose())
        []

        For an operator; it changes nothing. It says whether what is acknowledged outlives a power
        failure, how the replicas are, whether somebody else writes, what version the tables have
        and which index is missing, how far the server's clock is from ours, whose the files are,
        and who is in a conversation; as far as the store has any of these and this user may ask.
        On Redis it looks at every key once, for leases.

        Yields:
            What was found: what is wrong comes with an advice, what is well without.

        Raises:
            StorageUnavailable: The store cannot be read now; also while iterating.
        """
        self._check_open()
        try:
            yield from self._diagnose()
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._raise(error)

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
                wrapped = error if isinstance(error, StorageError) else self._explain(error)
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

    def _call(self, hook: Callable[..., _Result], *arguments: Any) -> _Result:
        self._check_open()
        try:
            return hook(*arguments)
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; see _raise
            self._raise(error)


def _records(entries: list[Entry]) -> Iterator[Record]:
    state: Any
    for _, sender, module, state, at in entries:
        yield Record(module, sender, state, from_microseconds(at))


def _where(module: str | None, state: str | None, before: int | None) -> Where:
    """Returns which states a filter is for, or raises for one of a wrong type."""
    return Where(
        name=EVERY if module is None else plain_module(module),
        value=None if state is None else plain_state(state),
        before=before,
    )
