"""A store that fails where and when a test wants it to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from salmon_state import MemoryStorage
from salmon_state.storage import Change, Sender


class FaultyStorage(MemoryStorage):
    """Raises an error from one hook after some calls that go well.

    It says that it locks between processes, so that `attach` does not log otherwise.
    """

    _locks_processes = True

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

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        self._check("_lock")
        return super()._lock(sender, timeout)

    def _read(self, module: str, sender: Sender) -> str | None:
        self._check("_read")
        return super()._read(module, sender)

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        self._check("_read_sender")
        return super()._read_sender(sender)

    def _write(self, changes: Iterable[Change]) -> None:
        self._check("_write")
        super()._write(changes)
