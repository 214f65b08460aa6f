"""MemoryStorage: dicts, for tests and development."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import parse_qsl

from salmon_state.backend import Lock
from salmon_state.entries import (
    ANYTHING,
    CHECK,
    EVERY,
    Entry,
    Kind,
    Page,
    Value,
    Want,
    Where,
    Write,
    holds,
)
from salmon_state.errors import ConfigurationError, Overtaken
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.keys import Sender
from salmon_state.options import check_query, options_of
from salmon_state.storage import StateStorage

__all__ = ["MemoryStorage"]

_PAGE = 500
"""How many entries a page looks at before it lets others write again."""


class _Cell:
    """One entry, from when it is first written until it is removed."""

    __slots__ = ("at", "name", "sender", "value")

    def __init__(self, sender: Sender, name: str) -> None:
        self.sender = sender
        self.name = name
        self.value: Value | None = None  # also once it was removed
        self.at: int | None = None


class _Table:
    """The entries of one kind, in the orders in which they are gone through."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.senders: dict[Sender, dict[str, _Cell]] = {}
        # In the order in which they were made, those that were removed among them. It only grows:
        # when it is tidied up it is replaced, so that whoever goes through it goes on undisturbed.
        self.cells: list[_Cell] = []
        self.live = 0
        self.is_due = kind.due
        self.due: list[tuple[int, bool, str, str]] = []  # sorted

    def find(self, sender: Sender, name: str) -> _Cell | None:
        """Returns what is there under a name."""
        cells = self.senders.get(sender)
        return None if cells is None else cells.get(name)

    def write(self, sender: Sender, name: str, value: Any, at: int | None) -> int:
        """Writes one entry, or removes it; returns how many entries that changed."""
        cells = self.senders.get(sender)
        cell = None if cells is None else cells.get(name)
        if value is None:
            return 0 if cell is None else self._remove(cell)
        if value is CHECK:
            return 0
        if cell is None:
            cell = self._add(sender, name)
        elif self.is_due:
            self._forget_due(cell)
        cell.value, cell.at = value, at
        if self.is_due:
            bisect.insort(self.due, _due(cell))
        return 1

    def _add(self, sender: Sender, name: str) -> _Cell:
        cell = _Cell(sender, name)
        cells = self.senders.get(sender)
        if cells is None:
            self.senders[sender] = {name: cell}
        else:
            cells[name] = cell
        self.cells.append(cell)
        self.live += 1
        return cell

    def _remove(self, cell: _Cell) -> int:
        if self.is_due:
            self._forget_due(cell)
        cells = self.senders[cell.sender]
        del cells[cell.name]
        if not cells:
            del self.senders[cell.sender]
        cell.value = None
        self.live -= 1
        if len(self.cells) > 2 * self.live + _PAGE:
            self.cells = [cell for cell in self.cells if cell.value is not None]
        return 1

    def _forget_due(self, cell: _Cell) -> None:
        del self.due[bisect.bisect_left(self.due, _due(cell))]

    def due_page(self, where: Where, after: Any) -> Page:
        """Returns the next entries in the order of their time."""
        start = 0 if after is None else bisect.bisect_right(self.due, after)
        keys = self.due[start : start + _PAGE]
        cells = [self.senders[sender if known else None][name] for _, known, sender, name in keys]
        more = len(keys) == _PAGE and where.before is not None and keys[-1][0] < where.before
        return Page(self.entries(cells, where), keys[-1] if more else None)

    def entries(self, cells: Iterable[_Cell], where: Where) -> list[Entry]:
        """Returns those that are still there and match."""
        _, name, value, before = where  # most cells are none of these: no entry is made of them
        if value is not None:
            cells = [cell for cell in cells if cell.value == value]
        if name is not EVERY:
            cells = [cell for cell in cells if cell.name == name]
        if before is not None:
            cells = [cell for cell in cells if cell.at is not None and cell.at < before]
        found = [
            Entry(self.kind, cell.sender, cell.name, cell.value, cell.at)
            for cell in cells
            if cell.value is not None
        ]
        return found if where == _ALL else [entry for entry in found if where.matches(entry)]


