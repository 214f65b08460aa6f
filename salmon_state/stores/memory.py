"""MemoryStorage: dicts, for tests and development."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import parse_qsl

from salmon_state.errors import ConfigurationError
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.options import check_query, options_of
from salmon_state.storage import Change, Record, Sender, StateStorage, from_microseconds

__all__ = ["MemoryStorage"]

_PAGE = 100
"""How many entries `records` looks at before it lets others write again."""


class _Entry:
    """One conversation, from when it gets its first entry until that is removed."""

    __slots__ = ("module", "sender", "state", "updated_at")

    def __init__(self, module: str, sender: Sender) -> None:
        self.module = module
        self.sender = sender
        self.state: str | None = None  # also once it was removed
        self.updated_at: int | None = None


class MemoryStorage(StateStorage, Forkable):
    """Keeps the states in a dict of this process; they end with it.

    Unlike Salmon's own memory store it is safe under threads for everything it promises.

    >>> store = MemoryStorage()
    >>> store.set("app.handlers", "anna@example.com", "CONFIRMING")
    >>> store.get("app.handlers", "anna@example.com")
    'CONFIRMING'
    >>> store.get("app.handlers", "ben@example.com")
    'START'

    What one sender has is found at once. `records` goes through the store a hundred entries at a
    time, in the order in which they were first set, and neither copies it nor keeps others from
    writing meanwhile; beyond what it promises everywhere, no conversation comes twice, not even one
    that is removed and set again. A forked child has a copy of its own.

    Args:
        protect: As for `StateStorage`.
    """

    def __init__(self, *, protect: bool = False) -> None:
        super().__init__(protect=protect)
        self._writing = threading.RLock()
        self._forget_all()
        _watch.add(self)

    def _forget_all(self) -> None:
        self._senders: dict[Sender, dict[str, _Entry]] = {}
        # In the order in which they were made, those that were removed among them. It only grows:
        # when it is tidied up it is replaced, so that whoever iterates over it goes on undisturbed.
        self._entries: list[_Entry] = []
        self._live = 0

    @classmethod
    def from_url(cls, url: str, **options: Any) -> MemoryStorage:
        """Makes the store for ``memory://``."""
        place, _, query = url.partition("?")
        if place.lower() not in ("memory:", "memory://"):
            raise ConfigurationError("a memory URL is just 'memory://'")
        check_query("memory", parse_qsl(query, keep_blank_values=True), {}, options_of(cls) or ())
        return cls(**options)

    @property
    def states(self) -> dict[str, str]:
        """A copy of the states by ``repr([module, sender])``, as Salmon's own store has them."""
        return {self.key(record.module, record.sender): record.state for record in self}

    def _read(self, module: str, sender: Sender) -> str | None:
        modules = self._senders.get(sender)
        entry = None if modules is None else modules.get(module)
        return None if entry is None else entry.state

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        with self._writing:
            entries = self._senders.get(sender, {}).items()
            return {module: entry.state for module, entry in entries if entry.state is not None}

    def _write(self, changes: Iterable[Change]) -> None:
        changes = tuple(changes)  # which may fail, and then nothing has happened
        with self._writing:
            for module, sender, state, updated_at in changes:
                if state is None:
                    self._remove(module, sender)
                    continue
                modules = self._senders.get(sender)
                if modules is None:
                    modules = self._senders[sender] = {}
                entry = modules.get(module)
                if entry is None:
                    entry = modules[module] = _Entry(module, sender)
                    self._entries.append(entry)
                    self._live += 1
                entry.state = state
                entry.updated_at = updated_at

    def _remove(self, module: str, sender: Sender) -> None:
        modules = self._senders.get(sender, {})
        entry = modules.pop(module, None)
        if entry is None:
            return
        if not modules:
            del self._senders[sender]
        entry.state = None
        self._live -= 1
        if len(self._entries) > 2 * self._live + _PAGE:
            self._entries = [entry for entry in self._entries if entry.state is not None]

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        if sender is None:
            entries = self._entries
        else:
            with self._writing:
                entries = list(self._senders.get(sender, {}).values())
        end = len(entries)  # what is added from now on may be what was removed behind us
        for start in range(0, end, _PAGE):
            with self._writing:
                found = [
                    Record(
                        entry.module, entry.sender, entry.state, from_microseconds(entry.updated_at)
                    )
                    for entry in entries[start : min(start + _PAGE, end)]
                    if entry.state is not None
                    and module in (None, entry.module)
                    and state in (None, entry.state)
                ]
            yield from found

    def _wipe(self) -> None:
        with self._writing:
            for entry in self._entries:
                entry.state = None  # for those who iterate
            self._forget_all()

    def _exclusive(self) -> AbstractContextManager[object]:
        return self._writing

    def _count(self) -> int:
        return self._live

    def before_fork(self) -> None:
        """Waits until no thread is in the middle of a change."""
        self._writing.acquire()

    def after_fork(self, *, child: bool) -> None:
        """Lets others write again."""
        self._writing.release()


_watch = ForkWatch()
