"""Talking to a cluster: which server has a key, and what to do when another one has it by now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from salmon_state.entries import Kind
from salmon_state.stores.redis.connections import (
    Command,
    Connections,
    Repeated,
    ask,
    exchange,
    is_dead,
)
from salmon_state.stores.redis.servers import Server

__all__ = ["Cluster"]

_REDIRECTIONS = 10
_PAUSE = 0.02


class Cluster(Server):
    """A cluster, whose layout redis-py's client finds out.

    A command that was redirected has not run, so each may be sent again. The layout is asked for
    anew when a server redirects, or before the next call when one could not be reached.
    """

    _stale = False
    _known: object = None

    def _begin(self) -> None:
        super()._begin()
        # What asks for the first of each sorted set of a kind, server by server.
        self._looks: dict[Kind, list[tuple[Connections, list[bytes], Repeated]]] = {}
        # Keys of all slots, of which the first is this one, by server.
        self._by_pool_of: dict[bytes, list[tuple[Connections, list[bytes]]]] = {}

    def _ask(self, key: bytes, command: Command, *, again: bool) -> Any:
        (reply,) = self._exchange(key, (command,), again=again)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _exchange(self, key: bytes, commands: Sequence[Command], *, again: bool) -> list[Any]:
        """Returns the replies to commands of which the first is about a key."""
        asked: Connections | None = None
        for attempt in range(_REDIRECTIONS):
            try:
                if asked is None:
                    replies = exchange(self._pool_of(key), commands)
                else:
                    replies = exchange(asked, ((b"ASKING",), *commands))[1:]
            except (RedisConnectionError, RedisTimeoutError) as error:
                self._stale = True
                if not (again and is_dead(error)):
                    raise
                again, asked = False, None
                continue
            asked = None
            if isinstance(replies[0], MovedError):
                self._stale = True
            elif isinstance(replies[0], AskError):
                asked = self._pool_at(replies[0].host, replies[0].port)
            elif not isinstance(replies[0], TryAgainError):
                self._stale = self._stale or isinstance(replies[0], ClusterDownError)
                return replies
            if attempt:  # the layout is changing: not everybody knows it yet
                time.sleep(_PAUSE * attempt)
        return replies

    def _pool_of(self, key: bytes) -> Connections:
        if self._stale:
            self._refresh()
        return self._pool(self._node_of(key))

    def _node_of(self, key: bytes) -> Any:
        try:
            return self.source.get_node_from_key(key)
        except SlotNotCoveredError:  # when the layout was asked for: somebody may have it by now
            self._stale = True
            raise

    def _pool_at(self, host: str, port: int) -> Connections | None:
        node = self.source.get_node(host=host, port=port)
        if node is None:
            self._refresh()
            node = self.source.get_node(host=host, port=port)
        return None if node is None else self._pool(node)

    def _pool(self, node: Any) -> Connections:
        return self._connections(self.source.get_redis_connection(node).connection_pool)

    def _refresh(self) -> None:
        self.source.nodes_manager.initialize()
        clients = [node.redis_connection for node in self.source.get_nodes()]
        pools = {client.connection_pool for client in clients if client is not None}
        with self._making:
            self._by_pool = {pool: c for pool, c in self._by_pool.items() if pool in pools}
        self._looks, self._by_pool_of = {}, {}
        self._stale = False

    def _disconnect(self) -> None:
        self._made.disconnect_connection_pools()
        self._made.close()

    # ---------------------------------------------------------------- many keys

    def pools(self) -> list[Connections]:
        return [self._pool(node) for node in self.source.get_primaries()]

    def _together(self, pool: Connections, commands: Sequence[Command]) -> list[Any]:
        try:
            return super()._together(pool, commands)
        except (RedisConnectionError, RedisTimeoutError):
            self._stale = True  # another one may have the slots by now
            raise

    def by_pool(self, keys: list[bytes]) -> Iterable[tuple[Connections, list[bytes]]]:
        if self._stale:
            self._refresh()
        found = self._by_pool_of.get(keys[0])
        if found is None:
            by_node: dict[Any, list[bytes]] = {}
            for key in keys:
                by_node.setdefault(self._node_of(key), []).append(key)
            found = [(self._pool(node), some) for node, some in by_node.items()]
            self._by_pool_of[keys[0]] = found
        return found

    def heads(self, kind: Kind, sets: Callable[[Kind], list[bytes]]) -> list[tuple[int, bytes]]:
        """Does the same; there is a set for each slot, and most are empty: all are asked at once.

        To work out whom to ask, and to put it into bytes, takes longer than the answers. It is kept
        until slots move.
        """
        if self._stale:
            self._refresh()
        looks = self._looks.get(kind)
        if looks is None:
            looks = self._looks[kind] = [
                (pool, keys, Repeated(_first_of(key) for key in keys))
                for pool, keys in self.by_pool(sets(kind))
            ]
        found = []
        for pool, keys, commands in looks:
            for key, reply in zip(keys, self.batch(pool, keys, commands), strict=True):
                if reply:
                    score = reply[0][1] if isinstance(reply[0], (list, tuple)) else reply[1]
                    found.append((int(float(score)), key))
        return found

    def layout(self) -> object:
        """Returns which server has which slots, and makes the client know it."""
        try:
            slots = self._slots()
        except (RedisConnectionError, RedisTimeoutError):
            self._refresh()  # which leads to a server that answers
            slots = self._slots()
        if slots != self._known:
            self._refresh()
            self._known = slots
        return slots

    def _slots(self) -> object:
        pool = self._pool(self.source.get_default_node())
        slots = ask(pool, (b"CLUSTER", b"SLOTS"), again=True)
        # First and last slot, then the primary's address and name.
        return sorted([*part[:2], *part[2][:3]] for part in slots)


def _first_of(key: bytes) -> Command:
    return (b"ZRANGE", key, b"0", b"0", b"WITHSCORES")
