"""Stores in memory that change many conversations wrongly; the docstring says how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.entries import EVERY, Entry, Kind, Value, Where, Write
from salmon_state.keys import Sender


class SetAllByItself(MemoryStorage):
    """The base of those that make a write of every entry out of others."""

    def every(self, write: Write) -> Iterator[Write]:
        for entry in self.found(write.sender):
            yield write._replace(name=entry.name)

    def found(self, sender: Sender) -> list[Entry]:
        return self._load(sender, [(Kind.STATE, EVERY)])

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return [self._one(write) for write in writes]

    def _one(self, write: Write) -> int:
        writes = [write] if write.name is not EVERY else list(self.every(write))
        return sum(super()._commit(writes))


class SetAllMissesOne(SetAllByItself):
    """Forgets the last module."""

    def found(self, sender: Sender) -> list[Entry]:
        return super().found(sender)[:10]


class SetAllCreates(SetAllByItself):
    """Sets a state for a sender without any."""

    def every(self, write: Write) -> Iterator[Write]:
        return iter([*super().every(write)] or [write._replace(name="app.handlers")])


class SetAllTakesEverybody(SetAllByItself):
    """None means everybody to it, as it does to `records`."""

    def every(self, write: Write) -> Iterator[Write]:
        if write.sender is not None:
            yield from super().every(write)
        else:
            for record in self:
                yield write._replace(sender=record.sender, name=record.module)


class SetAllKeepsTimes(SetAllByItself):
    """Moves without noting when."""

    def every(self, write: Write) -> Iterator[Write]:
        for entry in self.found(write.sender):
            yield write._replace(name=entry.name, at=entry.at)


class SetAllForgetsModules(SetAllByItself):
    """When one of a sender's conversations ends, it no longer finds the others."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.names: set[tuple[Sender, str]] = set()

    def found(self, sender: Sender) -> list[Entry]:
        return [e for e in super().found(sender) if (sender, e.name) in self.names]

    def _one(self, write: Write) -> int:
        count = super()._one(write)
        if write.value is None:
            self.names -= {known for known in self.names if known[0] == write.sender}
        elif write.name is not EVERY:
            self.names.add((write.sender, write.name))
        return count


class RenameTouchesTimes(MemoryStorage):
    """Says that everybody wrote just now."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        if value is None:
            return super()._sweep(kind, where, value)
        found = [entry for page in self._pages(kind, where) for entry in page.entries]
        self._commit(Write(*entry[:3], value, self._clock()) for entry in found)
        return len(found)


class RenameTakesAllModules(MemoryStorage):
    """Forgets to look at the module."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        return super()._sweep(kind, where._replace(name=EVERY), value)


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

    def rename(self, module: str, old: str, new: str) -> int:
        count = super().rename(module, old, new)
        self._sweep(Kind.STATE, Where(name=module, value=old), None)
        return count


class PurgesUnknownTimes(MemoryStorage):
    """Unknown is old."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        for cell in self._tables[kind].cells:
            cell.at = cell.at or 0
        return super()._sweep(kind, where, value)


class PurgesTheBoundary(MemoryStorage):
    """Exactly as old is too old."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        return super()._sweep(kind, where._replace(before=(where.before or 0) + 1), value)


class PurgesEverything(MemoryStorage):
    """Ignores its filters."""

    def _sweep(self, kind: Kind, where: Where, value: Value | None) -> int:
        return super()._sweep(kind, Where(before=where.before), value)


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
        kept = self._load(None, [(Kind.STATE, EVERY)])
        super()._wipe()
        self._commit(Write(*entry) for entry in kept)


class ClearsNothing(MemoryStorage):
    """Says that it is empty now."""

    def _wipe(self) -> None:
        pass
