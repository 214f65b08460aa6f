"""A store that fails where and when a test wants it to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.backend import Lock
from salmon_state.entries import Entry, Kind, Page, Want, Where, Write
from salmon_state.keys import Sender


class FaultyStorage(MemoryStorage):
    """Raises an error from one hook after some calls that go well.

    It says that it locks between processes, so that `attach` does not log otherwise.
    """

    locks_processes = True

    def __init__(self) -> None:
        super().__init__()
        self._hook = ""
        self._error: Exception = OSError()
        self._calls_that_go_well = 0

    def fail(self, hook: str, error: Exception, *, after: int = 0) -> None:
        """Makes a hook fail from now on, or after so many more calls."""
        self._hook, self._error, self._calls_that_go_well = hook, error, after

    def heal(self) -> None:
        """Makes everything work again."""
        self._hook = ""

    def _check(self, hook: str) -> None:
        if hook == self._hook:
            if self._calls_that_go_well == 0:
                raise self._error
            self._calls_that_go_well -= 1

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        self._check("_lock")
        return super()._lock(sender, timeout)

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        self._check("_find")
        return super()._find(kind, sender, name)

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        self._check("_load")
        return super()._load(sender, wants)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        self._check("_commit")
        return super()._commit(writes)

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        self._check("_page")
        return super()._page(kind, where, after)
