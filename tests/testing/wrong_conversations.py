"""Stores in memory whose conversations break a promise; the docstring says how."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from salmon_state import MemoryStorage, current_conversation
from salmon_state.errors import overtaken
from salmon_state.storage import Change, Move, Sender, Transition, UnitOfWork


class NoLock(MemoryStorage):
    """Locks nobody, and commits whatever happened meanwhile."""

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        return lambda: None

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        time.sleep(0.001)
        super()._commit(moves, [each._replace(conditional=False) for each in transitions])


class OneLockForAll(MemoryStorage):
    """Every sender waits for every other."""

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        return super()._lock("everybody", timeout)


class LeaksLocks(MemoryStorage):
    """Gives no lock back."""

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        super()._lock(sender, timeout)
        return lambda: None


class RefusesLongWaits(MemoryStorage):
    """Passes the timeout on to something that cannot wait so long."""

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        if timeout > 3600:
            raise OverflowError("timeout too large")
        return super()._lock(sender, timeout)


class ReleasesInnerOnes(MemoryStorage):
    """Gives the lock of another sender back when the inner conversation ends."""

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        release = super()._lock(sender, timeout)
        if current_conversation() is None:
            return release
        release()
        return lambda: None


class NeverWaits(MemoryStorage):
    """Tells whoever may wait that the sender is busy."""

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        return super()._lock(sender, 0)


# ---------------------------------------------------------------- the unit of work


class LocksTheNullSender(MemoryStorage):
    """Takes the null sender for somebody."""

    def _begin(self) -> UnitOfWork:
        return self.Work(self)

    class Work(UnitOfWork):
        def enter(self, sender: Sender, timeout: float, *, lock: bool) -> Mapping[str, str]:
            return super().enter(sender, timeout, lock=True)


class LiveStates(Mapping[str, str]):
    """The states of a sender as they are at each look."""

    def __init__(self, store: MemoryStorage, sender: Sender) -> None:
        self.look: Callable[[], Mapping[str, str]] = lambda: store._read_sender(sender)

    def __getitem__(self, module: str) -> str:
        return self.look()[module]

    def __iter__(self) -> Iterator[str]:
        return iter(self.look())

    def __len__(self) -> int:
        return len(self.look())


class HasNoSnapshot(MemoryStorage):
    """Reads each state when it is asked for."""

    def _begin(self) -> UnitOfWork:
        return self.Work(self)

    class Work(UnitOfWork):
        def enter(self, sender: Sender, timeout: float, *, lock: bool) -> Mapping[str, str]:
            super().enter(sender, timeout, lock=lock)
            assert isinstance(self._store, MemoryStorage)
            return LiveStates(self._store, sender)


class RemembersOthers(MemoryStorage):
    """Reads each state of somebody else once."""

    def _begin(self) -> UnitOfWork:
        return self.Work(self)

    class Work(UnitOfWork):
        def read(self, module: str, sender: Sender) -> str | None:
            known = self.__dict__.setdefault("known", {})
            if (module, sender) not in known:
                known[module, sender] = super().read(module, sender)
            state: str | None = known[module, sender]
            return state


class WritesAllBack(MemoryStorage):
    """Commits everything that it read."""

    def _begin(self) -> UnitOfWork:
        return self.Work(self)

    class Work(UnitOfWork):
        def enter(self, sender: Sender, timeout: float, *, lock: bool) -> Mapping[str, str]:
            states = super().enter(sender, timeout, lock=lock)
            now = self._store._clock()
            self.read_states = [Transition(m, sender, states.get(m), now, False) for m in MODULES]
            return states

        def commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
            super().commit(moves, [*self.read_states, *transitions])


MODULES = ("read", "written", "before", "after")


# ---------------------------------------------------------------- the commit


class OverwritesBlindly(MemoryStorage):
    """Commits whatever somebody else wrote meanwhile."""

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        super()._commit(moves, [each._replace(conditional=False) for each in transitions])


class CommitsOneByOne(MemoryStorage):
    """Finds out about a conflict when half of it is written."""

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        for transition in transitions:
            super()._commit((), (transition,))


class MissesWhatIsNotThere(MemoryStorage):
    """Takes it for a conflict when there is nothing to remove."""

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        for module, sender, state, *_ in transitions:
            if state is None and self._read(module, sender) is None:
                raise overtaken()
        super()._commit(moves, transitions)


class ForgetsMoves(MemoryStorage):
    """Does not do what `set_all` asked for."""

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        super()._commit((), transitions)


class MovesOnly(MemoryStorage):
    """Cannot remove with `set_all`."""

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        super()._commit([move for move in moves if move.state is not None], transitions)


class MovesLast(MemoryStorage):
    """Does what `set_all` asked for after what was asked for later."""

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        super()._commit((), transitions)
        super()._commit(moves, ())


class StampsAtTheEnd(MemoryStorage):
    """Sets the time of the commit instead of that of the write."""

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        now = self._clock()
        super()._commit(
            [move._replace(updated_at=now) for move in moves],
            [transition._replace(updated_at=now) for transition in transitions],
        )


# ---------------------------------------------------------------- the store's methods


class WritesAtOnce(MemoryStorage):
    """Sets states past the conversation."""

    def set(self, module: str, sender: Sender, state: str) -> None:
        stored = None if state == "START" else state
        self._write((Change(module, sender, stored, self._clock()),))


class ComparesAtOnce(MemoryStorage):
    """Compares and sets past the conversation."""

    def compare_and_set(self, module: str, sender: Sender, expected: str, state: str) -> bool:
        before = None if expected == "START" else expected
        return self._compare_and_set(module, sender, before, state)


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

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        return super()._read_sender(sender and sender.lower())
