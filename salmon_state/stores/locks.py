"""Locks between the threads and processes of one machine, one for each sender, in a single file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from salmon_state.errors import busy
from salmon_state.keys import Sender
from salmon_state.stores.encoding import sender_digest
from salmon_state.stores.queues import FileQueue, OpenFile, lock_byte, unlock_byte

__all__ = ["FileLocks"]


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

    def _try(self, file: OpenFile, offset: int) -> bool | None:
        with self._opening:
            self.check_open(file)
            # The kernel tells open files apart, and not the threads that use one of them.
            if offset in file.held or not lock_byte(file.descriptor, offset):
                return None
            file.held.add(offset)
            return True

    def _give_back(self, file: OpenFile, offset: int) -> None:
        with self._opening:
            if file.descriptor >= 0:  # or it was closed, and its number is another's
                unlock_byte(file.descriptor, offset)
                file.held.remove(offset)


def _offset(sender: Sender) -> int:
    return int.from_bytes(sender_digest(sender)[:8], "big") >> 2
