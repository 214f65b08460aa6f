"""The connections to one Redis server, and what is said on them.

They are redis-py's and come out of its pools; the exchange on them is done here and not by its
clients. They would decode what is not text, try a script again that may have run already, and
answer after ten attempts what a mail server wants to know now.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from redis import AuthenticationError, BusyLoadingError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.sentinel import MasterNotFoundError

from salmon_state.errors import StorageUnavailable
from salmon_state.stores.redis.deadlines import CLOCKS, Timed

__all__ = ["Command", "Connections", "Repeated", "ask", "exchange", "is_dead", "talk"]

Command = tuple[bytes | int, ...]


class Repeated(list[Command]):
    """Commands without a deadline that are sent together often, and put into bytes once."""

    packed: Any = None


class Connections:
    """The connections of one of redis-py's pools, of which so many are in use at once.

    Whoever comes when all are in use waits. One that comes back stays here, in use for all that
    the pool knows: its own way of taking and giving costs as much as a sixth of a ``get``.

    Args:
        pool: What makes them.
        limit: How many may be in use at once; 0 for an application's own pool, which has its own
            limit and gets each back at once.
        patience: How long to wait for one of them, in seconds.
    """

    def __init__(self, pool: Any, limit: int, patience: float) -> None:
        self.pool = pool
        self._limit = limit
        self._patience = patience
        self._free: deque[Any] = deque([None] * limit)  # None is the right to make one
        self._waiting = 0
        self._returned = threading.Condition()

    def take(self) -> Any:
        """Returns a connection that is as good as new.

        Raises:
            StorageUnavailable: All were in use all the time.
        """
        if not self._limit:
            return self.make()
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._wait()
        try:
            if connection is None:
                return self.make()
            if self._is_well(connection):
                return connection
            connection.disconnect()
            self.pool.release(connection)
            return self.make()
        except BaseException:
            self._put(None)
            raise

    def give(self, connection: Any) -> None:
        """Takes a connection back on which everything was read."""
        if self._limit:
            self._put(connection)
        else:
            self.pool.release(connection)

    def drop(self, connection: Any) -> None:
        """Ends a connection: a reply that was not read would be the next command's."""
        connection.disconnect()
        self.pool.release(connection)
        if self._limit:
            self._put(None)

    def _is_well(self, connection: Any) -> bool:
        """Returns whether it is alive, and leads to where Sentinel says."""
        try:
            return not connection.can_read() and bool(self.pool.owns_connection(connection))
        except (RedisConnectionError, OSError):
            return False

    def make(self) -> Any:
        """Returns one that is not among those of which so many are in use: for a long time.

        Who keeps one of them and needs a second meanwhile would wait for others who do so, too.
        """
        try:
            return self.pool.get_connection()
        except MasterNotFoundError:  # some versions of redis-py put passwords into its text
            raise MasterNotFoundError(
                f"no Sentinel was reached that knows a primary of {self.pool.service_name!r}"
            ) from None

    def _put(self, connection: Any) -> None:
        self._free.append(connection)
        if self._waiting:  # who begins to wait looks once more first
            with self._returned:
                self._returned.notify()

    def _wait(self) -> Any:
        with self._returned:
            self._waiting += 1
            try:
                found = self._returned.wait_for(self._pop, self._patience)
            finally:
                self._waiting -= 1
        if not found:
            raise StorageUnavailable(
                f"all {self._limit} connections to Redis were in use for {self._patience:g} s: the "
                "option max_connections of the URL allows more, if the server and the limit of "
                "open files do"
            )
        return found[0]

    def _pop(self) -> list[Any]:
        try:
            return [self._free.pop()]
        except IndexError:
            return []


def exchange(
    connections: Connections, commands: Sequence[Command], *, again: bool = False
) -> list[Any]:
    """Returns the replies to commands that are sent together; errors of the server among them."""
    connection = connections.take()
    try:
        replies = talk(connection, commands)
    except BaseException as error:
        connections.drop(connection)
        if not (again and is_dead(error)):
            raise
        return exchange(connections, commands)
    if replies and isinstance(replies[0], ReadOnlyError):  # see `ask`
        connections.drop(connection)
    else:
        connections.give(connection)
    return replies


def ask(connections: Connections, command: Command, *, again: bool = False) -> Any:
    """Does the same for one command, and raises the server's error; the shortest way there is."""
    connection = connections.take()
    try:
        if type(command) is Timed:  # sent again, it has the deadline of the other connection
            connection.send_command(*command, CLOCKS.deadline(connection))
        else:
            connection.send_command(*command)
        reply = connection.read_response(disable_decoding=True)
    except ReadOnlyError:  # it is a replica by now; a new connection may lead to the primary
        connections.drop(connection)
        raise
    except ResponseError:
        connections.give(connection)
        raise
    except BaseException as error:
        connections.drop(connection)
        if not (again and is_dead(error)):
            raise
        return ask(connections, command)
    connections.give(connection)
    return reply


def talk(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """Returns the replies to commands; whatever it raises, the connection has ended."""
    replies: list[Any] = []
    try:
        if type(commands) is Repeated:
            packed = commands.packed = commands.packed or connection.pack_commands(commands)
        else:
            if any(type(command) is Timed for command in commands):
                deadline = CLOCKS.deadline(connection)
                commands = [(*each, deadline) if type(each) is Timed else each for each in commands]
            packed = connection.pack_commands(commands)
        connection.send_packed_command(packed)
        for _ in commands:
            try:
                replies.append(connection.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
    except BaseException:
        connection.disconnect()
        raise
    return replies


def is_dead(error: BaseException) -> bool:
    """Returns whether the other side of a connection has gone, and nothing else is wrong."""
    return isinstance(error, RedisConnectionError) and not isinstance(
        error, (AuthenticationError, BusyLoadingError)
    )
