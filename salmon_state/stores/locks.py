"""Locks between the processes of one machine, one for each sender, in a single file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from salmon_state.conversation import ThreadLocks, busy
from salmon_state.storage import Sender
from salmon_state.stores.files import create_private_file

__all__ = ["FileLocks"]

_LONGEST_PAUSE = 0.01

# Locks of an open file (Linux, macOS) end with it and not, as POSIX's do, with any descriptor of
# the file that the process happens to close. `man 2 fcntl_locking`; struct flock: type, whence,
# start, length, pid.
_SET_LOCK: int = getattr(fcntl, "F_OFD_SETLK", fcntl.F_SETLK)
_FLOCK = "hhqqi"


class FileLocks:
    """Locks senders against the other processes of this machine.

    Each sender has one byte, far behind the end of one empty file, at an offset made of 62 bits of
    a digest: nobody waits for another sender, no file is left behind for each sender that ever
    wrote, and the kernel frees the locks of a process that dies, at once. Between the threads of
    this process a lock in memory comes first, so that only one of them asks the kernel.

    A child that a handler forks does not hold the lock: it closes the file before it goes on.

    Args:
        path: The file; created, for its owner only, when it is needed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start_empty()
        _all.add(self)

    def _start_empty(self) -> None:
        self._threads = ThreadLocks()
        self._opening = threading.Lock()
        self._file = _File()

    def acquire(self, sender: Sender, timeout: float) -> Callable[[], None]:
        """Waits for a sender's lock and returns what gives it back.

        Raises:
            ConversationBusy: It was not won within `timeout` seconds; 0 does not wait.
            OSError: The file cannot be opened or locked.
        """
        deadline = time.monotonic() + timeout
        release = self._threads.acquire(sender, timeout)
        try:
            file = self._open()
            offset = _offset(sender)
            self._wait(file.descriptor, offset, deadline, timeout)
        except BaseException:
            release()
            raise

        def give_back() -> None:
            try:
                with self._opening:
                    if file.descriptor >= 0:  # or it was closed, and its number is another's
                        _lock(file.descriptor, fcntl.F_UNLCK, offset)
            finally:
                release()

        return give_back

    def _wait(self, descriptor: int, offset: int, deadline: float, timeout: float) -> None:
        pause = 0.0005
        while True:
            try:
                return _lock(descriptor, fcntl.F_WRLCK, offset)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise busy(timeout)
            time.sleep(min(pause, remaining))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _open(self) -> _File:
        with self._opening:
            if self._file.descriptor < 0:
                create_private_file(self._path)
                self._file = _File(os.open(self._path, os.O_RDWR | os.O_CLOEXEC))
            return self._file

    def close(self) -> None:
        """Gives all locks back and closes the file."""
        with self._opening:
            self._file.close()

    def after_fork(self) -> None:
        """Begins anew in a forked child: the open file, and so its locks, are the parent's."""
        self._file.close()
        self._start_empty()


class _File:
    """An open file; whoever holds a lock in it must know when it was closed."""

    def __init__(self, descriptor: int = -1) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)


def _lock(descriptor: int, kind: int, offset: int) -> None:
    fcntl.fcntl(descriptor, _SET_LOCK, struct.pack(_FLOCK, kind, os.SEEK_SET, offset, 1, 0))


def _offset(sender: Sender) -> int:
    digest = hashlib.sha256(ascii(sender).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def _forked() -> None:
    for locks in list(_all):
        locks.after_fork()


_all: weakref.WeakSet[FileLocks] = weakref.WeakSet()
os.register_at_fork(after_in_child=_forked)
