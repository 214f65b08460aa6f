"""Locks and queues between the threads and processes of one machine, in a single file."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from salmon_state.errors import ConfigurationError, StorageUnavailable, busy
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.keys import Sender
from salmon_state.stores.encoding import sender_digest
from salmon_state.stores.files import create_private_file

__all__ = ["READERS", "WRITERS", "FileLocks", "FileQueue", "is_place"]

_Result = TypeVar("_Result")

# Locks of an open file description end with it and not, as POSIX's do, with any descriptor of the
# file that the process happens to close. They and the layout of struct flock (type, whence, start,
# length, pid) are Linux's: `man 2 F_OFD_SETLK`. Elsewhere a wrong layout would lock another byte.
_AVAILABLE = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
_SET_LOCK: int = getattr(fcntl, "F_OFD_SETLK", -1)
_GET_LOCK: int = getattr(fcntl, "F_OFD_GETLK", -1)
_FLOCK = struct.Struct("hhqqi")

_FIRST_QUEUE = 1 << 62
"""From here on the bytes are places in queues; those below are locks."""
_PLACES = 1 << 24
"""In one queue. They are given out anew when nobody waits; until then, for days."""

WRITERS, READERS = 0, _PLACES
"""The queues of those who find a whole file locked."""

_SLICE = 0.002
"""For so many seconds a process goes on writing before those who wait; ten commits in memory."""

_slices: dict[str, float] = {}
"""By the path of a file of queues: until when it does; a moment of ``time.monotonic``."""

_FIRST_PAUSE = 0.0001
_PAUSE = 0.0005
_LONGEST_PAUSE = 0.01


class _OpenFile:
    """An open file; whoever holds a lock in it must know when it was closed.

    Attributes:
        descriptor: -1 when it is closed.
        held: The offsets of the bytes that are locked by it, as the kernel does not say.
    """

    def __init__(self, descriptor: int = -1) -> None:
        self.descriptor = descriptor
        self.held: set[int] = set()

    def close(self) -> None:
        """Closes it, which frees its locks; harmless when repeated."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)


class FileQueue(Forkable):
    """Lets those who must wait for something try it in the order in which they came.

    Whoever waits has a place in a queue: one locked byte, far behind the end of an empty file. He
    tries when nobody has a place before his. The kernel frees the places of a process that dies,
    so that whoever is behind it moves up at once; and whoever comes while others wait does not
    try, but takes the place behind the last. So nobody waits for more than those who were before
    him, however often they come again.

    It is looked at in pauses, for the first of them of 0.1 to 0.5 ms, instead of being waited for
    in the kernel: only a signal ends such a wait before its time, so it would need a thread for
    each, and those that have given up would stay for as long as the one whom they wait for.

    In such a pause nobody may be writing, though all want to. So a process that has waited for the
    `WRITERS`' turn, or finds that nobody does, goes on for a moment without another look, for all
    its threads: eight processes that do nothing else write twenty times as much, and still as much
    as each other. Senders' locks do change hands each time: what is done with one takes longer than
    a pause.

    A child that a handler forks has no place: it closes the files before it goes on.

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
        self._path, self._name = path, str(path)
        self._opening = threading.Lock()
        self._file = _OpenFile()
        self._places: set[_OpenFile] = set()
        _watch.add(self)

    def in_turn(
        self, queue: int, attempt: Callable[[], _Result | None], timeout: float
    ) -> _Result | None:
        """Returns what `attempt` returns as soon as that is not ``None``.

        Args:
            queue: Which queue, a number from 0 to 2**62 - 1; those with the same first 38 bits
                are one.
            attempt: Tries, without waiting, to get what the queue is for.
            timeout: How long to wait, in seconds; 0 does not, and fails where somebody waits.

        Returns:
            What it got, or ``None`` if that was not in time.

        Raises:
            StorageUnavailable: `close` was called meanwhile.
            OSError: The file cannot be opened or locked.
        """
        if self.may_try(queue):
            result = attempt()
            if result is not None:
                return result
        if timeout <= 0:
            return None
        deadline = time.monotonic() + timeout
        first = _FIRST_QUEUE + queue // _PLACES * _PLACES
        file = self.open()
        pause = _FIRST_PAUSE
        with self._place(first) as (own, place):
            while True:
                distance = self._last_before(file, own, first, place)
                if not distance:
                    result = attempt()
                    if result is not None:
                        if queue == WRITERS:
                            self._go_on()
                        return result
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                time.sleep(min(pause, _PAUSE * (1 + distance), _LONGEST_PAUSE, remaining))
                pause *= 2

    def may_try(self, queue: int) -> bool:
        """Returns whether there is no need to wait in a queue; a number as for `in_turn`."""
        if queue == WRITERS and time.monotonic() < _slices.get(self._name, 0.0):
            return True
        first = _FIRST_QUEUE + queue // _PLACES * _PLACES
        file = self.open()
        with self._opening:
            if file.descriptor < 0:
                self.check_open(file)
            nobody = _find_lock(file.descriptor, first, first + _PLACES) is None
        if nobody and queue == WRITERS:
            self._go_on()
        return nobody

    def _go_on(self) -> None:
        _slices[self._name] = time.monotonic() + _SLICE

    def _last_before(self, file: _OpenFile, own: _OpenFile, first: int, place: int) -> int:
        """Returns how far before a place somebody has one, or 0 if nobody has."""
        if place == first:
            return 0
        with self._opening:
            self.check_open(file)
            found = _find_lock(own.descriptor, first, place)
        return place - found if found is not None else 0

    @contextmanager
    def _place(self, first: int) -> Iterator[tuple[_OpenFile, int]]:
        """Takes the place behind the last, in a file of its own: all have to see it."""
        with self._opening:
            own = self._open_file()
            self._places.add(own)
        try:
            place, end = first, first + _PLACES
            while True:
                while (found := _find_lock(own.descriptor, place, end)) is not None:
                    place = found + 1
                if place == end or _lock_byte(own.descriptor, place):
                    break
            # Behind the last place of all there is none: until the queue is empty, without order.
            yield own, place
        finally:
            with self._opening:
                self._places.discard(own)
                own.close()

    def open(self) -> _OpenFile:
        """Returns the file, opened once."""
        file = self._file
        if file.descriptor >= 0:  # if it is closed at this moment, `check_open` says so
            return file
        with self._opening:
            if self._file.descriptor < 0:
                self._file = self._open_file()
            return self._file

    def check_open(self, file: _OpenFile) -> None:
        """Raises `StorageUnavailable` if the file was closed."""
        if file.descriptor < 0:
            raise StorageUnavailable(f"{self._path} was closed meanwhile")

    def _open_file(self) -> _OpenFile:
        if not self._path.parent.exists():  # as there was one when the store was made
            raise StorageUnavailable(f"{self._path.parent} is missing: it was removed or unmounted")
        create_private_file(self._path)
        return _OpenFile(os.open(self._path, os.O_RDWR | os.O_CLOEXEC))

    def close(self) -> None:
        """Gives all locks back and closes the file; those who wait go away."""
        with self._opening:
            self._file.close()

    def before_fork(self) -> None:
        """Waits until no thread is opening the file: the child could not close what it gets."""
        self._opening.acquire()

    def after_fork(self, *, child: bool) -> None:
        """Begins anew in the child: the open files, and so their locks, are the parent's."""
        if child:
            for file in (self._file, *self._places):
                file.close()
            self._file = _OpenFile()
            self._places = set()
        self._opening.release()


