"""Spool: a Maildir whose mails are claimed, and stay where they are until they are handled.

::

    new/NAME                            came in
    cur/NAME,TRIES,CRASHES              is or was in hand; locked as long as it is
    later/MILLISECONDS,NAME,TRIES,0     could not be handled; not to be taken before that moment

A mail is locked (flock) by whoever has it in hand. The lock ends with the process, or with the
last child that it forked, so that the mail of a killed one is free at once; and a name is changed
by a rename alone, so that no moment of a crash or of a full disk loses a mail.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import re
import stat
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from salmon_state.log import log
from salmon_state.mail.receivers.limits import SHORTAGES

__all__ = ["Claim", "Spool"]

_COUNTED = re.compile(
    r"(?:(?P<due>\d{1,20}),)?(?P<name>.*),(?P<tries>\d{1,9}),(?P<crashes>\d{1,9})"
)

_SCAN_EVERY = 10.0
"""Seconds after which a directory is listed although it does not seem to have changed."""

_SCAN_SHARE = 10
"""How many times as long as listing takes there is none: for a directory of 100,000 mails."""

_COARSE = 100_000_000
"""Nanoseconds within which two changes of a directory may have the same time."""


class Claim:
    """A mail that nobody else takes until it is released.

    Attributes:
        path: Where it is.
        data: What it says.
        arrived: When it was put into the Maildir, in seconds since 1970 UTC.
        tries: How often it was in hand.
        crashes: How often in a row that ended with the end of the process.
    """

    def __init__(self, spool: Spool, path: Path, descriptor: int) -> None:
        self._spool = spool
        self._descriptor = descriptor
        self.path = path
        counted = _COUNTED.fullmatch(path.name) if path.parent.name != "new" else None
        self._name = counted["name"] if counted else path.name
        self.tries = int(counted["tries"]) if counted else 0
        self.crashes = int(counted["crashes"]) if counted else 0
        self.arrived = os.fstat(descriptor).st_mtime
        with open(descriptor, "rb", closefd=False) as file:
            self.data = file.read()

    def begin(self) -> None:
        """Counts that it is in hand now: as a crash, until something else is known."""
        self.tries += 1
        self.crashes += 1
        self._rename("cur", f"{self._name},{self.tries},{self.crashes}")

    def postpone(self, seconds: float) -> None:
        """Puts it where nobody takes it before some time has passed."""
        due = time.time_ns() // 1_000_000 + int(seconds * 1000)
        if self._rename("later", f"{due:015},{self._name},{self.tries},0"):
            self._spool.add_later(due, self.path)

    def remove(self) -> None:
        """Removes it: it is handled."""
        try:
            self.path.unlink()
        except OSError as error:
            self._spool.leave_alone(self.path, f"handled, but it cannot be removed: {error}")

    def release(self) -> None:
        """Lets others take it, if it is still there."""
        os.close(self._descriptor)

    def _rename(self, directory: str, name: str) -> bool:
        target = self._spool.directory / directory / name
        try:
            self.path.rename(target)
        except OSError as error:  # the mail is where it was, and will be taken again
            log().error("cannot rename %s: %s", self.path, error)
            return False
        self.path = target
        return True


class Spool:
    """What is to be taken from a Maildir, and in which order.

    Attributes:
        directory: The Maildir.
        skip: Paths that are not to be taken: left alone, or for somebody to take up again.
    """

    def __init__(self, directory: Path, size_limit: int) -> None:
        self.directory = directory
        self.skip: set[Path] = set()
        self._size_limit = size_limit
        self._found: deque[Path] = deque()
        # Of texts: workers add to it as well, and to compare paths takes more than one step.
        self._later: list[tuple[int, str]] = []
        self._seen: list[int] = []
        self._scanned_at = self._scan_took = 0.0
        self._directories = [str(directory / name) for name in ("new", "cur", "later")]
        (directory / "later").mkdir(mode=0o700, exist_ok=True)

    def next(self) -> Path | None:
        """Returns a path to claim, those first whose time has come; ``None`` if there is none."""
        if not (self._found or self._is_due()) and self._may_have_changed():
            self._scan()
        if self._is_due():
            return Path(heapq.heappop(self._later)[1])
        return self._found.popleft() if self._found else None

    def _is_due(self) -> bool:
        return bool(self._later) and self._later[0][0] <= time.time_ns() // 1_000_000

    def put_back(self, path: Path) -> None:
        """Makes a path the next one again."""
        self._found.appendleft(path)

    def add_later(self, due: int, path: Path) -> None:
        """Adds a mail that is not to be taken before a moment, in milliseconds since 1970 UTC."""
        heapq.heappush(self._later, (due, str(path)))

    def _may_have_changed(self) -> bool:
        idle = time.monotonic() - self._scanned_at
        if idle < self._scan_took * _SCAN_SHARE:
            return False
        return idle > _SCAN_EVERY or self._seen != self._changed_at()

    def _changed_at(self) -> list[int]:
        return [os.stat(path).st_mtime_ns for path in self._directories]

    def _scan(self) -> None:
        began = time.monotonic()
        changed = self._changed_at()
        recently = time.time_ns() - max(changed) < _COARSE
        self._seen = [] if recently else changed
        found = [path for name in ("new", "cur") for path in self._list(name)]
        self._found.extend(sorted(found, key=_by_time))
        due = [
            (int(path.name.partition(",")[0]), str(path))
            for path in self._list("later", "[0-9]+,.*")
        ]
        heapq.heapify(due)
        self._later = due
        self._scanned_at = time.monotonic()
        self._scan_took = self._scanned_at - began

    def _list(self, name: str, pattern: str = ".*") -> Iterator[Path]:
        with os.scandir(self.directory / name) as entries:
            for entry in entries:
                path = Path(entry.path)
                if path not in self.skip and re.fullmatch(pattern, entry.name, re.DOTALL):
                    yield path

    def claim(self, path: Path) -> Claim | None:
        """Takes a mail if nobody has it in hand, and if it is one.

        Raises:
            OSError: That cannot be said now, for want of descriptors or memory.
        """
        try:
            # Opening a FIFO would wait for whoever writes to it.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(path, flags)
        except FileNotFoundError:  # somebody was faster
            return None
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            self.leave_alone(path, str(error))
            return None
        try:
            if self._is_ours(path, descriptor):
                claim = Claim(self, path, descriptor)
                descriptor = -1
                return claim
        except OSError as error:
            self.leave_alone(path, str(error))
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return None

    def _is_ours(self, path: Path, descriptor: int) -> bool:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            self.leave_alone(path, "it is no file")
            return False
        if found.st_size > self._size_limit:
            self.leave_alone(path, f"more than {self._size_limit} bytes")
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = path.lstat()
        except (BlockingIOError, FileNotFoundError):
            return False
        return (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)

    def leave_alone(self, path: Path, reason: str) -> None:
        """Says once what is not taken, by this process."""
        if path not in self.skip:
            self.skip.add(path)
            log().error("%s is left alone: %s", path, reason)


def _by_time(path: Path) -> list[str | int]:
    """Returns what to sort a Maildir's names by: their numbers may lack leading zeros."""
    parts: list[str | int] = [*re.split("([0-9]+)", path.name)]
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts
