"""RedisStorage: states in one Redis server, behind Sentinel, or in a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from redis.exceptions import ChildDeadlockedError

from salmon_state.errors import (
    ConfigurationError,
    ConversationBusy,
    StorageError,
    StorageUnavailable,
    overtaken,
)
from salmon_state.masking import Mask
from salmon_state.storage import (
    Change,
    Move,
    Record,
    Sender,
    StateStorage,
    Transition,
    UnitOfWork,
)
from salmon_state.stores.redis import opening
from salmon_state.stores.redis.cluster import Cluster
from salmon_state.stores.redis.entries import (
    Keys,
    damaged,
    decode_states,
    decode_value,
    encode_field,
    encode_sender,
    encode_value,
)
from salmon_state.stores.redis.leases import Leases, RedisWork
from salmon_state.stores.redis.scripts import (
    CHANGE,
    CHECK,
    FORGET,
    LEASE_LOST,
    OVERTAKEN,
    SET,
    WRITE,
    Lease,
    Plan,
)
from salmon_state.stores.redis.servers import UNREACHABLE
from salmon_state.stores.redis.sweeps import Sweeps

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
        protect: As for `StateStorage`.

    Raises:
        ConfigurationError: The URL, the client or an option cannot work; the login is refused;
            the server is of another kind.
        StorageUnavailable: Redis cannot be reached now.
    """

    _locks_processes = True

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
        protect: bool = False,
    ) -> None:
        super().__init__(protect=protect)
        options = opening.check_options(ttl, lease, timeout, wait_replicas, wait_timeout)
        self._ttl = options.ttl
        self._keys = Keys(prefix)
        self._server, self._url, secrets = opening.open_server(url, client, options)
        self._mask = Mask(secrets)
        self._client = client  # held because redis.Redis disconnects its pool when it is deleted
        self._clustered = isinstance(self._server, Cluster)
        self._prefix = prefix
        self._lease = lease
        self._leases = Leases(self._server, lease)
        self._sweeps = Sweeps(self._server, self._keys)
        try:
            opening.check_server(self._server, self._keys)
            opening.warn_of_losses(self._server, ttl=bool(self._ttl))
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

    # ---------------------------------------------------------------- hooks: one conversation

    def _read(self, module: str, sender: Sender) -> str | None:
        key, field = self._keys.of(sender), encode_field(module)
        raw = self._server.read(key, (b"HGET", key, field))
        if raw is None:
            return None
        value = decode_value(raw)
        if value is None:
            raise damaged(key, field)
        return value[1]

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        key = self._keys.of(sender)
        return decode_states(key, self._server.read(key, (b"HGETALL", key)))

    def _write(self, changes: Iterable[Change]) -> None:
        changes = tuple(changes)
        if len(changes) != 1 or (self._ttl and changes[0].state is not None):
            if changes:
                self._apply(Plan(self._keys).add_changes(changes), again=True)
            return
        ((module, sender, state, updated_at),) = changes
        text, field = encode_sender(sender), encode_field(module)
        key = self._keys.of_text(text)
        if state is None:
            self._server.change(FORGET, (key,), (field,), again=True)
        else:
            argv = (text, field, encode_value(state, updated_at))
            self._server.change(SET, (key,), argv, again=True)

    def _compare_and_set(
        self, module: str, sender: Sender, expected: str | None, state: str | None
    ) -> bool:
        transition = Transition(module, sender, state, self._clock(), True, expected)
        plan = Plan(self._keys).add_transitions([transition])
        return self._run(plan, list(plan.operations)) != OVERTAKEN

    def _set_all(self, sender: Sender, state: str | None) -> int:
        plan = Plan(self._keys).add_moves([Move(sender, state, self._clock())])
        return self._apply(plan, again=True)

    # ---------------------------------------------------------------- hooks: the unit of work

    def _begin(self) -> UnitOfWork:
        return RedisWork(self)

    def _commit(self, moves: Sequence[Move], transitions: Sequence[Transition]) -> None:
        self._apply(Plan(self._keys).add_moves(moves).add_transitions(transitions))

    def _apply(self, plan: Plan, leases: Sequence[Lease] = (), *, again: bool = False) -> int:
        """Does everything that is planned, if the leases are held, and gives them back."""
        parts: list[tuple[list[bytes], list[Lease]]] = [(list(plan.operations), list(leases))]
        if self._clustered:
            own = {lease.key for lease in leases}
            parts = [([key], []) for key in plan.operations if key not in own]
            for lease in reversed(leases):  # the first one's sender is whom the mail is from
                parts.append(([lease.key] if lease.key in plan.operations else [], [lease]))
            if len(parts) > 1:
                for keys, held in parts:
                    self._check(self._run(plan, keys, held, mode=CHECK))
        return sum(self._check(self._run(plan, *part, again=again)) for part in parts)

    def _run(
        self,
        plan: Plan,
        keys: list[bytes],
        leases: Sequence[Lease] = (),
        *,
        mode: bytes = CHANGE,
        again: bool = False,
    ) -> int:
        arguments = plan.arguments(keys, leases, mode=mode, ttl=self._ttl)
        send = self._server.change if mode == CHANGE else self._server.run
        reply = send(WRITE, *arguments, again=again)
        if isinstance(reply, list):
            raise damaged(*reply)
        result: int = reply
        return result

    def _check(self, result: int) -> int:
        if result == LEASE_LOST:
            raise ConversationBusy(
                f"the lease of {self._lease:g} s on a conversation was lost: this process or Redis "
                "stood still for longer, and another mail of the sender may be in hand"
            )
        if result == OVERTAKEN:
            raise overtaken()
        return result

    # ---------------------------------------------------------------- hooks: many conversations

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        found = self._sweeps.records() if sender is None else self._sweeps.records_of(sender)
        for record in found:
            if module in (None, record.module) and state in (None, record.state):
                yield record

    def _rename(self, module: str, old: str, new: str | None) -> int:
        return self._sweeps.rename(module, old, new)

    def _purge(self, before: int, module: str | None, state: str | None) -> int:
        return self._sweeps.purge(before, module, state)

    def _wipe(self) -> None:
        self._sweeps.wipe()

    def _count(self) -> int:
        return self._sweeps.count()

    # ---------------------------------------------------------------- hooks: the store itself

    def _ping(self) -> None:
        opening.check_server(self._server, self._keys)

    def _close(self) -> None:
        self._leases.close()
        self._server.close()

    def _place(self) -> str:
        return f"{self._url} {self._prefix!a}"

    def _wrap(self, error: Exception) -> StorageError:
        if isinstance(error, (*UNREACHABLE, ChildDeadlockedError)):
            return StorageUnavailable(self._mask(f"{type(error).__name__}: {error}"))
        return super()._wrap(error)
