"""Talking to Redis: one server or whichever Sentinel calls the primary; a cluster is beside it.

The connections are redis-py's and come out of its pools; the exchange on them is done here and not
by its clients. They would decode what is not text, try a script again that may have run already,
and answer after ten attempts what a mail server wants to know now.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from redis import AuthenticationError, BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException
from redis.sentinel import MasterNotFoundError

from salmon_state.errors import StorageUnavailable
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.stores.redis.entries import damaged, is_lease
from salmon_state.stores.redis.scripts import Script

__all__ = ["PAGE", "UNREACHABLE", "Command", "Server", "exchange", "is_dead"]

Command = tuple[bytes | int, ...]

PAGE = 500
"""How many keys the server looks at in one step of a scan."""

UNREACHABLE = (RedisError, RedisClusterException, OSError)
"""What redis-py raises; not all of it has one base."""

_inherited: list[object] = []
"""What a forked child must neither use nor close: it is its parent's."""


class Server(Forkable):
    """One Redis server.

    Args:
        connect: Makes the pool of connections, or the client, of a store's own; called again
            after a fork.
        given: The application's pool or client instead, which is never closed.
        replicas: How many replicas must have confirmed a write before it returns; 0 for none.
        wait: How long to wait for them, in milliseconds.
    """

    def __init__(
        self, connect: Callable[[], Any], *, given: Any = None, replicas: int = 0, wait: int = 0
    ) -> None:
        self._connect = connect
        self._given = given
        self._made: Any = given
        self._replicas = replicas
        self._confirm: tuple[Command, ...] = ((b"WAIT", replicas, wait),) if replicas else ()
        _watch.add(self)

    @property
    def source(self) -> Any:
        """The pool or the cluster's client."""
        if self._made is None:
            self._made = self._connect()
        return self._made

    def after_fork(self, *, child: bool) -> None:
        """Begins anew in the child; a given client finds out by itself."""
        if child and self._given is None and self._made is not None:
            _inherited.append(self._made)
            self._made = None

    def close(self) -> None:
        """Closes the connections, unless they are the application's."""
        if self._given is None and self._made is not None:
            self._made.disconnect()
            if hasattr(self._made, "sentinel_manager"):  # which has connections of its own
                for watcher in self._made.sentinel_manager.sentinels:
                    watcher.close()

    # ---------------------------------------------------------------- one key

    def read(self, key: bytes, command: Command) -> Any:
        """Returns the reply to a command that may happen twice; never decoded.

        It is sent once more if the connection turns out to be dead, and not after a timeout.

        Raises:
            StorageError: There is something else under the key than a hash.
        """
        try:
            return self._ask(key, command, again=True)
        except ResponseError as error:
            self._explain(error, (key,))
            raise

    def write(self, key: bytes, command: Command, *, again: bool = False) -> Any:
        """Returns the reply to a command that changes something.

        Args:
            key: The key that it is about.
            command: The command.
            again: Whether it may happen twice.

        Raises:
            StorageError: There is something else under the key than a hash.
            StorageUnavailable: Too few replicas have confirmed it.
        """
        try:
            return self._change(key, command, again=again)
        except ResponseError as error:
            self._explain(error, (key,))
            raise

    def run(
        self, script: Script, keys: Sequence[bytes], argv: Sequence[bytes], *, again: bool = False
    ) -> Any:
        """Returns what a script returned; it is not confirmed by replicas."""
        return self._run(self._ask, script, keys, argv, again)

    def change(
        self, script: Script, keys: Sequence[bytes], argv: Sequence[bytes], *, again: bool = False
    ) -> Any:
        """Returns what a script returned that changes something; the replicas confirm it."""
        return self._run(self._change, script, keys, argv, again)

    def _run(
        self,
        send: Callable[..., Any],
        script: Script,
        keys: Sequence[bytes],
        argv: Sequence[bytes],
        again: bool,
    ) -> Any:
        arguments: Command = (len(keys), *keys, *argv)
        try:
            try:
                return send(keys[-1], (b"EVALSHA", script.sha, *arguments), again=again)
            except NoScriptError:  # the server was restarted or is another one: nothing was run
                return send(keys[-1], (b"EVAL", script.text, *arguments), again=again)
        except ResponseError as error:
            self._explain(error, keys)
            raise

    def _ask(self, key: bytes, command: Command, *, again: bool) -> Any:
        return _ask(self.source, command, again=again)

    def _change(self, key: bytes, command: Command, *, again: bool) -> Any:
        if not self._confirm:
            return self._ask(key, command, again=again)
        return self._confirmed(self._exchange(key, (command, *self._confirm), again=again))

    def _exchange(self, key: bytes, commands: Sequence[Command], *, again: bool) -> list[Any]:
        return exchange(self.source, commands, again=again)

    def _explain(self, error: ResponseError, keys: Sequence[bytes]) -> None:
        if "WRONGTYPE" in str(error):
            for key in keys:
                kind = self._ask(key, (b"TYPE", key), again=True)
                if kind not in (b"none", b"string" if is_lease(key) else b"hash"):
                    raise damaged(key) from error

    def _confirmed(self, replies: list[Any]) -> Any:
        reply, confirmed = replies
        if isinstance(reply, Exception):
            raise reply
        if isinstance(confirmed, Exception):
            raise confirmed
        if confirmed < self._replicas:
            raise StorageUnavailable(
                f"a write happened and is not confirmed: {confirmed} of {self._replicas} replicas "
                "have it"
            )
        return reply

    # ---------------------------------------------------------------- many keys

    def pools(self) -> list[Any]:
        """Returns the pools of connections to all primaries."""
        return [self.source]

    def layout(self) -> object:
        """Returns what changes when keys move to another server."""
        return None

    def scan(self, pool: Any, pattern: bytes) -> Iterator[list[bytes]]:
        """Yields the keys on one server that match, some at a time, some of them repeatedly.

        On one connection from the first to the last step: a cursor means nothing to another
        server, which a pool may lead to after a failover, and would skip keys there.
        """
        process, cursor = os.getpid(), b"0"
        connection = _connection(pool)
        try:
            while True:
                if os.getpid() != process:
                    raise StorageUnavailable("an iteration cannot go on in a forked child")
                command: Command = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", PAGE)
                (reply,) = _talk(connection, (command,))
                if isinstance(reply, Exception):
                    raise reply
                cursor, keys = reply
                yield keys
                if cursor == b"0":
                    return
        finally:
            pool.release(connection)

    def batch(
        self, pool: Any, keys: Sequence[bytes], commands: Sequence[Command], *, write: bool = False
    ) -> list[Any]:
        """Returns the replies to commands that were sent together; `redis.ResponseError` is one.

        Args:
            pool: The server that has the keys.
            keys: What each of the commands is about.
            commands: What to send; reads may happen twice.
            write: Whether they change something, which replicas may have to confirm.
        """
        if not write or not self._confirm:
            return exchange(pool, commands, again=not write)
        replies = exchange(pool, (*commands, *self._confirm))
        self._confirmed([None, replies.pop()])
        return replies


