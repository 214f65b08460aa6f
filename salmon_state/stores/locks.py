"""Locks between the processes of one machine, one for each sender, in a single file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from salmon_state.errors import ConfigurationError, StorageUnavailable, busy
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.keys import Sender
from salmon_state.stores.files import create_private_file
from salmon_state.thread_locks import ThreadLocks

__all__ = ["FileLocks"]

_LONGEST_PAUSE = 0.01

# Locks of an open file description end with it and not, as POSIX's do, with any descriptor of the
# file that the process happens to close. They and the layout of struct flock (type, whence, start,
# length, pid) are Linux's: `man 2 F_OFD_SETLK`. Elsewhere a wrong layout would lock another byte.
_AVAILABLE = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
_SET_LOCK: int = getattr(fcntl, "F_OFD_SETLK", -1)
_FLOCK = "hhqqi"


class FileLocks(Forkable):
    """Locks senders against the other processes of this machine.

    Each sender has one byte, far behind the end of one empty file, at an offset made of 62 bits of
    a digest: nobody waits for another sender, no file is left behind for each sender that ever
    wrote, and the kernel frees the locks of a process that dies, at once. Between the threads of
    this process a lock in memory comes first, so that only one of them asks the kernel.

    A child that a handler forks does not hold the lock: it closes the file before it goes on.

    Args:
        path: The file; created, for its owner only, when it is needed.

    Raises:
        ConfigurationError: This is not Linux, which alone has locks of the kind.
    """

    def __init__(self, path: Path) -> None:
        if not _AVAILABLE:
            raise ConfigurationError(
                f"cannot lock senders in {str(path)!r}: that needs Linux's locks of open files "
                f"(F_OFD_SETLK), which {sys.platform} has not; keep the states in a database "
                "server, or for development in memory"
            )
        self._path = path
        self._threads = ThreadLocks()
        self._opening = threading.Lock()
        self._file = _File()
        _watch.add(self)

    def acquire(self, sender: Sender, timeout: float) -> Callable[[], None]:
        """Waits for a sender's lock and returns what gives it back.

        Raises:
            ConversationBusy: It was not won within `timeout` seconds; 0 does not wait.
            StorageUnavailable: `close` was called meanwhile.
            OSError: The file cannot be opened or locked.
        """
        deadline = time.monotonic() + timeout
        release = self._threads.acquire(sender, timeout)
        try:
            file = self._open()
            offset = _offset(sender)
            self._wait(file, offset, deadline, timeout)
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

    def _wait(self, file: _File, offset: int, deadline: float, timeout: float) -> None:
        pause = 0.0005
        while True:
            try:
                with self._opening:
                    if file.descriptor < 0:
                        raise StorageUnavailable(f"{self._path} was closed meanwhile")
                    return _lock(file.descriptor, fcntl.F_WRLCK, offset)
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

    def before_fork(self) -> None:
        """Waits until no thread is opening the file: the child could not close what it gets."""
        self._opening.acquire()

    def after_fork(self, *, child: bool) -> None:
        """Begins anew in the child: the open file, and so its locks, are the parent's."""
        if child:
            self._file.close()
            self._file = _File()
        self._opening.release()


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


_watch = ForkWatch()
