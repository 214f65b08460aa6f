"""Stores in memory that change many conversations wrongly; the docstring says how."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.storage import Change, Sender


class SetAllMissesOne(MemoryStorage):
    """Forgets the last module."""

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        return dict(itertools.islice(super()._read_sender(sender).items(), 10))


class SetAllCreates(MemoryStorage):
    """Sets a state for a sender without any."""

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        return super()._read_sender(sender) or {"app.handlers": "START"}


class SetAllTakesEverybody(MemoryStorage):
    """None means everybody to it, as it does to `records`."""

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        if sender is not None:
            return super()._read_sender(sender)
        return {record.module: record.state for record in self._scan(None, None, None)}


class SetAllKeepsTimes(MemoryStorage):
    """Moves without noting when."""

    def _set_all(self, sender: Sender, state: str | None) -> int:
        with self._exclusive():
            changes = [
                Change(module, sender, state, self._updated_at[repr([module, sender])])
                for module in self._read_sender(sender)
            ]
            self._write(changes)
            return len(changes)


class SetAllForgetsModules(MemoryStorage):
    """When one of a sender's conversations ends, it no longer finds the others."""

    def _write(self, changes: Iterable[Change]) -> None:
        for change in changes:
            super()._write((change,))
            if change.state is None:
                self._modules.pop(change.sender, None)


class RenameTouchesTimes(MemoryStorage):
    """Says that everybody wrote just now."""

    def _rename(self, module: str, old: str, new: str | None) -> int:
        found = list(self._scan(module, None, old))
        self._write(Change(module, record.sender, new, self._clock()) for record in found)
        return len(found)


class RenameTakesAllModules(MemoryStorage):
    """Forgets to look at the module."""

    def _rename(self, module: str, old: str, new: str | None) -> int:
        names = {record.module for record in self._scan(None, None, old)}
        return sum(super(RenameTakesAllModules, self)._rename(name, old, new) for name in names)


class RenamesStart(MemoryStorage):
    """Accepts what cannot be done."""

    def rename(self, module: str, old: str, new: str) -> int:
        return 0 if old == "START" else super().rename(module, old, new)


class RenameAcceptsBadStates(MemoryStorage):
    """Renames to whatever it is given."""

    def rename(self, module: str, old: str, new: Any) -> int:
        return super().rename(module, old, new) if isinstance(new, str) and new else 0


class RenameToItselfRemoves(MemoryStorage):
    """Writes the new entry, then removes the old one."""

    def _rename(self, module: str, old: str, new: str | None) -> int:
        count = super()._rename(module, old, new)
        gone = list(self._scan(module, None, old))
        self._write(Change(module, record.sender, None, None) for record in gone)
        return count


class PurgesUnknownTimes(MemoryStorage):
    """Unknown is old."""

    def _purge(self, before: int, module: str | None, state: str | None) -> int:
        for key, moment in self._updated_at.items():
            self._updated_at[key] = moment or 0
        return super()._purge(before, module, state)


class PurgesTheBoundary(MemoryStorage):
    """Exactly as old is too old."""

    def _purge(self, before: int, module: str | None, state: str | None) -> int:
        return super()._purge(before + 1, module, state)


class PurgesEverything(MemoryStorage):
    """Ignores its filters."""

    def _purge(self, before: int, module: str | None, state: str | None) -> int:
        return super()._purge(before, None, None)


class PurgesByDays(MemoryStorage):
    """Takes a number for days."""

    def purge(self, *, older_than: Any, **filters: Any) -> int:
        if not isinstance(older_than, timedelta):
            older_than = timedelta(days=1)
        return super().purge(older_than=older_than, **filters)


class ClearsWhatIsProtected(MemoryStorage):
    """Clears in spite of ``protect=True``."""

    def clear(self) -> None:
        self._call(self._wipe)


class ClearsHalf(MemoryStorage):
    """Keeps the null sender's conversations."""

    def _wipe(self) -> None:
        kept = self._read_sender(None)
        super()._wipe()
        self._write(Change(module, None, state, None) for module, state in kept.items())


class ClearsNothing(MemoryStorage):
    """Says that it is empty now."""

    def _wipe(self) -> None:
        pass
