"""Backend and UnitOfWork: the hooks, all that whoever writes a store fills in.

This is the interface for authors of stores, and as stable as the public methods: the underscores
keep applications out, not authors. ``docs/writing-a-store.md`` is the guide.

Required are `Backend._load`, `Backend._page`, `Backend._commit` and `Backend._wipe`: with these
four a store is correct, locks between processes included. The others have defaults made of them,
and are filled in for speed.

Arguments were checked: texts are plain ``str`` and may hold any character. A hook may be called
from any thread and raises what it likes: `Backend._explain` says what becomes of it.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

from salmon_state.entries import (
    Entry,
    Kind,
    Page,
    Position,
    Seen,
    Value,
    Want,
    Where,
    Write,
    in_order,
)
from salmon_state.errors import ConversationBusy, Overtaken, StorageError, StorageUnavailable
from salmon_state.findings import Finding
from salmon_state.keys import Sender
from salmon_state.leases import LEASE_SECONDS, EntryLeases, holder_of
from salmon_state.log import log
from salmon_state.masking import Mask
from salmon_state.thread_locks import ThreadLocks

__all__ = ["Backend", "Lock", "UnitOfWork"]


class Lock(NamedTuple):
    """A sender's lock that was won."""

    release: Callable[[], None]
    """Gives it back; called once, perhaps after ``close``."""
    proof: Write | None = None
    """What a commit must include because it fails if the lock was lost, as that of a lease can be;
    ``None`` if it ends with its process and never before."""


