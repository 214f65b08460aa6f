"""What a Redis server says of itself.

Sources: https://redis.io/docs/latest/commands/info/ and
https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import redis
from redis.exceptions import NoPermissionError

from salmon_state.findings import MANY, Finding, recommend_indexes
from salmon_state.leases import holder_of
from salmon_state.stores.clock import compare_clocks
from salmon_state.stores.redis.connections import Connections, ask, exchange
from salmon_state.stores.redis.entries import SENDER, Keys, is_lease, lease_of, pairs
from salmon_state.stores.redis.indexes import Index
from salmon_state.stores.redis.servers import Server

__all__ = ["diagnose", "info_of", "losses"]

Info = dict[str, str]

_LATE = 10
"""Seconds without a word from a replica that is well says something each second."""


def diagnose(
    server: Server, keys: Keys, clock: Callable[[], int], *, ttl: bool, wait_replicas: int
) -> Iterator[Finding]:
    """Yields what there is to say of each primary, and of the leases; see `StateStorage.diagnose`.

    Args:
        server: Where the states are.
        keys: Which keys are theirs.
        clock: Our time, in microseconds since 1970.
        ttl: Whether the states of the store end by themselves.
        wait_replicas: How many replicas must have a write before it returns.
    """
    for pool in server.pools():
        info = info_of(pool)
        if info:
            yield from losses(pool, info, ttl=ttl)
            yield from _durability(pool, info)
            yield from _replicas(pool, info, wait_replicas)
        else:
            yield Finding("durability", "this user may not ask with INFO how durable Redis is")
        yield compare_clocks(clock, lambda pool=pool: _time(pool))  # type: ignore[misc]
    yield from _masters(server.source)
    yield from _index(server, Index(server, keys))
    yield from _leases(server, keys)


def info_of(pool: Connections) -> Info:
    """Returns what ``INFO`` says; empty if this user may not ask."""
    try:
        reply = ask(pool, (b"INFO",), again=True)
    except NoPermissionError:
        return {}
    lines = bytes(reply).decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def losses(pool: Connections, info: Info, *, ttl: bool) -> Iterator[Finding]:
    """Yields what a server is set to do and costs states; what it does not tell is not found.

    Args:
        pool: The connections to it.
        info: What it says of itself.
        ttl: Whether the states of the store end by themselves.
    """
    policy = info.get("maxmemory_policy", "noeviction")
    evicts = policy.startswith("allkeys") or (ttl and policy.startswith("volatile"))
    if evicts and info.get("maxmemory", "0") != "0":
        text = f"Redis removes states when its memory is full: maxmemory-policy is {policy}"
        yield Finding("durability", text, "set it to noeviction")
    if info.get("aof_enabled") == "0" and _setting(pool, "save") == "":
        text = "Redis forgets all states when it ends: neither appendonly nor save is set"
        yield Finding("durability", text, "appendonly yes keeps them")


def _durability(pool: Connections, info: Info) -> Iterator[Finding]:
    if info.get("aof_enabled") == "1":
        policy = _setting(pool, "appendfsync")
        lost = {"everysec": "the last second", "no": "what the operating system had in memory"}
        text = f"appendfsync is {policy or 'not told to this user'}"
        if policy in lost:
            text += f": after a power failure {lost[policy]} is lost"
        advice = "CONFIG SET appendfsync everysec, or always" if policy == "no" else ""
        yield Finding("durability", text, advice)
    elif "aof_enabled" in info and _setting(pool, "save") != "":
        text = "appendonly is no: when Redis ends badly, all since the last snapshot is lost"
        yield Finding("durability", text, "CONFIG SET appendonly yes, and CONFIG REWRITE")
    for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
        if info.get(name, "ok") != "ok":
            text = f"{name} is {info[name]}: Redis could not write its files"
            yield Finding("durability", text, "look at the server's log, and at the space left")


def _replicas(pool: Connections, info: Info, wait_replicas: int) -> Iterator[Finding]:
    number = int(info.get("connected_slaves", 0))
    text, advice = f"replicas connected: {number}", ""
    if number < wait_replicas:
        text += f", and wait_replicas is {wait_replicas}: no write is confirmed"
        advice = "start the replicas, or lower wait_replicas"
    yield Finding("replicas", text, advice)
    for index in range(number):
        told = info.get(f"slave{index}", "")  # nothing while its connection breaks
        replica = dict(part.split("=", 1) for part in told.split(",") if "=" in part)
        late = int(replica.get("lag", 0)) > _LATE
        if late or replica.get("state", "online") != "online":
            text = f"the replica {replica.get('ip')}:{replica.get('port')} does not keep up: "
            text += f"{replica.get('state')}, lag {replica.get('lag')} s"
            yield Finding("replicas", text, "wait if it is new; otherwise look at its log")
    if number and _setting(pool, "min-replicas-to-write") == "0":
        text = "a primary that is cut off from its replicas goes on taking states, which are lost"
        yield Finding("replicas", text, "CONFIG SET min-replicas-to-write 1, and CONFIG REWRITE")


def _setting(pool: Connections, name: str) -> str | None:
    try:
        reply = ask(pool, (b"CONFIG", b"GET", name.encode()), again=True)
    except redis.ResponseError:  # many a server does not let its users ask
        return None
    value = dict(pairs(reply)).get(name.encode())
    return None if value is None else value.decode(errors="replace")


def _time(pool: Connections) -> float:
    seconds, microseconds = ask(pool, (b"TIME",), again=True)
    return int(seconds) + int(microseconds) / 1e6


def _masters(source: Any) -> Iterator[Finding]:
    """Yields whether the Sentinels agree on one primary, if there are Sentinels."""
    for sentinel in getattr(getattr(source, "sentinel_manager", None), "sentinels", ()):
        with suppress(redis.RedisError, OSError):  # one of several may be away
            for replica in sentinel.sentinel_slaves(source.service_name):
                if "master" in str(replica["role-reported"]):
                    text = f"{replica['ip']}:{replica['port']} is a replica and takes writes"
                    advice = "REPLICAOF it, or let Sentinel do so; what it was told is lost"
                    yield Finding("writers", text, advice)
            primary = sentinel.sentinel_get_master_addr_by_name(source.service_name)
            yield Finding("writers", f"a Sentinel says that the primary is {primary}")


def _index(server: Server, index: Index) -> Iterator[Finding]:
    """Says that there are many keys, and no index of the states, or one that is not whole."""
    if index.is_there():
        if not index.is_whole():
            text = "the index of the states is not whole, so that records, rename and purge search"
            yield Finding("indexes", text, "open_storage(url, indexes=True) finishes it")
        return
    sizes = [exchange(pool, ((b"DBSIZE",),), again=True)[0] for pool in server.pools()]
    number = sum(size for size in sizes if isinstance(size, int))  # some may not be told
    if number >= MANY:
        yield recommend_indexes(f"{number:,} keys, others' among them")


def _leases(server: Server, keys: Keys) -> Iterator[Finding]:
    for pool in server.pools():
        held = {key for found in server.scan(pool, lease_of(keys.everything)) for key in found}
        for key in sorted(filter(is_lease, held)):
            states = key.removesuffix(lease_of(b""))
            commands = ((b"GET", key), (b"PTTL", key), (b"HGET", states, SENDER))
            token, left, sender = server.batch(pool, (key, key, states), commands)
            if token is None or left < 0:
                continue
            whose = (sender or states).decode("ascii", "backslashreplace")[:200]
            text = f"{whose} is held by {holder_of(token)}, for {left / 1000:.0f} s at least"
            yield Finding("locks", text)
