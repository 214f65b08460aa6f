"""The queue directory that a mail came out of, and goes back into if it cannot be handled."""

from __future__ import annotations

import mailbox
import os
import threading
import time
from typing import Any

from salmon.queue import Queue

from salmon_state.log import log
from salmon_state.stores.files import absolute_path

__all__ = ["Origins"]


class Origins:
    """Puts mails back into the queues that they came out of."""

    def __init__(self) -> None:
        self._directory = absolute_path(".")  # as Salmon resolves a queue's path at once
        self.renew_locks()

    def renew_locks(self) -> None:
        """Makes a forked child not wait for threads that it has not."""
        self._pushing = threading.Lock()  # two threads may give a mail in a Maildir the same name

    def put_back(self, message: Any, error: BaseException, delay: float) -> bool:
        """Returns a mail to the queue directory that it came out of, if it did.

        At once and not after the delay: until then it would only be in memory.

        Args:
            message: The mail.
            error: Why.
            delay: Seconds to rest afterwards, so that an outage is no busy loop.

        Returns:
            Whether it is there.
        """
        if not message.Peer or not isinstance(message.Peer, str):
            return False
        queue = os.path.join(self._directory, os.path.expanduser(message.Peer))
        if not os.path.isdir(os.path.join(queue, "new")):
            return False
        try:
            with self._pushing:
                key = Queue(queue).push(message.Data)
        except (OSError, mailbox.Error):
            log().exception("cannot put a mail back into the queue %r", queue)
            return False  # the receiver puts it into the undeliverable queue, if there is one
        log().warning("put a mail back into the queue %r as %r: %s", queue, key, error)
        time.sleep(delay)
        return True
