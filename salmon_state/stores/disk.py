"""What a commit has written, on its way to the disk: at once, or for several mails together."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from salmon_state.conversation import current_conversation
from salmon_state.forks import Forkable, ForkWatch

__all__ = ["Synced", "has_read", "put_off", "sync"]


class Synced:
    """A file that commits are in; open for as long as somebody has it.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def sync(self) -> None:
        """Returns when all that was written to it is on the disk.

        Raises:
            OSError: The disk fails.
        """
        os.fdatasync(self._descriptor)

    def __del__(self) -> None:
        """Closes it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)


class _Owed(threading.local, Forkable):
    """The files that a thread has still to sync."""

    files: set[Synced] | None = None
    """``None`` if it puts nothing off."""

    def after_fork(self, *, child: bool) -> None:
        """Lets a forked child put nothing off: nobody would make up for it."""
        if child:
            self.files = None


_owed = _Owed()
_watch = ForkWatch()
_watch.add(_owed)


def sync(file: Synced) -> None:
    """Returns when a commit is on the disk, unless that is put off.

    Raises:
        OSError: The disk fails.
    """
    files = _owed.files
    if files is None or current_conversation() is not None:
        file.sync()
    else:
        files.add(file)


def has_read(file: Synced | None) -> None:
    """Says that this thread has read a file, perhaps what another one has still to sync.

    What it tells of that must not be known before it is on the disk either.
    """
    files = _owed.files
    if files is not None and file is not None:
        files.add(file)


@contextmanager
def put_off() -> Iterator[set[Synced]]:
    """Gives the files that this thread has to sync afterwards, before it tells anybody.

    It is for whoever has several conversations one after the other. Only what is committed when
    they end waits: what a handler writes beside its conversation is on the disk when that returns,
    as the handler may go on to something that cannot be undone.
    """
    _owed.files = files = set[Synced]()
    try:
        yield files
    finally:
        _owed.files = None
