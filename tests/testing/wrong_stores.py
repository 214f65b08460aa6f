"""Stores in memory that break a promise about one conversation or about themselves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.entries import ABSENT, ANYTHING, EVERY, Kind, Page, Where, Write, holds
from salmon_state.errors import Overtaken
from salmon_state.keys import Sender


def blindly(writes: Iterable[Write]) -> list[Write]:
    """Returns writes that expect nothing any more."""
    return [write._replace(expect=ANYTHING) for write in writes]


class LosesAWrite(MemoryStorage):
    """Every tenth set is answered and forgotten."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.writes = itertools.count(1)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(writes) if next(self.writes) % 10 else [1 for _ in writes]


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

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        state = super()._find(kind, sender, name)
        if state is None:
            self._commit((Write(kind, sender, name, "START", self._clock()),))
        return state


class TouchesOnGet(MemoryStorage):
    """As a cache that keeps what is read."""

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        state = super()._find(kind, sender, name)
        if state is not None:
            self._commit((Write(kind, sender, name, state, self._clock()),))
        return state


class KeepsStart(MemoryStorage):
    """Stores START like any other state."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(write._replace(value=write.value or "START") for write in writes)


class KeepsTheFirst(MemoryStorage):
    """As INSERT OR IGNORE."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(w for w in writes if not (w.value and self._is_there(w)))

    def _is_there(self, write: Write) -> bool:
        return write.name is not EVERY and bool(self._find(write.kind, write.sender, write.name))


class CutsStates(MemoryStorage):
    """As VARCHAR(50) for a state."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(
            w._replace(value=w.value[:50]) if isinstance(w.value, str) else w for w in writes
        )


class StripsStates(MemoryStorage):
    """As a text file with a state in it."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(
            w._replace(value=w.value.strip() or " ") if isinstance(w.value, str) else w
            for w in writes
        )


class AcceptsBadStates(MemoryStorage):
    """Stores whatever it is given."""

    def set(self, module: str, sender: Sender, state: Any) -> None:
        self._call(self._commit, (Write(Kind.STATE, sender, module, state, self._clock()),))


class ChangesBeforeChecking(MemoryStorage):
    """Removes the old state, and only then finds that the new one is bad."""

    def set(self, module: str, sender: Sender, state: str) -> None:
        self._commit([Write(Kind.STATE, sender, module, None)])
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
        self._commit((Write(Kind.STATE, None, "ping", "PONG"),))


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

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        for kind, sender, name, _, _, expect in writes:
            if name is not EVERY and not holds(expect, self._tables[kind].find(sender, name)):
                raise Overtaken
        time.sleep(0)  # another thread's turn
        return super()._commit(blindly(writes))


class CompareAlwaysSets(MemoryStorage):
    """Does not compare."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        try:
            return super()._commit(writes)
        except Overtaken:
            super()._commit(blindly(writes))
            raise


class CompareNeedsAnEntry(MemoryStorage):
    """As UPDATE … WHERE state = ?: nothing happens without an entry."""

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        if any(write.expect is ABSENT for write in writes):
            raise Overtaken
        return super()._commit(writes)


class WritesInHalves(MemoryStorage):
    """Counts its entries in a second step, and without a lock."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.entries = 0

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        counts = []
        for write in writes:
            was_there = bool(self._load(write.sender, [(write.kind, write.name)]))
            time.sleep(0)
            counts += super()._commit([write])
            self.entries += (write.value is not None) - was_there
        return counts

    def _count(self, kind: Kind) -> int:
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

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        return self.mine._find(kind, sender, name)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return self.mine._commit(writes)

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        return self.mine._page(kind, where, after)

    def _count(self, kind: Kind) -> int:
        return self.mine._count(kind)
