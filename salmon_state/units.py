"""The unit of work: what a store does for one conversation, from the lock to the commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from salmon_state.keys import Sender
from salmon_state.records import Move, Transition

if TYPE_CHECKING:
    from salmon_state.storage import StateStorage

__all__ = ["LockOnly", "UnitOfWork"]


class UnitOfWork:
    """What a backend does for one outermost conversation and for those nested in it.

    This one suits every store that has the hooks ``_lock``, ``_read``, ``_read_sender`` and
    ``_commit``. A database whose transaction locks, reads and commits in one has its own.
    """

    def __init__(self, store: StateStorage) -> None:
        self._store = store
        self._releases: list[Callable[[], None]] = []

    def enter(self, sender: Sender, timeout: float, *, lock: bool) -> Mapping[str, str]:
        """Wins a sender's lock and returns the sender's states by module.

        Args:
            sender: Whose conversation begins.
            timeout: How long to wait for the lock, in seconds; 0 does not wait.
            lock: False for the null sender, whose conversations nobody keeps apart.

        Raises:
            ConversationBusy: The lock was not won in time.
        """
        if lock:
            self._releases.append(self._store._lock(sender, timeout))
        return self._store._read_sender(sender)

    def read(self, module: str, sender: Sender) -> str | None:
        """Returns the committed state of a conversation of somebody else."""
        return self._store._read(module, sender)

    def read_sender(self, sender: Sender) -> Mapping[str, str]:
        """Returns the committed states of somebody else by module."""
        return self._store._read_sender(sender)

    def commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        """Makes the moves and then the transitions, all or none, durably.

        Raises:
            ConversationBusy: Somebody changed a state that a conditional transition went by.
        """
        if moves or transitions:
            self._store._commit(moves, transitions)

    def check(self) -> None:
        """Raises if it is certain by now that nothing can be committed.

        Asked when a handler has failed, before Salmon keeps a copy of its mail.
        """

    def close(self) -> None:
        """Undoes what is not committed and gives the locks back; called once, whatever happened."""
        with ExitStack() as releases:
            for release in self._releases:
                releases.callback(release)

    @property
    def failed(self) -> bool:
        """Whether the database gave the transaction up when a handler's statement failed in it."""
        return False

    @property
    def connection(self) -> Any:
        """The database connection that handlers may take part with."""
        raise NotImplementedError(
            f"{type(self._store).__name__} has no database connection to take part with: "
            "that is for SQLAlchemyStorage"
        )


class LockOnly(UnitOfWork):
    """For a store that has only ``get``, ``set`` and ``clear``: they go through as they are."""

    def enter(self, sender: Sender, timeout: float, *, lock: bool) -> Mapping[str, str]:
        """Wins a sender's lock; nothing can be read by sender."""
        if lock:
            self._releases.append(self._store._lock(sender, timeout))
        return {}