class FileLocks(FileQueue):
    """Locks senders against all other threads and processes of this machine, in turn.

    Each sender has one byte, far behind the end of one empty file, at an offset made of 62 bits of
    a digest: nobody waits for another sender, no file is left behind for each sender that ever
    wrote, and the kernel frees the locks of a process that dies, at once. Those who wait do so in
    the order in which they came; but processes of version 0.1, which know the locks and not the
    queues, try whenever they like.
    """

    def acquire(self, sender: Sender, timeout: float) -> Callable[[], None]:
        """Waits for a sender's lock and returns what gives it back.

        Raises:
            ConversationBusy: It was not won within `timeout` seconds; 0 does not wait.
            StorageUnavailable: `close` was called meanwhile.
            OSError: The file cannot be opened or locked.
        """
        file = self.open()
        offset = _offset(sender)
        if not self.in_turn(offset, partial(self._try, file, offset), timeout):
            raise busy(timeout)
        return partial(self._give_back, file, offset)

    def _try(self, file: _OpenFile, offset: int) -> bool | None:
        with self._opening:
            if file.descriptor < 0:
                self.check_open(file)
            # The kernel tells open files apart, and not the threads that use one of them.
            if offset in file.held or not _lock_byte(file.descriptor, offset):
                return None
            file.held.add(offset)
            return True

    def _give_back(self, file: _OpenFile, offset: int) -> None:
        with self._opening:
            if file.descriptor >= 0:  # or it was closed, and its number is another's
                _unlock_byte(file.descriptor, offset)
                file.held.remove(offset)


def _offset(sender: Sender) -> int:
    return int.from_bytes(sender_digest(sender)[:8], "big") >> 2


def is_place(offset: int) -> bool:
    """Returns whether a locked byte is a place in a queue, and no lock."""
    return offset >= _FIRST_QUEUE


def _lock_byte(descriptor: int, offset: int) -> bool:
    """Locks one byte, without waiting; returns whether nobody else has it."""
    try:
        fcntl.fcntl(descriptor, _SET_LOCK, _FLOCK.pack(fcntl.F_WRLCK, 0, offset, 1, 0))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    return True


def _unlock_byte(descriptor: int, offset: int) -> None:
    """Frees one byte."""
    fcntl.fcntl(descriptor, _SET_LOCK, _FLOCK.pack(fcntl.F_UNLCK, 0, offset, 1, 0))


def _find_lock(descriptor: int, start: int, end: int) -> int | None:
    """Returns the offset of a byte that somebody else has locked, if one in a range is."""
    if start == end:
        return None  # a length of 0 would mean up to the end
    asked = _FLOCK.pack(fcntl.F_WRLCK, 0, start, end - start, 0)
    kind, _, found, _, _ = _FLOCK.unpack(fcntl.fcntl(descriptor, _GET_LOCK, asked))
    return None if kind == fcntl.F_UNLCK else found


_watch = ForkWatch()
