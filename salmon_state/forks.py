"""Forks of the process: whatever has locks or connections is told, before and after each.

A child has the memory of its parent but only one of its threads. A lock that another thread held
at that moment would stay locked for ever in the child, and what that thread was changing would
stay half changed; a connection would have two owners.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from contextlib import suppress
from functools import partial

__all__ = ["ForkWatch", "Forkable"]

_LOG_PATIENCE = 5.0
"""Seconds that a fork waits for somebody who writes to the log."""


class Forkable:
    """What a `ForkWatch` tells of forks, in the thread that forks."""

    def before_fork(self) -> None:
        """Where need be, waits until no other thread is inside, and keeps them out."""

    def after_fork(self, *, child: bool) -> None:
        """Lets them in again; in the child, begins anew without what is the parent's."""


class ForkWatch:
    """Tells the objects of one module of each fork, as long as they live.

    One for each module, made when it is imported. Before a fork the objects of a module are told
    before those of the modules that it imports, so that a thread for which somebody waits still
    gets the locks below; after it they are told the other way round. This is the order that
    ``os.register_at_fork`` has.
    """

    def __init__(self) -> None:
        self._watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
        self._told: list[Forkable] = []
        # Nothing can be added during a fork: it would be told of one half only.
        self._adding = threading.Lock()
        os.register_at_fork(
            before=self._before,
            after_in_parent=partial(self._after, child=False),
            after_in_child=partial(self._after, child=True),
        )

    def add(self, it: Forkable) -> None:
        """Tells it of every fork from now on."""
        with self._adding:
            self._watched.add(it)

    def _before(self) -> None:
        self._adding.acquire()
        for it in list(self._watched):
            it.before_fork()
            self._told.append(it)

    def _after(self, *, child: bool) -> None:
        while self._told:
            self._told.pop().after_fork(child=child)
        self._adding.release()


class _Log(Forkable):
    """The log's handlers, which no other thread may be writing through during a fork.

    Python makes their locks anew in the child, but not those of their streams.
    """

    def __init__(self) -> None:
        self._held: list[logging.Handler] = []

    def before_fork(self) -> None:
        loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
        there = {
            each for one in loggers if isinstance(one, logging.Logger) for each in one.handlers
        }
        self._held = [
            each for each in there if each.lock and each.lock.acquire(timeout=_LOG_PATIENCE)
        ]

    def after_fork(self, *, child: bool) -> None:
        held, self._held = self._held, []
        for handler in held:
            with suppress(RuntimeError):  # in the child, of one that was made anew
                handler.release()


_log = _Log()
_watch = ForkWatch()  # the first: whoever holds what a watch above has kept may still write
_watch.add(_log)
