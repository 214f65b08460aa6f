"""Stores in memory whose conversations break a promise; the docstring says how."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from salmon_state import MemoryStorage, current_conversation
from salmon_state.backend import Backend, Lock, UnitOfWork
from salmon_state.entries import CHECK, EVERY, Entry, Kind, Want, Write, in_order
from salmon_state.errors import Overtaken, busy
from salmon_state.keys import Sender
from tests.testing.wrong_stores import blindly

FREE = Lock(lambda: None)


class NoLock(MemoryStorage):
    """Locks nobody, and commits whatever happened meanwhile."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return FREE

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        time.sleep(0.001)
        return super()._commit(blindly(writes))


class OneLockForAll(MemoryStorage):
    """Every sender waits for every other."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return super()._lock("everybody", timeout)


class LeaksLocks(MemoryStorage):
    """Gives no lock back."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        super()._lock(sender, timeout)
        return FREE


class RefusesLongWaits(MemoryStorage):
    """Passes the timeout on to something that cannot wait so long."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        if timeout > 3600:
            raise OverflowError("timeout too large")
        return super()._lock(sender, timeout)


class ReleasesInnerOnes(MemoryStorage):
    """Gives the lock of another sender back when the inner conversation ends."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        lock = super()._lock(sender, timeout)
        if current_conversation() is None:
            return lock
        lock.release()
        return FREE


class NeverWaits(MemoryStorage):
    """Tells whoever may wait that the sender is busy."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return super()._lock(sender, 0)


# ---------------------------------------------------------------- the unit of work


class LocksTheNullSender(MemoryStorage):
    """Takes the null sender for somebody."""

    def _begin(self) -> UnitOfWork:
        return self.Work(self)

    class Work(UnitOfWork):
        def enter(self, sender: Sender, timeout: float, wants: Sequence[Want]) -> list[Entry]:
            if not sender:
                self._locks += (self._store._lock(sender, timeout),)
            return super().enter(sender, timeout, wants)


class RemembersOthers(MemoryStorage):
    """Reads each state of somebody else once."""

    def _begin(self) -> UnitOfWork:
        return self.Work(self)

    class Work(UnitOfWork):
        def find(self, kind: Kind, sender: Sender, name: str) -> Any:
            known = self.__dict__.setdefault("known", {})
            if (sender, name) not in known:
                known[sender, name] = super().find(kind, sender, name)
            return known[sender, name]


class WritesAllBack(MemoryStorage):
    """Commits everything that it read."""

    def _begin(self) -> UnitOfWork:
        return self.Work(self)

    class Work(UnitOfWork):
        def enter(self, sender: Sender, timeout: float, wants: Sequence[Want]) -> list[Entry]:
            entries = super().enter(sender, timeout, wants)
            states = {entry.name: entry.value for entry in entries}
            self.read = [Write(Kind.STATE, sender, m, states.get(m), NOON) for m in MODULES]
            return entries

        def commit(self, writes: Sequence[Write], *, failed: bool) -> None:
            writes = [write for write in writes if write.value is not CHECK]
            written = {write[:3] for write in writes}
            back = [write for write in self.read if write[:3] not in written]
            super().commit(in_order([*back, *writes]), failed=failed)


MODULES = ("read", "written", "other")
NOON = 1_700_000_000_000_000 + 30


# ---------------------------------------------------------------- the commit


class OverwritesBlindly(MemoryStorage):
    """Commits whatever somebody else wrote meanwhile."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(blindly(writes))


class IgnoresReads(MemoryStorage):
    """Commits although what the conversation went by has changed."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(write for write in writes if write.value is not CHECK)


class CommitsOneByOne(MemoryStorage):
    """Finds out about a conflict when half of it is written."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return [super(CommitsOneByOne, self)._commit((write,))[0] for write in writes]


class MissesWhatIsNotThere(MemoryStorage):
    """Takes it for a conflict when there is nothing to remove."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        for kind, sender, name, value, *_ in writes:
            if value is None and not self._load(sender, [(kind, name)]):
                raise Overtaken
        return super()._commit(writes)


class ForgetsMoves(MemoryStorage):
    """Does not do what `set_all` asked for."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(write for write in writes if write.name is not EVERY)


class MovesOnly(MemoryStorage):
    """Cannot remove with `set_all`."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(w for w in writes if not (w.name is EVERY and w.value is None))


class MovesLast(MemoryStorage):
    """Does what `set_all` asked for after what was asked for later."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(sorted(writes, key=lambda write: write.name is EVERY))


class StampsAtTheEnd(MemoryStorage):
    """Sets the time of the commit instead of that of the write."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        now = self._clock()
        return super()._commit(write._replace(at=now) for write in writes)


# ---------------------------------------------------------------- the store's methods


class WritesAtOnce(MemoryStorage):
    """Sets states past the conversation."""

    def set(self, module: str, sender: Sender, state: str) -> None:
        stored = None if state == "START" else state
        self._commit((Write(Kind.STATE, sender, module, stored, self._clock()),))


class ComparesAtOnce(MemoryStorage):
    """Compares and sets past the conversation."""

    def compare_and_set(self, module: str, sender: Sender, expected: str, state: str) -> bool:
        return self._try(module, sender, None if expected == "START" else expected, state)


class ChecksNothingInside(MemoryStorage):
    """Takes what it would refuse outside."""

    def set(self, module: str, sender: Sender, state: str) -> None:
        conversation = self._active.conversation
        if conversation is None:
            super().set(module, sender, state)
        else:
            conversation.set(module, sender, state, self._clock())


class ClearsWithoutTelling(MemoryStorage):
    """Brings back at the end what was cleared."""

    def clear(self) -> None:
        self._wipe()


class RenamesNothingInside(MemoryStorage):
    """Leaves `rename` for later, which never comes."""

    def rename(self, module: str, old: str, new: str) -> int:
        return 0 if current_conversation() else super().rename(module, old, new)


class NeverCloses(MemoryStorage):
    """Works on."""

    def close(self) -> None:
        pass


class ShowsOtherThreads(MemoryStorage):
    """Has one conversation for all threads."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._active: Any = SimpleNamespace(conversation=None)


class ConfusesCase(MemoryStorage):
    """Takes senders for the same that differ in case, but only in conversations."""

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        return super()._load(sender and sender.lower(), wants)


class TakesZeroForUnset(MemoryStorage):
    """``timeout or …``."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return super()._lock(sender, timeout or 3.0)


class ForgetsLocksInUse(MemoryStorage):
    """Throws the lock away that is given back, and with it all who wait for it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.locks: dict[Sender, threading.Lock] = {}

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        lock = self.locks.setdefault(sender, threading.Lock())
        if not lock.acquire(timeout=min(timeout, 1e6)):
            raise busy(timeout)

        def release() -> None:
            self.locks.pop(sender, None)
            lock.release()

        return Lock(release)


class ForgetsTheProof(MemoryStorage):
    """Wraps the lease that it gets, to count how many there are."""

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return Lock(Backend._lock(self, sender, timeout).release)
