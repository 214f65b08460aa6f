"""What a dispatcher has claimed, and how it writes down what became of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from salmon_state.entries import Entry, Kind, Place, Seen, Value, Write, in_order
from salmon_state.errors import Overtaken, StorageError, StorageUnavailable
from salmon_state.mail.batches import Batch
from salmon_state.storage import StateStorage

__all__ = ["Claim", "ClaimLost", "Commits"]

_LONGEST_PAUSE = 1.0
_PATIENCE = 0.5
"""The share of a commit's time that is worth waiting for others."""


class ClaimLost(Exception):
    """Another dispatcher has it: this one was too slow."""


class Commits:
    """Makes commits that several threads ask for at the same time one: each costs a disk's time.

    Whoever asks first commits for all who have asked by then. Before that it waits a little for
    those who asked the last time: they mostly come back together, and half of them would otherwise
    wait for the commit of the other half, each time.

    Args:
        storage: Where to.
    """

    def __init__(self, storage: StateStorage) -> None:
        self.storage = storage
        self._asking = threading.Condition()
        self._waiting: list[_Asked] = []
        self._is_led = False
        self._expected = 1
        self._took = 0.0

    def make(self, writes: Sequence[Write]) -> None:
        """Makes writes, all or none.

        Raises:
            Overtaken: An expectation does not hold.
            StorageUnavailable: The store is away; they may have been made or not.
        """
        asked = _Asked(writes)
        with self._asking:
            self._waiting.append(asked)
            leads, self._is_led = not self._is_led, True
            if len(self._waiting) >= self._expected:
                self._asking.notify()  # who gathers
        if not leads:
            asked.wait()
        if not asked.done:
            self._lead()
        if asked.error is not None:
            raise asked.error

    def _lead(self) -> None:
        """Commits what is asked for, and lets the next one do so."""
        together = self._gather()
        began = time.monotonic()
        try:
            self._make_all(together)
        finally:
            with self._asking:
                self._took = time.monotonic() - began
                self._expected = len(together) + len(self._waiting)
                self._is_led = bool(self._waiting)
                for other in (*together, *self._waiting[:1]):
                    other.wake()

    def _gather(self) -> list[_Asked]:
        """Returns what is to be committed together."""
        deadline = time.monotonic() + self._took * _PATIENCE
        with self._asking:
            while len(self._waiting) < self._expected:
                if not self._asking.wait(deadline - time.monotonic()):
                    break
            together, self._waiting = self._waiting, []
        return together

    def _make_all(self, together: list[_Asked]) -> None:
        parts: dict[object, list[_Asked]] = {}
        for asked in together:
            sender = None if self.storage.spans_senders else asked.writes[0].sender
            parts.setdefault(sender, []).append(asked)
        for part in parts.values():
            writes = {write[:3]: write for asked in part for write in asked.writes}
            whole = len(writes) == sum(len(asked.writes) for asked in part)
            if len(part) == 1 or not whole or not self._try(part, list(writes.values())):
                for asked in part:
                    self._try([asked], asked.writes)

    def _try(self, part: list[_Asked], writes: Sequence[Write]) -> bool:
        """Makes writes; returns whether nobody has to try again alone."""
        error: Exception | None = None
        try:
            self.storage._call(self.storage._commit, in_order(writes))
        except Exception as failure:  # noqa: BLE001 - it is raised where it was asked for
            if isinstance(failure, Overtaken) and len(part) > 1:
                return False
            error = failure
        for asked in part:
            asked.error, asked.done = error, True
        return True


class _Asked:
    """Writes that somebody wants to be made."""

    def __init__(self, writes: Sequence[Write]) -> None:
        self.writes = writes
        self.done = False
        self.error: Exception | None = None
        self._turn = threading.Lock()
        self._turn.acquire()

    def wait(self) -> None:
        """Returns when it is done, or is to be done by whoever waits."""
        self._turn.acquire()

    def wake(self) -> None:
        """Lets the one who waits go on."""
        self._turn.release()


