"""From a URL to the servers it names: one, those that Sentinel watches, or a cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import ConnectionPool, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from salmon_state.errors import ConfigurationError
from salmon_state.masking import check_login, is_secret
from salmon_state.options import check_query, closest
from salmon_state.stores.files import absolute_path

__all__ = ["Target", "parse_target", "target_of"]

_SCHEMES = (
    *("redis", "rediss", "unix"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
)
"""The schemes of the URLs; the doubled ``s`` stands for TLS."""

_OPTIONS: dict[str, type] = {
    **dict.fromkeys(("client_name", "password", "username"), str),
    **dict.fromkeys(("db", "health_check_interval", "max_connections", "protocol"), int),
    **dict.fromkeys(("socket_connect_timeout", "socket_timeout"), float),
    **dict.fromkeys(("decode_responses", "socket_keepalive"), bool),
    "socket_read_size": int,
}
_TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_ARGUMENTS = (
    *("indexes", "lease", "prefix", "protect", "timeout", "ttl", "wait_replicas", "wait_timeout"),
)
"""What a store takes as arguments, and no URL has."""
_SENTINEL_OPTIONS = ("sentinel_password", "sentinel_username")
_EXAMPLES = (
    "'redis://host:6379/0', 'unix:///path/to/socket?db=0', "
    "'redis+sentinel://host:26379,host2:26379/service/0' or 'redis+cluster://host:6379,host2:6379'"
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[^\[\]@\s]+)?\]|[^\[\]:@\s]+)(?::([0-9]{1,5}))?")
_CONNECTIONS = 32
"""How many are in use at once, each for one exchange: more keep no server busier."""
_UNLIMITED = 2**31
"""For redis-py's pools, some versions of which count connections that have gone."""


class Target(NamedTuple):
    """What a URL says."""

    connect: Callable[[], Any]
    """Makes the pool of connections or, for a cluster, the client."""
    cluster: bool
    place: str
    """The URL without passwords."""
    secrets: tuple[str, ...]
    """What must never be shown."""
    limit: int
    """How many connections to a server may be in use at once; 0 if their pool is not ours."""


def parse_target(url: object, timeout: float) -> Target:
    """Returns what a URL says; connects to nothing.

    Args:
        url: As the docstring of `RedisStorage` says.
        timeout: For connecting, and for each exchange, in seconds.

    Raises:
        ConfigurationError: It cannot work. The message shows nothing of it but what cannot be a
            part of a password.
    """
    scheme, separator, rest = url.partition("://") if isinstance(url, str) else ("", "", "")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        meant = closest(scheme, _SCHEMES) if scheme.startswith("redis") else None
        question = f"did you mean {meant}://? " if meant else ""
        raise ConfigurationError(f"{question}the URL of a Redis looks like {_EXAMPLES}")
    check_login(str(url))
    address, _, query = rest.partition("?")
    if "#" in rest:
        raise ConfigurationError(f"a {scheme}:// URL has no part after '#': write %23 for it")
    options = _options(scheme, query)
    if scheme.startswith("rediss"):
        _secure(options)
    user, address = _split_user(scheme, address)
    name, colon, password = user.partition(":")
    if name:
        options["username"] = unquote(name)
    if password:
        options["password"] = unquote(password)
    secrets = {password, *(value for option, value in options.items() if is_secret(option))}
    limit = options.pop("max_connections", _CONNECTIONS)
    if limit < 1:
        raise ConfigurationError(f"max_connections must be 1 or more, got {limit}")
    options = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        **options,
        "max_connections": _UNLIMITED,
        "retry": Retry(NoBackoff(), 0),
    }
    database = f"?db={options['db']}" if "db" in options else ""  # which wins over the path's
    kind = scheme.partition("+")[2] or scheme
    connect = _KINDS[kind](scheme, address, options)
    shown = f"{quote(unquote(name), safe='')}{':***' if colon else ''}@" if user else ""
    place = f"{scheme}://{shown}{address}{database}"
    return Target(connect, kind == "cluster", place, tuple(secrets), limit)


def _split_user(scheme: str, address: str) -> tuple[str, str]:
    if scheme == "unix":  # a path may have an @ in it
        authority, slash, path = address.partition("/")
        user, _, host = authority.rpartition("@")
        return user, host + slash + path
    user, _, address = address.rpartition("@")
    return user, address


def _options(scheme: str, query: str) -> dict[str, Any]:
    if "@" in query:  # what looks like an option may be the end of a password
        raise ConfigurationError(
            f"a {scheme}:// URL has '@' behind '?': special characters are percent-encoded"
        )
    given = parse_qsl(query, keep_blank_values=True)
    known = dict(_OPTIONS)
    if scheme.endswith("sentinel"):
        known |= dict.fromkeys(_SENTINEL_OPTIONS, str)
    if scheme.startswith("rediss"):
        known |= {name: str for name, _ in given if re.fullmatch(r"ssl_[a-z_]+", name)}
        known["ssl_check_hostname"] = bool
    check_query(scheme, given, known, _ARGUMENTS)
    try:  # redis-py's own parsing of the options
        options: dict[str, Any] = parse_url(f"redis://?{query}")
    except ValueError as error:  # it names the option and shows no value
        raise ConfigurationError(f"a {scheme}:// URL: {error}") from None
    return options


def _secure(options: dict[str, Any]) -> None:
    for name in _TLS_FILES:
        if name in options:
            options[name] = absolute_path(options[name])
            if not os.path.exists(options[name]):
                raise ConfigurationError(f"{name}: there is no {options[name]!r}")
    if options.get("ssl_cert_reqs") != "none":
        options.setdefault("ssl_check_hostname", True)  # redis-py does so since version 6


