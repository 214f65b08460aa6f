"""Talking to Redis: one server or whichever Sentinel calls the primary; a cluster is beside it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from redis import RedisError, ResponseError
from redis.exceptions import NoScriptError, RedisClusterException

from salmon_state.entries import Kind
from salmon_state.errors import StorageUnavailable
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.stores.redis.connections import Command, Connections, ask, exchange, talk
from salmon_state.stores.redis.deadlines import CLOCKS, Timed
from salmon_state.stores.redis.entries import damaged, type_of
from salmon_state.stores.redis.scripts import Script

__all__ = ["UNREACHABLE", "Server"]

PAGE = 500
"""How many keys the server looks at in one step of a scan."""

UNREACHABLE = (RedisError, RedisClusterException, OSError)
"""What redis-py raises; not all of it has one base."""

_inherited: list[object] = []
"""What a forked child must neither use nor close: it is its parent's."""


class Server(Forkable):
    """One Redis server.

    Args:
        connect: Makes the pool of connections or, for a cluster, the client.
        own: Whether they are the store's own, which are made anew after a fork and closed in the
            end, and not an application's.
        limit: How many connections to a server may be in use at once; 0 if they are not its own.
        patience: How long a thread waits for one of them, in seconds.
        replicas: How many replicas must have confirmed a write before it returns; 0 for none.
        wait: How long to wait for them, in milliseconds.

    Attributes:
        paused: Whether we keep others from writing: then only what says that it reads is run.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        own: bool,
        limit: int,
        patience: float,
        replicas: int,
        wait: int,
    ) -> None:
        self._connect = connect
        self._own = own
        self._limit = limit
        self._patience = patience
        self._begin()
        self._replicas = replicas
        self._confirm: tuple[Command, ...] = ((b"WAIT", replicas, wait),) if replicas else ()
        self.paused = False
        _watch.add(self)

    def _begin(self) -> None:
        self._made: Any = None
        self._making = threading.Lock()
        self._by_pool: dict[Any, Connections] = {}
        self._one: Connections | None = None

    def _connections(self, pool: Any) -> Connections:
        with self._making:
            if pool not in self._by_pool:
                self._by_pool[pool] = Connections(pool, self._limit, self._patience)
            return self._by_pool[pool]

    @property
    def source(self) -> Any:
        """The pool or the cluster's client."""
        if self._made is None:
            self._made = self._connect()
        return self._made

    def after_fork(self, *, child: bool) -> None:
        """Begins anew in the child; an application's client finds out by itself."""
        if child:
            if self._own:
                _inherited.append((self._made, self._by_pool))
            self._begin()

    def close(self) -> None:
        """Closes the connections, unless they are the application's."""
        if self._own and self._made is not None:
            self._disconnect()

    def _disconnect(self) -> None:
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

    def run(
        self, script: Script, keys: Sequence[bytes], argv: Sequence[bytes], *, again: bool = False
    ) -> Any:
        """Returns what a script returned; it is not confirmed by replicas.

        Args:
            script: Which one.
            keys: Its KEYS, of one slot.
            argv: Its ARGV, to which the deadline is added.
            again: Whether it may happen twice.

        Raises:
            StorageError: There is something else under a key than what belongs there.
        """
        return self._run(self._ask, script, keys, argv, again)

    def change(
        self, script: Script, keys: Sequence[bytes], argv: Sequence[bytes], *, again: bool = False
    ) -> Any:
        """Does the same for one that changes something, which the replicas confirm.

        Raises:
            StorageUnavailable: Too few of them did.
        """
        return self._run(self._change if self._confirm else self._ask, script, keys, argv, again)

    def _run(
        self,
        send: Callable[..., Any],
        script: Script,
        keys: Sequence[bytes],
        argv: Sequence[bytes],
        again: bool,
    ) -> Any:
        try:
            try:
                return send(keys[-1], self._called(script, keys, argv), again=again)
            except ResponseError as error:
                if not _not_run(error):
                    raise
                whole = self._called(script, keys, argv, whole=True)
                return send(keys[-1], whole, again=again)
        except ResponseError as error:
            self._explain(error, keys)
            raise

    def _ask(self, key: bytes, command: Command, *, again: bool) -> Any:
        return ask(self._one or self._only(), command, again=again)

    def _change(self, key: bytes, command: Command, *, again: bool) -> Any:
        reply, confirmed = self._exchange(key, (command, *self._confirm), again=again)
        for each in (reply, confirmed):
            if isinstance(each, Exception):
                raise each
        if confirmed < self._replicas:
            raise StorageUnavailable(
                f"a write happened and is not confirmed: {confirmed} of {self._replicas} replicas "
                "have it"
            )
        return reply

    def _exchange(self, key: bytes, commands: Sequence[Command], *, again: bool) -> list[Any]:
        return exchange(self._one or self._only(), commands, again=again)

    def _only(self) -> Connections:
        self._one = self._connections(self.source)
        return self._one

    def _explain(self, error: ResponseError, keys: Sequence[bytes]) -> None:
        if "WRONGTYPE" in str(error):
            for key in keys:
                kind = self._ask(key, (b"TYPE", key), again=True)
                if kind not in (b"none", type_of(key)):
                    raise damaged(key) from error
            raise damaged(keys[-1]) from error  # or what belongs to it

    def _called(
        self, script: Script, keys: Sequence[bytes], argv: Sequence[bytes], *, whole: bool = False
    ) -> Command:
        """Returns the command that runs a script, by its name or with its text."""
        verb, name = (b"EVAL", script.text) if whole else (b"EVALSHA", script.sha)
        if self.paused and script.reads:
            verb += b"_RO"
        return Timed((verb, name, len(keys), *keys, *argv))

    # ---------------------------------------------------------------- many keys

    def pools(self) -> list[Connections]:
        """Returns the connections to each of the primaries."""
        return [self._only()]

    def by_pool(self, keys: list[bytes]) -> Iterable[tuple[Connections, list[bytes]]]:
        """Returns keys, always the same behind the same first one, by the primary that has them."""
        return [(self._only(), keys)]

    def heads(self, kind: Kind, sets: Callable[[Kind], list[bytes]]) -> list[tuple[int, bytes]]:
        """Returns when the first of each sorted set of a kind is due, at the earliest, and the set.

        Here nobody is asked: whoever looks into the set finds out in the same round trip.
        """
        return [(-(2**63), key) for key in sets(kind)]

    def layout(self) -> object:
        """Returns what changes when keys move to another server."""
        return None

    def scan(self, pool: Connections, pattern: bytes) -> Iterator[list[bytes]]:
        """Yields the keys on one server that match, some at a time, some of them repeatedly.

        On one connection from the first to the last step: a cursor means nothing to another
        server, which a pool may lead to after a failover, and would skip keys there.
        """
        process, cursor = os.getpid(), b"0"
        connection = pool.make()
        try:
            while True:
                if os.getpid() != process:
                    raise StorageUnavailable("an iteration cannot go on in a forked child")
                command: Command = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", PAGE)
                (reply,) = talk(connection, (command,))
                if isinstance(reply, Exception):
                    raise reply
                cursor, keys = reply
                yield keys
                if cursor == b"0":
                    return
        finally:
            pool.pool.release(connection)

    def _together(self, pool: Connections, commands: Sequence[Command]) -> list[Any]:
        """Returns the replies of one server to commands that may happen twice."""
        return exchange(pool, commands, again=True)

    def batch(
        self, pool: Connections, keys: Sequence[bytes], commands: Sequence[Command]
    ) -> list[Any]:
        """Returns the replies to commands, each about a key of one server, sent together."""
        replies = self._together(pool, commands)
        return [
            self.read(key, command) if isinstance(reply, Exception) else reply
            for key, command, reply in zip(keys, commands, replies, strict=True)
        ]

    def run_each(
        self,
        pool: Connections,
        script: Script,
        groups: Sequence[Sequence[bytes]],
        argv: Sequence[bytes],
    ) -> list[Any]:
        """Does the same for a script that reads, and groups of keys, each of one slot."""
        commands = [self._called(script, keys, argv) for keys in groups]
        replies = self._together(pool, commands) if groups else []
        if replies and isinstance(replies[0], ResponseError) and _not_run(replies[0]):
            self.run(script, groups[0], argv, again=True)  # and the server knows it
            replies = self._together(pool, commands)
        return [
            self.run(script, keys, argv, again=True) if isinstance(reply, Exception) else reply
            for keys, reply in zip(groups, replies, strict=True)
        ]


def _not_run(error: ResponseError) -> bool:
    """Returns whether a server says that a script did nothing, and would run it now.

    It was restarted or is another one and does not know the script, or its clock was set since.
    """
    if str(error).startswith("LATE"):
        CLOCKS.forget()
        return True
    return isinstance(error, NoScriptError)


_watch = ForkWatch()