def _due(cell: _Cell) -> tuple[int, bool, str, str]:
    return cell.at or 0, cell.sender is not None, cell.sender or "", cell.name


_ALL = Where()


class MemoryStorage(StateStorage, Forkable):
    """Keeps the states in a dict of this process; they end with it.

    Unlike Salmon's own memory store it is safe under threads for everything it promises.

    >>> store = MemoryStorage()
    >>> store.set("app.handlers", "anna@example.com", "CONFIRMING")
    >>> store.get("app.handlers", "anna@example.com")
    'CONFIRMING'
    >>> store.get("app.handlers", "ben@example.com")
    'START'

    What one sender has is found at once. `records` goes through the store 500 entries at a
    time, in the order in which they were first set, and neither copies it nor keeps others from
    writing meanwhile; beyond what it promises everywhere, no conversation comes twice, not even one
    that is removed and set again. A forked child has a copy of its own.

    Args:
        protect: As for `StateStorage`.
    """

    locks_processes = False

    def __init__(self, *, protect: bool = False) -> None:
        super().__init__(protect=protect)
        self._writing = threading.RLock()
        self._making = False  # the writes of a commit that has several
        self._tables = {kind: _Table(kind) for kind in Kind}
        _watch.add(self)

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

    # ---------------------------------------------------------------- hooks

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        if self._making:  # who sees one of the writes sees the others from now on
            with self._writing:
                pass
        cells = self._tables[kind].senders.get(sender)
        cell = None if cells is None else cells.get(name)
        return None if cell is None else cell.value

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        with self._writing:
            found = []
            for kind, name in wants:
                table = self._tables[kind]
                cells = table.senders.get(sender, {})
                if name is EVERY:
                    found += table.entries(cells.values(), _ALL)
                elif name in cells:
                    found += table.entries([cells[name]], _ALL)
            return found

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        table = self._tables[kind]
        with self._writing:
            if kind.due and where.before is not None:
                return table.due_page(where, after)
            if after is None:
                cells = table.cells
                if where.sender is not EVERY:
                    cells = list(table.senders.get(where.sender, {}).values())
                # What is added from now on may be what was removed behind whoever goes on.
                after = (cells, 0, len(cells))
            cells, start, end = after
            stop = min(start + _PAGE, end)
            further = (cells, stop, end) if stop < end else None
            return Page(table.entries(cells[start:stop], where), further)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = tuple(writes)  # which may fail, and then nothing has happened
        with self._writing:
            if len(writes) == 1:  # which needs no second pass, and every `set` is one
                kind, sender, name, value, at, expect = writes[0]
                table = self._tables[kind]
                if name is not EVERY:
                    if expect is not ANYTHING and not holds(expect, table.find(sender, name)):
                        raise Overtaken
                    return [table.write(sender, name, value, at)]
            for kind, sender, name, _, _, expect in writes:
                if name is not EVERY and not holds(expect, self._tables[kind].find(sender, name)):
                    raise Overtaken
            self._making = True
            try:
                return [self._write(write) for write in writes]
            finally:
                self._making = False

    def _write(self, write: Write) -> int:
        kind, sender, name, value, at, _ = write
        table = self._tables[kind]
        names = list(table.senders.get(sender, ())) if name is EVERY else [name]
        return sum(table.write(sender, each, value, at) for each in names)

    def _wipe(self) -> None:
        with self._writing:
            for table in self._tables.values():
                for cell in table.cells:
                    cell.value = None  # for those who go through them
            self._tables = {kind: _Table(kind) for kind in Kind}

    def _count(self, kind: Kind) -> int:
        with self._writing:
            return self._tables[kind].live

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return Lock(self._threads.acquire(sender, timeout))

    def before_fork(self) -> None:
        """Waits until no thread is in the middle of a change."""
        self._writing.acquire()

    def after_fork(self, *, child: bool) -> None:
        """Lets others write again."""
        self._writing.release()


_watch = ForkWatch()
