"""Stores in memory that break a promise about one conversation or about themselves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.storage import Change, Record, Sender


class LosesAWrite(MemoryStorage):
    """Every tenth set is answered and forgotten."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.writes = itertools.count(1)

    def _write(self, changes: Iterable[Change]) -> None:
        if next(self.writes) % 10:
            super()._write(changes)


class ReturnsBytes(MemoryStorage):
    """As a driver that does not decode."""

    def get(self, module: str, sender: Sender) -> str:
        state: Any = super().get(module, sender).encode(errors="surrogatepass")
        return state  # type: ignore[no-any-return]


class ReturnsNoneForStart(MemoryStorage):
    """As a dict's get."""

    def get(self, module: str, sender: Sender) -> str:
        state: Any = super().get(module, sender)
        return None if state == "START" else state  # type: ignore[return-value]


class WritesOnGet(MemoryStorage):
    """As setdefault."""

    def _read(self, module: str, sender: Sender) -> str | None:
        state = super()._read(module, sender)
        if state is None:
            self._write((Change(module, sender, "START", self._clock()),))
        return state


class TouchesOnGet(MemoryStorage):
    """As a cache that keeps what is read."""

    def _read(self, module: str, sender: Sender) -> str | None:
        state = super()._read(module, sender)
        if state is not None:
            self._write((Change(module, sender, state, self._clock()),))
        return state


class KeepsStart(MemoryStorage):
    """Stores START like any other state."""

    def _write(self, changes: Iterable[Change]) -> None:
        super()._write(change._replace(state=change.state or "START") for change in changes)


class KeepsTheFirst(MemoryStorage):
    """As INSERT OR IGNORE."""

    def _write(self, changes: Iterable[Change]) -> None:
        super()._write(c for c in changes if not (c.state and self._read(c.module, c.sender)))


class CutsStates(MemoryStorage):
    """As VARCHAR(50) for a state."""

    def _write(self, changes: Iterable[Change]) -> None:
        super()._write(
            change._replace(state=(change.state or "")[:50] or None) for change in changes
        )


class StripsStates(MemoryStorage):
    """As a text file with a state in it."""

    def _write(self, changes: Iterable[Change]) -> None:
        for change in changes:
            state = change.state.strip() or " " if change.state else None
            super()._write((change._replace(state=state),))


class AcceptsBadStates(MemoryStorage):
    """Stores whatever it is given."""

    def set(self, module: str, sender: Sender, state: Any) -> None:
        self._call(self._write, (Change(module, sender, state, self._clock()),))


class ChangesBeforeChecking(MemoryStorage):
    """Removes the old state, and only then finds that the new one is bad."""

    def set(self, module: str, sender: Sender, state: str) -> None:
        self._write([Change(module, sender, None, None)])
        super().set(module, sender, state)


class AcceptsAnySender(MemoryStorage):
    """Turns whatever it is given into text."""

    def get(self, module: str, sender: Any) -> str:
        return super().get(module, sender if sender is None else f"{sender}")

    def set(self, module: str, sender: Any, state: str) -> None:
        super().set(module, sender if sender is None else f"{sender}", state)


class AcceptsAnyModule(MemoryStorage):
    """Turns whatever it is given into text."""

    def get(self, module: Any, sender: Sender) -> str:
        return super().get(f"{module}", sender)


class SwallowsErrors(MemoryStorage):
    """Answers that all is well."""

    def set(self, module: str, sender: Sender, state: str) -> None:
        try:
            super().set(module, sender, state)
        except Exception:  # noqa: BLE001 - this is what is wrong with it
            return


class WorksAfterClose(MemoryStorage):
    """Does not mind being closed."""

    def close(self) -> None:
        self._close()


class ClosesOnlyOnce(MemoryStorage):
    """Fails when it is closed again."""

    def close(self) -> None:
        self._check_open()
        super().close()


class StaysOpenAfterWith(MemoryStorage):
    """Leaving the block does not close it."""

    def __exit__(self, *error: Any) -> None:
        pass


class WithSwallowsErrors(MemoryStorage):
    """Leaving the block hides what happened in it."""

    def __exit__(self, *error: Any) -> bool:  # type: ignore[override]
        self.close()
        return True


class PingWrites(MemoryStorage):
    """Leaves a probe behind."""

    def _ping(self) -> None:
        self._write((Change("ping", None, "PONG", None),))


class HasNoKey(MemoryStorage):
    """Makes its own key where Salmon's is asked for."""

    def key(self, module: str, sender: Sender) -> str:
        return f"{module}:{sender}"


class ReprIsLong(MemoryStorage):
    """Prints a paragraph."""

    def _place(self) -> str:
        return "in\nmemory"


class CompareIsNotAtomic(MemoryStorage):
    """Looks, and then leaps."""

    def _exclusive(self) -> AbstractContextManager[object]:
        return nullcontext()

    def _read(self, module: str, sender: Sender) -> str | None:
        state = super()._read(module, sender)
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0)  # another thread's turn
        return state


class CompareAlwaysSets(MemoryStorage):
    """Does not compare."""

    def _compare_and_set(
        self, module: str, sender: Sender, expected: str | None, state: str | None
    ) -> bool:
        happens = self._read(module, sender) == expected
        self._write((Change(module, sender, state, self._clock()),))
        return happens


class CompareNeedsAnEntry(MemoryStorage):
    """As UPDATE … WHERE state = ?: nothing happens without an entry."""

    def _compare_and_set(
        self, module: str, sender: Sender, expected: str | None, state: str | None
    ) -> bool:
        if expected is None:
            return False
        return super()._compare_and_set(module, sender, expected, state)


class WritesInHalves(MemoryStorage):
    """Counts its entries in a second step, and without a lock."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.entries = 0

    def _write(self, changes: Iterable[Change]) -> None:
        for change in changes:
            was_there = self._read(change.module, change.sender) is not None
            time.sleep(0)
            super()._write([change])
            self.entries += (change.state is not None) - was_there

    def _count(self) -> int:
        return self.entries


class IsPerThread(MemoryStorage):
    """As a connection to ``:memory:`` for each thread."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._thread = threading.local()

    @property
    def mine(self) -> MemoryStorage:
        if not hasattr(self._thread, "store"):
            self._thread.store = MemoryStorage()
        found: MemoryStorage = self._thread.store
        return found

    def _read(self, module: str, sender: Sender) -> str | None:
        return self.mine._read(module, sender)

    def _write(self, changes: Iterable[Change]) -> None:
        self.mine._write(changes)

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        return self.mine._scan(module, sender, state)

    def _count(self) -> int:
        return self.mine._count()
