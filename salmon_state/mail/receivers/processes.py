"""Processes: children that all do the same, each of them started again when it dies."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable

from salmon_state.log import log

__all__ = ["Processes"]

_RESTART_AFTER = 1.0
"""Seconds, so that what cannot run is no busy loop."""


class Processes:
    """Children of this process, which end with it, whatever kills it.

    They are forked, and so share what is open: a socket that listens. The stores of this package
    notice that by themselves.

    Args:
        number: How many there are.
        run: What each of them does. It is given a descriptor that becomes readable when it is to
            end, and must not read from it: it is everybody's.
        patience: Seconds after which those that were told to end are killed.
    """

    def __init__(self, number: int, run: Callable[[int], None], patience: float) -> None:
        self._number = number
        self._run = run
        self._patience = patience
        self._told, self._tell = os.pipe()
        self._children: dict[int, int] = {}  # their process descriptors, and ids

    def stop(self) -> None:
        """Tells all of them to end; safe in a signal handler."""
        with contextlib.suppress(OSError):  # they have ended, and there is no -1
            os.write(self._tell, b"x")

    def run(self) -> None:
        """Blocks until `stop` was called and all of them have ended."""
        poll = select.poll()
        poll.register(self._told, select.POLLIN)
        until = float("inf")
        while self._children or until == float("inf"):
            while until == float("inf") and len(self._children) < self._number:
                try:
                    poll.register(self._fork(), select.POLLIN)
                except OSError as error:
                    log().error("no process can be started to receive mail: %s", error)
                    self._rest()
                    break
            for descriptor, _ in poll.poll(200):
                poll.unregister(descriptor)
                if descriptor == self._told:
                    until = time.monotonic() + self._patience
                else:
                    self._bury(descriptor, expected=until < float("inf"))
            if time.monotonic() > until:
                log().error("processes that do not end are killed: %s", [*self._children.values()])
                for pid in self._children.values():
                    os.kill(pid, signal.SIGKILL)
                until = time.monotonic() + self._patience
        tell, self._tell = self._tell, -1
        os.close(self._told)
        os.close(tell)

    def _fork(self) -> int:
        pid = os.fork()
        if pid == 0:
            self._live()
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:  # nobody would notice its end
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._children[descriptor] = pid
        return descriptor

    def _live(self) -> None:
        """Is the life of a child."""
        status = 1
        try:
            os.close(self._tell)  # the parent alone has it, so that its death is heard as well
            # Ctrl-C and a terminal that closes are the parent's to obey, and SIGTERM is the same
            # for all.
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            self._run(self._told)
            status = 0
        except BaseException:  # noqa: BLE001 - nothing of the parent's is to be run here
            log().exception("a process that receives mail has failed")
        finally:
            logging.shutdown()
            os._exit(status)

    def _bury(self, descriptor: int, *, expected: bool) -> None:
        pid = self._children.pop(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        if not expected:
            how = os.waitstatus_to_exitcode(status)
            log().error("process %d, which received mail, ended (%d): started again", pid, how)
            self._rest()

    def _rest(self) -> None:
        select.select([self._told], [], [], _RESTART_AFTER)