def exchange(pool: Any, commands: Sequence[Command], *, again: bool = False) -> list[Any]:
    """Returns the replies to commands that are sent together; errors of the server among them."""
    connection = _connection(pool)
    try:
        return _talk(connection, commands)
    except RedisConnectionError as error:
        if not (again and is_dead(error)):
            raise
    finally:
        pool.release(connection)
    return exchange(pool, commands)


def _ask(pool: Any, command: Command, *, again: bool = False) -> Any:
    """Does the same for one command, and raises the server's error; the shortest way there is."""
    connection = _connection(pool)
    try:
        connection.send_command(*command)
        return connection.read_response(disable_decoding=True)
    except ResponseError:
        raise
    except BaseException as error:
        # A reply that was not read would be the next command's. Sentinel's do not do it.
        connection.disconnect()
        if not (again and is_dead(error)):
            raise
    finally:
        pool.release(connection)
    return _ask(pool, command)


def _connection(pool: Any) -> Any:
    try:
        return pool.get_connection()
    except MasterNotFoundError:  # some versions of redis-py put passwords into its text
        raise MasterNotFoundError(
            f"no Sentinel was reached that knows a primary of {pool.service_name!r}"
        ) from None


def _talk(connection: Any, commands: Sequence[Command]) -> list[Any]:
    replies: list[Any] = []
    try:
        connection.send_packed_command(connection.pack_commands(commands))
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


_watch = ForkWatch()
