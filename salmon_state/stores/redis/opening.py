"""What is checked while a store is made, so that what cannot work says so at once."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import redis
from redis.cluster import RedisCluster
from redis.exceptions import AuthenticationError, MovedError, NoPermissionError
from redis.sentinel import MasterNotFoundError

from salmon_state.errors import ConfigurationError
from salmon_state.log import log
from salmon_state.options import check_number
from salmon_state.stores.redis.cluster import Cluster
from salmon_state.stores.redis.diagnosis import info_of, losses
from salmon_state.stores.redis.entries import Keys
from salmon_state.stores.redis.scripts import FORGET
from salmon_state.stores.redis.servers import Server
from salmon_state.stores.redis.urls import parse_target, target_of

__all__ = [
    "Options",
    "check_options",
    "check_server",
    "misconfigured",
    "open_server",
    "warn_of_losses",
]


_SHORTEST_LEASE = 0.1


class Options(NamedTuple):
    """The numbers among the arguments of a store, as they are needed."""

    ttl: bytes
    """In milliseconds, or empty."""
    timeout: float
    replicas: int
    wait: int
    """In milliseconds."""


def check_options(
    ttl: float | timedelta | None,
    lease: float,
    timeout: float,
    wait_replicas: int,
    wait_timeout: float | None,
) -> Options:
    """Returns what a store is made with.

    Raises:
        ConfigurationError: An option cannot work.
    """
    check_number("timeout", timeout)
    check_number("lease", lease)
    if lease < _SHORTEST_LEASE:
        raise ConfigurationError(f"lease must be {_SHORTEST_LEASE} s or more, got {lease}")
    if isinstance(wait_replicas, bool) or not isinstance(wait_replicas, int) or wait_replicas < 0:
        raise ConfigurationError(
            f"wait_replicas must be 0 or more and an int, got {wait_replicas!r}"
        )
    if wait_timeout is None:
        wait_timeout = timeout / 2
    check_number("wait_timeout", wait_timeout)
    if not wait_timeout < timeout:
        raise ConfigurationError(
            "wait_timeout must be less than timeout, or the reply would come too late: "
            f"got {wait_timeout} and {timeout}"
        )
    wait = max(1, round(wait_timeout * 1000))
    if ttl is None:
        return Options(b"", timeout, wait_replicas, wait)
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    check_number("ttl", seconds, most=10**10)
    return Options(b"%d" % max(1, round(seconds * 1000)), timeout, wait_replicas, wait)


def open_server(
    url: str | None, client: Any, options: Options
) -> tuple[Server, str, tuple[str, ...]]:
    """Returns the server, where it is, and what must never be shown; connects to nothing.

    Raises:
        ConfigurationError: Neither a URL that can work nor a client, or both.
    """
    if (url is None) == (client is None):
        raise ConfigurationError("RedisStorage needs a URL or a client, and not both")
    if client is None:
        target = parse_target(url, options.timeout)
    else:
        _check_client(client)
        target = target_of(client)
    server = (Cluster if target.cluster else Server)(
        target.connect,
        own=client is None,
        limit=target.limit,
        patience=options.timeout,
        replicas=options.replicas,
        wait=options.wait,
    )
    return server, target.place, target.secrets


def _check_client(client: object) -> None:
    if not isinstance(client, (redis.Redis, RedisCluster)):
        raise ConfigurationError(
            "client must be a redis.Redis or a redis.RedisCluster, not "
            f"{type(client).__module__}.{type(client).__name__}"
        )
    if isinstance(client, RedisCluster):
        nodes: Any = client.get_nodes()
        pools = [node.redis_connection.connection_pool for node in nodes if node.redis_connection]
    else:
        pools = [client.connection_pool]
    if any(getattr(pool, "cache", None) is not None for pool in pools):
        raise ConfigurationError(
            "the client caches what it reads, and states must be read as they are now: give one "
            "without client-side caching"
        )
    if not all(getattr(pool, "is_master", True) for pool in pools):
        raise ConfigurationError(
            "the client reads from replicas, which lag behind and cannot be written: give "
            "Sentinel.master_for(...)"
        )


def check_server(server: Server, keys: Keys) -> None:
    """Tries what a store does: to read, to run a script, to write.

    Raises:
        ConfigurationError: The server is of another kind than the URL says.
        redis.RedisError: It cannot be reached, or refuses.
    """
    server.layout()
    for pool in server.pools():
        _check_info(server, info_of(pool))
    nobody = keys.head + b"}"
    server.read(nobody, (b"HGET", nobody, b""))
    server.run(FORGET, (nobody,), (b"nothing",), again=True)


def _check_info(server: Server, info: dict[str, str]) -> None:
    mode = info.get("redis_mode")
    if mode == "sentinel":
        raise ConfigurationError(
            "this server is a Sentinel: its URL is redis+sentinel://host:26379/service"
        )
    if mode == "cluster" and not isinstance(server, Cluster):
        raise ConfigurationError(
            "this server belongs to a cluster: its URL is redis+cluster://host:6379, "
            "its client a redis.RedisCluster"
        )


def warn_of_losses(server: Server, *, ttl: bool) -> None:
    """Logs a warning for what a server is set to do and costs states.

    Args:
        server: Each of its primaries is asked; what it does not tell is not warned of.
        ttl: Whether the states of the store end by themselves.
    """
    for pool in server.pools():
        for finding in losses(pool, info_of(pool), ttl=ttl):
            log().warning("%s; %s", finding.text, finding.advice)


# ---------------------------------------------------------------- what went wrong


def misconfigured(error: BaseException, server: Server) -> str | None:
    """Returns what is wrong with the configuration, if that is why a server refuses."""
    for cause in _chain(error):
        if isinstance(cause, MasterNotFoundError):
            return _wrong_service(server.source)
        text = _ASKS_FOR_LOGIN if _asks_for_login(cause) else str(cause)
        if (
            isinstance(cause, (AuthenticationError, NoPermissionError, TypeError, ValueError))
            or type(cause) is ssl.SSLCertVerificationError
            or any(part in text for part in _REFUSALS)
        ):
            return f"{type(cause).__name__}: {text}"
        if isinstance(cause, MovedError):
            return "this server belongs to a cluster: its URL is redis+cluster://host:6379"
    return None


_REFUSALS = (
    *("Invalid Database", "DB index is out of range", "invalid DB index"),
    *("SELECT is not allowed in cluster mode", "Cluster mode is not enabled"),
    *("unknown command", "The user executing the script can't"),
)


_ASKS_FOR_LOGIN = (
    "the server asks for a login: a URL has it as user:password@ or :password@ before the host"
)


def _asks_for_login(error: BaseException) -> bool:
    """Returns whether none was given; what Redis says then depends on its protocol."""
    return isinstance(error, AuthenticationError) and (
        "HELLO" in str(error) or "Authentication required" in str(error)
    )


def _wrong_service(pool: Any) -> str | None:
    """Returns what is wrong if Sentinel answers and knows no such service."""
    for sentinel in pool.sentinel_manager.sentinels:
        try:
            known = sentinel.sentinel_masters()
        except AuthenticationError as error:
            verb = "asks for a" if _asks_for_login(error) else "refuses the"
            return (
                f"Sentinel {verb} login, which its URL gives as sentinel_username and "
                "sentinel_password"
            )
        except (redis.RedisError, OSError):
            continue
        if pool.service_name not in known:
            names = ", ".join(sorted(map(str, known)))
            return f"Sentinel knows no service {pool.service_name!r}: it knows {names}"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
