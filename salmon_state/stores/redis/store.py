"""RedisStorage: states in one Redis server, behind Sentinel, or in a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

from redis.exceptions import ChildDeadlockedError

from salmon_state.backend import UnitOfWork
from salmon_state.entries import STATE, Entry, Kind, Page, Want, Where, Write
from salmon_state.errors import ConfigurationError, StorageError, StorageUnavailable
from salmon_state.findings import Finding
from salmon_state.keys import Sender
from salmon_state.masking import Mask
from salmon_state.storage import StateStorage
from salmon_state.stores.redis import opening
from salmon_state.stores.redis.cluster import Cluster
from salmon_state.stores.redis.commits import Commits
from salmon_state.stores.redis.diagnosis import diagnose
from salmon_state.stores.redis.entries import Keys, damaged, decode_value, encode_field
from salmon_state.stores.redis.leases import RedisLeases, RedisWork
from salmon_state.stores.redis.pages import Pages
from salmon_state.stores.redis.pausing import paused
from salmon_state.stores.redis.servers import UNREACHABLE

__all__ = ["RedisStorage"]


class RedisStorage(StateStorage):
    """Keeps the states in Redis: one server, one of several behind Sentinel, or a cluster.

    Any number of threads, processes and machines share it. All states of a sender are in one
    hash, which lies in one slot of a cluster.

    >>> from salmon_state.stores.redis import RedisStorage
    >>> with RedisStorage("redis://localhost:6379/0") as store:     # doctest: +SKIP
    ...     store.set("app.handlers", "anna@example.com", "POSTING")

    What is durable is Redis's to say, and by default it is not much: after the death of its
    machine the last second of writes is gone (``appendfsync everysec``) or all since the last
    snapshot (without ``appendonly yes``), and after a failover what the new primary had not
    received. A state that was lost reads as the one before it, or as START. With
    ``appendfsync always`` a server keeps what it acknowledged through its own death. With
    ``wait_replicas`` what was acknowledged is on so many replicas as well, and survives a
    failover to one of them; ``min-replicas-to-write`` keeps a primary that was cut off from
    taking writes that nobody will see. ``docs/redis.md`` tells it in full.

    When a call raises because no answer came in time, it has happened or never will: what a server
    gets after its caller gave up, it does not do. Only what was under way on a connection that was
    cut may still happen until ``timeout`` is over.

    A conversation holds a lease, which is extended while the handler runs and proven by the
    script that commits: a process that stood still for longer than the lease changes nothing any
    more, and after the death of a process its senders are free within that time. All writes of a
    conversation are one step; in a cluster only those of one sender are. There everything is
    checked before anything is written, other senders' states come first and its own last, so that
    a crash in between leaves the mail to be handled again.

    Args:
        url: ``redis://[user:password@]host[:port][/database]``, ``unix:///path/to/socket``,
            ``redis+sentinel://[user:password@]host[:port][,host2[:port2]…]/service[/database]``
            or ``redis+cluster://[user:password@]host[:port][,host2[:port2]…]``; with ``rediss``
            instead of ``redis`` for TLS. The options in the query are redis-py's, and for
            Sentinel's own login ``sentinel_username`` and ``sentinel_password``.
        client: An application's own `redis.Redis` or `redis.RedisCluster` instead. Its pool of
            connections is used and never closed; its time limits and its care of ``os.fork`` are
            its own, and its ``decode_responses`` and repeated attempts do not matter.
        prefix: What all keys begin with; no braces in it. All keys ``<prefix>:{…}`` are the
            store's.
        ttl: How long a sender's states are kept after the last of them was set, in seconds or as
            a ``timedelta``; ``None`` for ever. It is given to a sender's states by the next `set`;
            one that they have already is not taken back by a store without.
        lease: How long a conversation outlives its process, in seconds; 0.1 or more. It is
            extended three times in this time, so that handlers may take longer.
        timeout: How long connecting, each exchange and waiting for a connection may take, in
            seconds; more than 0. As nothing is repeated after a timeout, a call ends within three
            times this time; with Sentinel or a cluster, for each of them that does not answer,
            once more. What a server gets later than that after it was sent, it does not do.
        wait_replicas: How many replicas must have a write before it returns. With fewer the write
            has happened, and `StorageUnavailable` says that it is not confirmed.
        wait_timeout: How long to wait for them, in seconds; less than `timeout`, and half of it
            unless given.
        indexes: Whether to make an index of the states, their times and their modules, unless there
            is one, for `records` with any filter, `rename`, `rename_module` and `purge`, which look
            at all keys otherwise. From then on every store keeps and uses it, also one without the
            option or one that was open before; but none of version 0.1, and what that writes is not
            found. ``docs/redis.md`` says what it costs, and how to give it up.
        protect: As for `StateStorage`.

    Raises:
        ConfigurationError: The URL, the client or an option cannot work; the login is refused;
            the server is of another kind.
        StorageUnavailable: Redis cannot be reached now.
    """

    is_remote = True

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Any = None,
        prefix: str = "salmon_state",
        ttl: float | timedelta | None = None,
        lease: float = 10.0,
        timeout: float = 5.0,
        wait_replicas: int = 0,
        wait_timeout: float | None = None,
        indexes: bool = False,
        protect: bool = False,
    ) -> None:
        super().__init__(protect=protect)
        options = opening.check_options(ttl, lease, timeout, wait_replicas, wait_timeout)
        Keys(prefix)  # which refuses what cannot be one, before anything is opened
        self._server, self._url, secrets = opening.open_server(url, client, options)
        self._mask = Mask(secrets)
        self._client = client  # held because redis.Redis disconnects its pool when it is deleted
        clustered = isinstance(self._server, Cluster)
        self.spans_senders = not clustered
        self._prefix = prefix
        self._ttl, self._wait_replicas = bool(options.ttl), wait_replicas
        self._keys = Keys(prefix, clustered=clustered)
        self._redis_leases = RedisLeases(self._server, self._keys, lease)
        self._commits = Commits(self._server, self._keys, options.ttl, clustered=clustered)
        self._pages_of = Pages(self._server, self._keys)
        try:
            opening.check_server(self._server, self._keys)
            opening.warn_of_losses(self._server, ttl=self._ttl)
            if indexes:
                self._pages_of.build_index()
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        self._closed = True
        try:
            if isinstance(error, StorageError):
                raise self._mask.apply(error)
            reason = opening.misconfigured(error, self._server)
            if reason is not None:
                raise self._mask.apply(ConfigurationError(f"{self!r}: {self._mask(reason)}"), error)
            self._raise(error)
        finally:
            self._close()

    # ---------------------------------------------------------------- hooks: one sender

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        key, field = self._keys.of(sender, kind), encode_field(name)
        raw = self._server.read(key, (b"HGET", key, field))
        if raw is None or kind is not STATE:
            return raw
        value = decode_value(raw)
        if value is None:
            raise damaged(key, field)
        return value[1]

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        return self._redis_leases.load(sender, wants)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        if type(writes) is tuple and len(writes) == 1:
            (write,) = writes
            if write.kind is STATE:
                return self._commits.one_state(write)
        return self._commits.make(writes)

    def _begin(self) -> UnitOfWork:
        return RedisWork(self, self._redis_leases, self._commits)

    # ---------------------------------------------------------------- hooks: many senders

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        return self._pages_of.page(kind, where, after)

    def _count(self, kind: Kind) -> int:
        return self._pages_of.count(kind)

    def _claim(self, kind: Kind, until: int, limit: int) -> list[Entry]:
        return self._pages_of.claim(kind, self._clock(), until, limit)

    def _wipe(self) -> None:
        self._pages_of.wipe()

    # ---------------------------------------------------------------- hooks: the store itself

    def _ping(self) -> None:
        opening.check_server(self._server, self._keys)

    def _pause(self, seconds: float) -> AbstractContextManager[object]:
        return paused(self._server, seconds)

    def _diagnose(self) -> Iterator[Finding]:
        return diagnose(
            self._server, self._keys, self._clock, ttl=self._ttl, wait_replicas=self._wait_replicas
        )

    def _close(self) -> None:
        self._redis_leases.close()
        self._server.close()

    def _place(self) -> str:
        return f"{self._url} {self._prefix!a}"

    def _explain(self, error: Exception) -> StorageError:
        if isinstance(error, (*UNREACHABLE, ChildDeadlockedError)):
            return StorageUnavailable(self._mask(f"{type(error).__name__}: {error}"))
        return super()._explain(error)