class Claim:
    """A batch that this dispatcher has, for some time.

    Attributes:
        at: When the claim ends, in microseconds since 1970.
        batch: What is in it.
        is_held: Whether it is still claimed.
        lost: Whether another dispatcher has it.
        is_buried: Whether the message of the batch was kept for what was given up of it.

    Args:
        commits: Makes the writes.
        entry: What was claimed.
        batch: What is in it.
        lease: For how many microseconds a claim lasts.
    """

    is_buried = False

    def __init__(self, commits: Commits, entry: Entry, batch: Batch, lease: int) -> None:
        self._commits = commits
        self._lease = lease
        self._place: Place = entry[:3]
        self.sender, self.name = entry.sender, entry.name
        self._value: Value = entry.value
        self.at = entry.at or 0
        self.batch = batch
        self.is_held = True
        self.lost = False
        self._writing = threading.Lock()
        self._changing = threading.Lock()

    def renew(self, entry: Entry) -> None:
        """Notes that this dispatcher claimed it anew: it was given back, or the store was away."""
        with self._changing:
            self.at, self.is_held = entry.at or 0, True

    def is_old(self, share: float) -> bool:
        """Returns whether a share of the lease is over."""
        return self.at - self._commits.storage._clock() < self._lease * (1 - share)

    def extend(self, *, wait: bool = False) -> None:
        """Makes the claim last longer; in vain if the store is away or somebody else has it.

        Args:
            wait: Whether to wait for somebody who writes it now; that may take long.
        """
        if not self._writing.acquire(blocking=wait):
            return
        try:
            if self.is_held and not self.lost:
                self._write(self._value, self._new_end(), (), hold=True)
        except StorageError:  # Overtaken included: if it is lost, the next write finds out
            pass
        finally:
            self._writing.release()

    def _new_end(self) -> int:
        return self._commits.storage._clock() + self._lease

    def _next_time(self, batch: Batch, *, hold: bool) -> int | None:
        """Returns what the entry is to have for its time when it is written."""
        if not batch.groups:
            return None
        if not hold:
            return batch.due
        # Mostly as it is: to move it, the index would be written as well.
        return self._new_end() if self.is_old(1 / 2) else self.at

    def write(self, batch: Batch, beside: Sequence[Write], *, hold: bool) -> None:
        """Writes down what is left of the batch, as often as it takes: some of it may be sent.

        Args:
            batch: What is left; without groups the entry is removed.
            beside: What is written in the same commit.
            hold: Whether the claim goes on; otherwise whoever looks then may claim it when it is
                due.

        Raises:
            ClaimLost: Somebody else has it.
        """
        value = batch.encode() if batch.groups else None
        pause = 0.05
        with self._writing:
            while True:
                before = self.at
                at = self._next_time(batch, hold=hold)
                try:
                    self._write(value, at, beside, hold=hold)
                    break
                except Overtaken:
                    if self._is_made(value, at):  # and the answer never came
                        self.at, self.is_held = at or 0, hold
                        break
                    time.sleep(0.2)
                    if self.at == before:  # nor was it this dispatcher that claimed it anew
                        self.lost = True
                        raise ClaimLost from None
                except StorageUnavailable:
                    time.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
            self.batch = batch
            self._value = value or b""

    def _write(
        self, value: Value | None, at: int | None, beside: Sequence[Write], *, hold: bool
    ) -> None:
        before = self.at
        self._commits.make([Write(*self._place, value, at, Seen(at=before)), *beside])
        with self._changing:
            if self.at == before:  # and it was not claimed anew right after this
                self.at, self.is_held = at or 0, hold

    def _is_made(self, value: Value | None, at: int | None) -> bool:
        """Returns whether a write was made whose answer never came."""
        storage = self._commits.storage
        try:
            found = storage._call(storage._load, self.sender, ((Kind.OUTGOING, self.name),))
        except StorageUnavailable:
            return False
        if not found:
            return value is None
        return bool(found[0].value == value and found[0].at == at)
