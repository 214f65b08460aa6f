"""The write-ahead log of a SQLite database, for whoever brings commits to the disk himself.

What a disk does not take, Linux keeps in memory as if it had: it says so once to each open file,
and a later sync brings what came later (`man 2 fsync`). SQLite would write that place of the log
again, as a commit that it could not sync has not happened. Here others go on behind it, and after
a loss of power SQLite reads the log up to the first gap: what was acknowledged since would be gone.
So nothing is until all of the log was written once more.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from salmon_state.log import log
from salmon_state.stores.disk import Synced

__all__ = ["Log"]

_AT_ONCE = 1 << 20
"""How many bytes are written at once."""

_torn: set[str] = set()
"""The logs of which this process knows that a part may not be on the disk."""


class Log(Synced):
    """The log of a database that is open, and in WAL mode.

    Args:
        database: The path of the database.
        patience: How long to wait for other writers before it is written once more, in seconds.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, database: str, patience: float) -> None:
        self._patience = patience
        self._database = os.path.realpath(database)
        self._path = self._database + "-wal"
        super().__init__(self._path)

    def sync(self) -> None:
        """Returns when all that was written to it is on the disk, without a gap before it.

        A process that opens the log when another one has been told, and has not mended it, does
        not know.

        Raises:
            OSError: The disk fails, or others wrote all the time while it was to be mended.
        """
        if self._path not in _torn:
            try:
                super().sync()
                return
            except OSError as error:
                log().warning("%s is not on the disk, and written once more: %s", self._path, error)
                _torn.add(self._path)
        try:
            self._write_again()
        except sqlite3.Error as error:
            raise OSError(f"{self._path} cannot be written once more: {error}") from error
        _torn.discard(self._path)

    def _write_again(self) -> None:
        uri = f"{Path(self._database).as_uri()}?mode=rw"
        made = sqlite3.connect(uri, timeout=self._patience, isolation_level=None, uri=True)
        with closing(made) as connection:
            connection.execute("BEGIN IMMEDIATE")  # so that nobody else writes there
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                start = 0
                while data := os.pread(descriptor, _AT_ONCE, start):
                    start += os.pwrite(descriptor, data, start)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