class Backend:
    """What keeps entries; `salmon_state.StateStorage` makes a store of it.

    Attributes:
        spans_senders: Whether one commit may touch the entries of several senders atomically.
        locks_processes: Whether `_lock` keeps processes apart, and not only the threads of one.
        has_connection: Whether handlers can write rows of their own in the transaction of a
            conversation, through its `connection`.
        is_remote: Whether a call waits for a server most of the time, so that threads gain by
            waiting side by side.
        lease_seconds: How long the default of `_lock` outlives its process.
    """

    spans_senders = True
    locks_processes = True
    has_connection = False
    is_remote = False
    lease_seconds = LEASE_SECONDS

    _mask = Mask()
    """What hides the secrets that the store was given, from whatever it lets out or logs."""
    _closed = False
    _clock: Callable[[], int]
    """The time in microseconds since 1970 UTC."""
    _has_hooks = False
    """Whether this is more than a store with only ``get``, ``set`` and ``clear``."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._has_hooks = cls._load is not Backend._load

    # ---------------------------------------------------------------- required

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        """Returns what is wanted of a sender's entries, all of one moment.

        Args:
            sender: Whose.
            wants: A few pairs of a kind and a name, or of a kind and `EVERY`.

        Raises:
            StorageError: One of them is damaged.
        """
        self._cannot("find the entries of one sender")

    def _page(self, kind: Kind, where: Where, after: Position | None) -> Page:
        """Returns the next entries that match exactly, a bounded number of them.

        Nothing may stay locked or open between two pages, as whoever goes through them may write
        meanwhile, or stop; and a page looks at a bounded number of entries even if few match. Each
        entry that exists all the time and is not changed comes exactly once. Entries of a kind
        that is due come in the order of their time if `where` says ``before``; those of one time,
        and all others, in whatever order stays the same.

        Args:
            kind: Of which kind.
            where: Which of them.
            after: ``None`` for the first page, then what the page before said.

        Raises:
            StorageError: An entry is damaged.
        """
        self._cannot("list its entries")

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        """Makes all writes or none; when it returns they are durable.

        Atomic between all processes that share the store: nobody sees, or writes in the middle
        of, a part of it. Writes are to be made as they come, which is `in_order`. There is one
        for an entry at most, except that after those of `EVERY` entry others of the same sender
        and kind may come, which expect `ANYTHING`. They may be an iterator of a hundred thousand.

        Returns:
            How many entries each of them wrote or removed; 0 for a `CHECK`.

        Raises:
            Overtaken: An expectation does not hold; nothing was written.
        """
        self._cannot("write several entries at once")

    def _wipe(self) -> None:
        """Removes every entry of every kind."""
        self._cannot("remove everything")

    # ---------------------------------------------------------------- for speed

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        """Returns the value of one entry, or ``None`` if there is none."""
        for entry in self._load(sender, ((kind, name),)):
            return entry.value
        return None

    def _count(self, kind: Kind) -> int:
        """Returns the number of entries of a kind."""
        return sum(len(page.entries) for page in self._pages(kind, Where()))

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        """Takes entries that are due, each for one taker only, by moving their time.

        Whoever is done with one removes it, or moves its time, expecting that of its own claim
        (``Seen(at=until)``). If it dies before, the entry is due again at `until`.

        Args:
            kind: One that is due.
            until: The moment to move them to, in microseconds since 1970 UTC.
            limit: How many at most.

        Returns:
            The entries with their new time, those first that have been due for longest.
        """
        claimed: list[Entry] = []
        for page in self._pages(kind, Where(before=self._clock() + 1)):
            for entry in page.entries:
                expect = Seen(at=entry.at)
                try:
                    self._commit([Write(*entry[:4], at=until, expect=expect)])
                except Overtaken:  # somebody else has taken it
                    continue
                claimed.append(entry._replace(at=until))
                if len(claimed) == limit:
                    return claimed
        return claimed

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        """Gives every entry that matches another value, or removes it; returns how many.

        They keep their time. What somebody changes meanwhile is looked at again: nothing newer is
        overwritten, and nothing that still matches is left out. A crash in mid-call may leave some
        changed and some not; calling it again finishes the work.

        Args:
            kind: Of which kind.
            where: Which of them.
            value: The new value, which does not match `where`; ``None`` removes.
        """
        return self._rewrite(kind, where, lambda entry: [_change(entry, value)], where.matches)

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        """Waits for a sender's lock; the default is a LEASE entry.

        It is between all that share the store, and ends with the process that holds it; the
        default `lease_seconds` later, and among the processes that wait for it none is promised a
        turn. It is asked for no null sender, and by a thread for several senders one after the
        other, with a `timeout` of 0 from the second on.

        Raises:
            ConversationBusy: It was not won within `timeout` seconds; 0 does not wait.
        """
        deadline = time.monotonic() + timeout
        # Only one thread of a process asks the store, and the next one in turn follows at once.
        release = self._threads.acquire(sender, timeout)
        try:
            lease = self._entry_leases.win(sender, max(0.0, deadline - time.monotonic()))
        except BaseException:
            release()
            raise

        def give_back() -> None:
            try:
                lease.release()
            finally:
                release()

        return Lock(give_back, lease.proof)

    @cached_property
    def _threads(self) -> ThreadLocks:
        # From Python 3.12 on two threads may be here at once; there must be one of these for both.
        threads: ThreadLocks = self.__dict__.setdefault("_threads", ThreadLocks())
        return threads

    @cached_property
    def _entry_leases(self) -> EntryLeases:
        made = EntryLeases(self._commit, self._load, self._clock, self.lease_seconds)
        leases: EntryLeases = self.__dict__.setdefault("_entry_leases", made)
        return leases

    def _begin(self) -> UnitOfWork:
        """Returns what an outermost conversation works with: for databases with transactions."""
        return UnitOfWork(self) if self._has_hooks else LockOnly(self)

    # ---------------------------------------------------------------- the store itself

    def _ping(self) -> None:
        """Raises if the store cannot be reached or read."""
        if self._has_hooks:
            self._load(None, ((Kind.STATE, ""),))

    def _examine(self) -> Iterable[str]:
        """Returns what the database itself finds wrong with its files, one sentence each."""
        return ()

    def _diagnose(self) -> Iterable[Finding]:
        """Returns what there is to say of the server, the files and the locks; changes nothing."""
        for page in self._pages(Kind.LEASE, Where()) if self._has_hooks else ():
            for entry in page.entries:
                if entry.at is None or entry.at > self._clock():
                    holder = holder_of(entry.value)
                    yield Finding("locks", f"{entry.sender!r:.200} is held by {holder}")

    def _pause(self, seconds: float) -> AbstractContextManager[object]:
        """Returns a context in which nobody else writes; whoever tries to waits.

        Args:
            seconds: After how many it may end by itself: where a server holds it that does not
                learn that this process died. Leaving then raises, if it has ended before.
        """
        raise NotImplementedError(
            f"{type(self).__name__} cannot keep others from writing: stop what writes"
        )

    def _close(self) -> None:
        """Releases what the store opened, and only that; called once."""

    def _place(self) -> str:
        """Returns where the entries are, for ``repr`` and messages."""
        return ""

    def _explain(self, error: Exception) -> StorageError:
        """Returns the `StorageError` for whatever error a hook let out.

        The passwords in the URL of the store are masked in it afterwards, here and in its cause.

        `StorageUnavailable` is for what may be well a minute later, as it keeps the mail; a plain
        `StorageError` is for what somebody has to mend. Errors that are one already do not come.
        """
        if isinstance(error, (OSError, MemoryError)):
            return StorageUnavailable(f"{type(error).__name__}: {error}")
        return StorageError(f"{type(error).__name__}: {error}")

    # ---------------------------------------------------------------- what the defaults share

    def __repr__(self) -> str:
        place = self._mask.hide(self._place())
        return f"<{type(self).__name__}{' ' + place if place else ''}>"

    def _check_open(self) -> None:
        if self._closed:
            raise StorageUnavailable(f"{self!r} is closed: make a new one to go on")

    def _raise(self, error: Exception) -> NoReturn:
        """Raises what a public method lets out for an error that a hook raised."""
        if isinstance(error, NotImplementedError):
            raise error
        explained = error if isinstance(error, StorageError) else self._explain(error)
        self._mask.apply(explained, error)
        level = logging.WARNING if isinstance(explained, ConversationBusy) else logging.ERROR
        log().log(level, "%r: %s", self, explained.detail)
        raise explained

    def _log_traceback(self, what: str, error: BaseException | None = None) -> None:
        """Logs what failed and is not raised: the exception being handled, or the one given."""
        error = error or sys.exc_info()[1]
        lines = traceback.format_exception(error)
        log().error("%r: %s\n%s", self, what, self._mask.hide("".join(lines).rstrip()))

    def _pages(self, kind: Kind, where: Where) -> Iterator[Page]:
        """Yields all pages of what matches; whoever wants one after `close` is told."""
        after = None
        while True:
            page = self._page(kind, where, after)
            yield page
            after = page.after
            if after is None:
                return
            self._check_open()

    def _rewrite(
        self,
        kind: Kind,
        where: Where,
        writes: Callable[[Entry], list[Write]],
        may: Callable[[Entry], bool],
    ) -> int:
        """Makes some writes for each entry that matches; returns for how many.

        Args:
            kind: Of which kind.
            where: Which of them.
            writes: What to write, expecting that the entry is still as it was seen.
            may: Whether that is to be, asked again when somebody else has written.
        """
        total = 0
        for page in self._pages(kind, where):
            for entries in self._atomic(page.entries):
                try:
                    self._commit(in_order(each for entry in entries for each in writes(entry)))
                    total += len(entries)
                except Overtaken:
                    total += sum(self._rewrite_one(entry, writes, may) for entry in entries)
        return total

    def _rewrite_one(
        self, entry: Entry, writes: Callable[[Entry], list[Write]], may: Callable[[Entry], bool]
    ) -> bool:
        found = [entry]
        while found and may(found[0]):
            try:
                self._commit(in_order(writes(found[0])))
            except Overtaken:
                found = self._load(entry.sender, ((entry.kind, entry.name),))
            else:
                return True
        return False

    def _atomic(self, entries: list[Entry]) -> Iterator[list[Entry]]:
        """Yields the entries in parts that one commit may change."""
        if self.spans_senders:
            if entries:
                yield entries
            return
        parts: dict[Sender, list[Entry]] = {}
        for entry in entries:
            parts.setdefault(entry.sender, []).append(entry)
        yield from parts.values()

    def _cannot(self, what: str) -> NoReturn:
        why = "it implements get, set and clear only"
        if self._has_hooks:
            hooks = ("_load", "_page", "_commit", "_wipe")
            missing = [name for name in hooks if getattr(type(self), name) is vars(Backend)[name]]
            why = f"whoever wrote it must fill in {' and '.join(missing)}"
        raise NotImplementedError(f"{type(self).__name__} cannot {what}: {why}")


def _change(entry: Entry, value: Value | None) -> Write:
    """Returns the write that changes what was seen, and nothing newer."""
    # Whoever changes an entry of another kind changes its time: 20 MB need not be sent to compare.
    seen = entry.value if entry.kind is Kind.STATE else None
    return Write(*entry[:3], value, entry.at, Seen(seen, entry.at))


class UnitOfWork:
    """What a backend does for one outermost conversation and for those nested in it.

    This one suits every store. A database whose transaction locks, reads and commits in one has
    its own, by `Backend._begin`.
    """

    _locks: tuple[Lock, ...] = ()

    def __init__(self, store: Backend) -> None:
        self._store = store

    def enter(self, sender: Sender, timeout: float, wants: Sequence[Want]) -> list[Entry]:
        """Wins a sender's lock, unless it is the null sender, and returns what `load` does.

        Args:
            sender: Whose conversation begins.
            timeout: How long to wait for the lock, in seconds; 0 does not wait.
            wants: As for `Backend._load`.

        Raises:
            ConversationBusy: The lock was not won in time.
        """
        if sender:
            self._locks += (self._store._lock(sender, timeout),)
        return self._store._load(sender, wants)

    def load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        """Returns what is committed of somebody's entries; as `Backend._load`."""
        return self._store._load(sender, wants)

    def find(self, kind: Kind, sender: Sender, name: str) -> Any:
        """Returns what is committed of one entry; as `Backend._find`."""
        return self._store._find(kind, sender, name)

    def commit(self, writes: Sequence[Write], *, failed: bool) -> None:
        """Makes the writes, all or none, durably.

        Args:
            writes: What is to be written, `in_order`; perhaps nothing.
            failed: Whether the handler failed, so that what it did in the database beside, if
                that cannot be committed any more, is dropped instead of refusing the commit.

        Raises:
            Overtaken: Somebody changed what the conversation went by, or its lock was lost.
        """
        if writes:
            proofs = [lock.proof for lock in self._locks if lock.proof is not None]
            self._store._commit(in_order([*writes, *proofs]) if proofs else writes)

    def check(self) -> None:
        """Raises if it is certain by now that nothing can be committed.

        Asked when a handler has failed, before Salmon keeps a copy of a mail that comes again.
        """

    def close(self) -> None:
        """Undoes what is not committed and gives the locks back; called once, whatever happened."""
        if self._locks:
            *others, last = self._locks
            self._locks = tuple(others)
            try:
                last.release()
            finally:
                if others:
                    UnitOfWork.close(self)

    def connection(self, depth: int) -> Any:
        """Returns the database connection that handlers may take part with.

        Args:
            depth: How many conversations the asking one is nested in; 0 for the outermost.
        """
        raise NotImplementedError(
            f"{type(self._store).__name__} has no database connection to take part with: "
            "that is for SQLAlchemyStorage"
        )

    def leave(self, depth: int, *, undo: bool, failed: bool) -> None:
        """Ends what a nested conversation did through its `connection`: undone, or kept for later.

        Args:
            depth: As for `connection`; at least 1.
            undo: Whether it is undone.
            failed: As for `commit`.
        """


class LockOnly(UnitOfWork):
    """For a store that has only ``get``, ``set`` and ``clear``: they go through as they are.

    Its mails are kept apart between the threads of this process.
    """

    def enter(self, sender: Sender, timeout: float, wants: Sequence[Want]) -> list[Entry]:
        """Wins a sender's lock; nothing can be read by sender."""
        if sender:
            self._locks += (Lock(self._store._threads.acquire(sender, timeout)),)
        return []
