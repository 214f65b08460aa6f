"""Who must wait for whom among the mails of one sender to one recipient."""

from __future__ import annotations

import bisect
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable

from salmon_state.entries import EVERY, Kind
from salmon_state.errors import StorageError
from salmon_state.keys import Sender
from salmon_state.mail.batches import decode, mail_of
from salmon_state.storage import StateStorage

__all__ = ["Turns"]

_FRESH = 0.2
"""Seconds for which somebody who was ahead is not looked for again."""

# In microseconds: those who wait for others ask again in their order, and not all at once.
_SHORTEST_WAIT, _WAIT_FOR_EACH, _LONGEST_WAIT = 100_000, 20_000, 60_000_000


class _Queue:
    """What there was to send of one sender at some moment.

    It never misses anybody who is ahead of a mail that was in it: mails come behind the last, and
    who was ahead can only be gone by now.
    """

    def __init__(self, storage: StateStorage, sender: Sender) -> None:
        self.read_at = time.monotonic()
        self.last = ""
        self.mails: dict[str, list[tuple[str, int]]] = {}  # by recipient, with their times
        self.users: Counter[str] = Counter()  # batches, by their message
        for entry in storage._call(storage._load, sender, ((Kind.OUTGOING, EVERY),)):
            self.last = max(self.last, entry.name)
            mail = mail_of(entry.name)
            try:
                batch = decode(entry)
            except StorageError:  # whoever claims it says so
                continue
            self.users[batch.body] += 1
            for group in batch.groups:
                for recipient in group.recipients:
                    bisect.insort(self.mails.setdefault(recipient, []), (mail, group.due))

    def behind(self, mail: str, recipients: Iterable[str], now: int) -> dict[str, int]:
        """Returns those to whom another mail goes first, and when to ask again."""
        found = {}
        for recipient in recipients:
            mails = self.mails.get(recipient, [])
            ahead = bisect.bisect_left(mails, (mail, 0))
            if ahead:
                wait = min(max(_SHORTEST_WAIT, ahead * _WAIT_FOR_EACH), _LONGEST_WAIT)
                found[recipient] = max(now + wait, mails[0][1])
        return found


class Turns:
    """Lets what one sender's mails send to one recipient leave in its order.

    What is to be sent of a sender is read once for all of it that is there at that moment, not for
    each batch.
    """

    _most = 20

    def __init__(self, storage: StateStorage) -> None:
        self._storage = storage
        self._queues: OrderedDict[Sender, _Queue] = OrderedDict()
        self._changing = threading.Lock()
        self._reading = threading.Lock()

    def behind(self, sender: Sender, name: str, recipients: Collection[str]) -> dict[str, int]:
        """Returns those recipients to whom an earlier mail of the sender was not sent yet.

        Args:
            sender: Whose mail it is.
            name: The name of the batch.
            recipients: Of whom to tell.

        Returns:
            With each, when to ask again, in microseconds since 1970: those far behind, later.

        Raises:
            StorageUnavailable: The store cannot be read now.
        """
        queue = self._known(sender, name)
        if queue is None:
            with self._reading:  # all connections begin at once, with batches of the same sender
                queue = self._known(sender, name) or self._read(sender)
        now, mail = self._storage._clock(), mail_of(name)
        behind = queue.behind(mail, recipients, now)
        if behind and time.monotonic() - queue.read_at > _FRESH:
            behind = self._read(sender).behind(mail, recipients, now)
        return behind

    def _known(self, sender: Sender, name: str) -> _Queue | None:
        """Returns what was read of a sender, if a batch was among it."""
        with self._changing:
            queue = self._queues.get(sender)
        return None if queue is None or queue.last < name else queue

    def _read(self, sender: Sender) -> _Queue:
        queue = _Queue(self._storage, sender)
        with self._changing:
            self._queues[sender] = queue
            self._queues.move_to_end(sender)
            while len(self._queues) > self._most:
                self._queues.popitem(last=False)
        return queue

    def leave(self, sender: Sender, name: str, recipients: Iterable[str]) -> None:
        """Notes that nobody waits for these any more: they were sent it, or given up."""
        with self._changing:
            queue = self._queues.get(sender)
        if queue is not None:
            mail = mail_of(name)
            for recipient in recipients:
                mails = queue.mails.get(recipient, [])
                queue.mails[recipient] = [each for each in mails if each[0] != mail]

    def is_alone(self, sender: Sender, body: str) -> bool:
        """Returns whether the only batch that needs a message is certainly that which is asked for.

        Batches of a message are all recorded together.
        """
        with self._changing:
            queue = self._queues.get(sender)
        return queue is not None and queue.users[body] == 1