# ---------------------------------------------------------------- the kinds


def _one(scheme: str, address: str, options: dict[str, Any]) -> Callable[[], Any]:
    hosts, _, path = address.partition("/")
    found = _hosts(scheme, hosts, 6379)
    if len(found) != 1:
        raise ConfigurationError(
            f"a {scheme}:// URL names one server: several are {scheme}+sentinel:// or "
            f"{scheme}+cluster://"
        )
    host, port = found[0]
    _set_db(scheme, path, options)
    if scheme == "rediss":
        options["connection_class"] = SSLConnection
    return lambda: ConnectionPool(host=host, port=port, **options)


def _unix(scheme: str, address: str, options: dict[str, Any]) -> Callable[[], Any]:
    path = unquote(address)
    if not path.startswith("/") or path == "/":
        raise ConfigurationError("a unix:// URL needs an absolute path: unix:///path/to/socket")
    options.pop("socket_connect_timeout")
    options.pop("socket_keepalive", None)
    options["connection_class"] = UnixDomainSocketConnection
    return lambda: ConnectionPool(path=path, **options)


def _sentinel(scheme: str, address: str, options: dict[str, Any]) -> Callable[[], Any]:
    hosts, _, path = address.partition("/")
    sentinels = _hosts(scheme, hosts, 26379)
    service, _, path = path.partition("/")
    if not service:
        raise ConfigurationError(
            f"a {scheme}:// URL needs the name of the service that Sentinel watches: "
            f"{scheme}://host:26379/service"
        )
    _set_db(scheme, path, options)
    tls = scheme == "rediss+sentinel"
    shared = ("socket_timeout", "socket_connect_timeout", "retry")
    to_sentinel = {
        name: value for name, value in options.items() if name in shared or name.startswith("ssl_")
    }
    for name in ("username", "password"):
        if f"sentinel_{name}" in options:
            to_sentinel[name] = options.pop(f"sentinel_{name}")
    connection_class = SentinelManagedSSLConnection if tls else SentinelManagedConnection

    def connect() -> Any:
        watchers = Sentinel(sentinels, sentinel_kwargs={**to_sentinel, "ssl": tls})
        return SentinelConnectionPool(
            unquote(service), watchers, connection_class=connection_class, **options
        )

    return connect


def _cluster(scheme: str, address: str, options: dict[str, Any]) -> Callable[[], Any]:
    hosts, _, path = address.partition("/")
    found = _hosts(scheme, hosts, 6379)
    if path not in ("", "0") or options.pop("db", 0) != 0:
        raise ConfigurationError(f"a {scheme}:// URL has no database but 0: a cluster has no other")
    if scheme == "rediss+cluster":
        options["ssl"] = True

    def connect() -> Any:
        nodes = [ClusterNode(host, port) for host, port in found]
        return RedisCluster(startup_nodes=nodes, **options)

    return connect


_KINDS: dict[str, Callable[[str, str, dict[str, Any]], Callable[[], Any]]] = {
    "redis": _one,
    "rediss": _one,
    "unix": _unix,
    "sentinel": _sentinel,
    "cluster": _cluster,
}


def _hosts(scheme: str, text: str, port: int) -> list[tuple[str, int]]:
    hosts = []
    for part in text.split(",") if text else ["localhost"]:
        match = _HOST.fullmatch(part)
        if match is None or not 0 < int(match[2] or port) < 65536:
            raise ConfigurationError(
                f"the URL of a Redis looks like {_EXAMPLES}; "
                "special characters of a password are percent-encoded in it"
            )
        hosts.append((unquote(match[1]).strip("[]"), int(match[2] or port)))
    return hosts


def _set_db(scheme: str, path: str, options: dict[str, Any]) -> None:
    if path and not re.fullmatch(r"[0-9]{1,9}/?", path):
        raise ConfigurationError(
            f"the number of the database in a {scheme}:// URL is no number; "
            "special characters of a password are percent-encoded"
        )
    if path:
        options.setdefault("db", int(path.rstrip("/")))


def target_of(client: redis.Redis | RedisCluster) -> Target:
    """Returns what a URL would say of an application's client."""
    source: Any = client
    clustered = isinstance(client, RedisCluster)
    if isinstance(client, RedisCluster):
        kwargs: dict[str, Any] = client.get_connection_kwargs()
        nodes: Any = client.get_nodes()
        place = "redis+cluster://" + ",".join(sorted(node.name for node in nodes))
    else:
        source = client.connection_pool
        kwargs = source.connection_kwargs
        service = getattr(source, "service_name", None)
        if service is not None:
            kwargs = {**kwargs, **_sentinel_login(source)}
            place = f"redis+sentinel:///{quote(str(service))}/{kwargs.get('db', 0)}"
        elif "path" in kwargs:
            place = f"unix://{kwargs['path']}?db={kwargs.get('db', 0)}"
        else:
            host, port = kwargs.get("host", "localhost"), kwargs.get("port", 6379)
            place = f"redis://{host}:{port}/{kwargs.get('db', 0)}"
    secrets = [str(value) for name, value in kwargs.items() if value and is_secret(name)]
    return Target(lambda: source, clustered, place, tuple(secrets), 0)


def _sentinel_login(pool: Any) -> dict[str, Any]:
    options: dict[str, Any] = pool.sentinel_manager.sentinel_kwargs
    return {f"sentinel_{name}": value for name, value in options.items()}
