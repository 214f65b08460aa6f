"""MemoryStorage: a dict, for tests and development."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from salmon_state.errors import ConfigurationError
from salmon_state.storage import (
    Change,
    Record,
    Sender,
    StateStorage,
    from_microseconds,
    parse_key,
)

__all__ = ["MemoryStorage"]


class MemoryStorage(StateStorage):
    """Keeps the states in a dict of this process; they end with it.

    Unlike Salmon's own memory store it is safe under threads for everything it promises.

    >>> store = MemoryStorage()
    >>> store.set("app.handlers", "anna@example.com", "CONFIRMING")
    >>> store.get("app.handlers", "anna@example.com")
    'CONFIRMING'
    >>> store.get("app.handlers", "ben@example.com")
    'START'

    Args:
        protect: As for `StateStorage`.

    Attributes:
        states: The states by ``repr([module, sender])``, as in Salmon's own store. To be read;
            change it through the methods, which know the time and the sender of each entry.
    """

    def __init__(self, *, protect: bool = False) -> None:
        super().__init__(protect=protect)
        self.states: dict[str, str] = {}
        self._updated_at: dict[str, int | None] = {}
        self._modules: dict[Sender, set[str]] = {}
        self._writing = threading.RLock()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> MemoryStorage:
        """Makes the store for ``memory://``."""
        if url.lower() not in ("memory:", "memory://"):
            raise ConfigurationError("a memory URL is just 'memory://'")
        return cls(**options)

    def _read(self, module: str, sender: Sender) -> str | None:
        return self.states.get(repr([module, sender]))

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        with self._writing:
            modules = self._modules.get(sender, ())
            return {module: self.states[repr([module, sender])] for module in modules}

    def _write(self, changes: Iterable[Change]) -> None:
        with self._writing:
            for module, sender, state, updated_at in changes:
                key = repr([module, sender])
                if state is not None:
                    self.states[key] = state
                    self._updated_at[key] = updated_at
                    self._modules.setdefault(sender, set()).add(module)
                elif self.states.pop(key, None) is not None:
                    self._updated_at.pop(key, None)
                    modules = self._modules.get(sender, set())
                    modules.discard(module)
                    if not modules:
                        self._modules.pop(sender, None)

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        for key in list(self.states):
            found = self.states.get(key)
            if found is None or (state is not None and found != state):
                continue
            its_module, its_sender = parse_key(key)
            if module in (None, its_module) and sender in (None, its_sender):
                updated_at = from_microseconds(self._updated_at.get(key))
                yield Record(its_module, its_sender, found, updated_at)

    def _wipe(self) -> None:
        with self._writing:
            self.states.clear()
            self._updated_at.clear()
            self._modules.clear()

    def _exclusive(self) -> AbstractContextManager[object]:
        return self._writing

    def _count(self) -> int:
        return len(self.states)
