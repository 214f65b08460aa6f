"""Which URLs and clients can work, and that no password is shown of those that cannot."""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import redis.asyncio
from redis.cluster import RedisCluster as ClusterClient
from redis.connection import ConnectionPool, SSLConnection
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedSSLConnection

from salmon_state import ConfigurationError, StorageError, StorageUnavailable
from salmon_state.stores.redis import RedisStorage
from salmon_state.stores.redis.urls import parse_target
from tests.redis_services import (
    SECRET,
    SERVICE,
    RedisCluster,
    RedisSentinel,
    RedisServer,
    wait_until,
)
from tests.services import free_port

PASSWORD = "hunter2/@:%&?#é"
ENCODED = quote(PASSWORD, safe="")
CA = __file__
"""A file that is there."""
WRONG = "".join(["hun", "ter2"])  # not as it is in the source, which tracebacks show


def pool_of(url: str) -> Any:
    return parse_target(url, 5.0).connect()


@contextmanager
def refusal(
    caplog: pytest.LogCaptureFixture, kind: type[StorageError], *secrets: str
) -> Iterator[list[str]]:
    """Gives the message; nothing that is shown or logged has a secret in it."""
    message: list[str] = []
    caplog.set_level(logging.DEBUG)
    with pytest.raises(kind) as caught:
        yield message
    error: BaseException | None = caught.value
    assert type(error) is kind
    texts = [caplog.text, *traceback.format_exception(error)]
    while error is not None:
        texts += [str(error), repr(error), str(error.args), getattr(error, "detail", "")]
        error = error.__cause__
    message.append(caught.value.detail)
    for secret in secrets:
        assert not any(secret in text for text in texts), "a secret got out"


# ---------------------------------------------------------------- what a URL says


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", ("localhost", 6379, None, None, None)),
        ("redis://h", ("h", 6379, None, None, None)),
        ("REDIS://h/", ("h", 6379, None, None, None)),
        ("redis://h:1/2", ("h", 1, 2, None, None)),
        ("redis://h/?db=3", ("h", 6379, 3, None, None)),
        ("redis://h/2?db=3", ("h", 6379, 3, None, None)),
        ("redis://[::1]:7/2", ("::1", 7, 2, None, None)),
        ("redis://[fe80::1%25eth0]/2", ("fe80::1%eth0", 6379, 2, None, None)),
        (f"redis://:{ENCODED}@h/0", ("h", 6379, 0, None, PASSWORD)),
        (f"redis://us%40er:{ENCODED}@h", ("h", 6379, None, "us@er", PASSWORD)),
        ("redis://user@h", ("h", 6379, None, "user", None)),
        (f"redis://h?username=u&password={ENCODED}", ("h", 6379, None, "u", PASSWORD)),
    ],
)
def test_one_server(url: str, expected: tuple[Any, ...]) -> None:
    options = pool_of(url).connection_kwargs
    names = ("host", "port", "db", "username", "password")
    assert tuple(options.get(name) for name in names) == expected
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 5.0
    assert options["retry"]._retries == 0


def test_options_of_redis_py() -> None:
    pool = pool_of(
        f"rediss://h?ssl_ca_certs={CA}&ssl_check_hostname=no&socket_timeout=1.5&protocol=3"
        "&max_connections=7&client_name=salmon&health_check_interval=30&socket_keepalive=yes"
    )
    assert pool.connection_class is SSLConnection
    assert parse_target("redis://h?max_connections=7", 5.0).limit == 7
    expected = {"ssl_ca_certs": CA, "ssl_check_hostname": False, "socket_timeout": 1.5}
    expected |= {"client_name": "salmon", "health_check_interval": 30}
    assert {name: pool.connection_kwargs[name] for name in expected} == expected
    assert int(pool.connection_kwargs["protocol"]) == 3


def test_a_socket() -> None:
    pool = pool_of(f"unix://user:{ENCODED}@/run/a%20b%40c/socket?db=3")
    expected = {"path": "/run/a b@c/socket", "db": 3, "username": "user", "password": PASSWORD}
    assert {name: pool.connection_kwargs[name] for name in expected} == expected


def test_sentinel() -> None:
    url = (
        f"rediss+sentinel://user:{ENCODED}@one,[::1]:7,two:8/my%2Fstates/3"
        f"?sentinel_username=watcher&sentinel_password={ENCODED}&ssl_ca_certs={CA}"
    )
    pool = pool_of(url)
    assert isinstance(pool, SentinelConnectionPool)
    assert (pool.service_name, pool.connection_kwargs["db"]) == ("my/states", 3)
    assert pool.connection_class is SentinelManagedSSLConnection
    assert pool.connection_kwargs["username"] == "user"
    watchers = [watcher.connection_pool for watcher in pool.sentinel_manager.sentinels]
    kwargs = [watcher.connection_kwargs for watcher in watchers]
    assert [(each["host"], each["port"]) for each in kwargs] == [
        ("one", 26379),
        ("::1", 7),
        ("two", 8),
    ]
    for each, watcher in zip(kwargs, watchers, strict=True):
        assert (each["username"], each["password"]) == ("watcher", PASSWORD)
        assert each["ssl_ca_certs"] == CA
        assert each["socket_timeout"] == 5.0
        assert each["retry"]._retries == 0
        assert watcher.connection_class is SSLConnection


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://h/1?db=2", "redis://h/1?db=2"),
        ("redis://h?db=2&protocol=3", "redis://h?db=2"),
        (f"unix://:{ENCODED}@/run/socket?db=3", "unix://:***@/run/socket?db=3"),
        ("redis+sentinel://h/s/1?db=0", "redis+sentinel://h/s/1?db=0"),
        ("redis://h/1?protocol=3", "redis://h/1"),
    ],
)
def test_the_database_is_shown_that_is_used(url: str, place: str) -> None:
    assert parse_target(url, 5.0).place == place


BAD_URLS = [
    *("", "redis", "redis:", "redis:/h", "http://h", "redis+proxy://h", "sqlite:///x", "://h"),
    *("redis://h:port", "redis://h:0", "redis://h:65536", "redis://h:123456", "redis://h/db"),
    *("redis://h/-1", "redis://h/0/1", "redis://h#0", "redis://h,h2", "redis://h h2"),
    *("redis://h?db=x", "redis://h?nonsense=1", "redis://h?ssl_ca_certs=x", "redis://[::1"),
    *("redis://::1", "redis://h?socket_timeout=soon", "redis://h?sentinel_password=x"),
    *("unix://", "unix://h/socket", "unix:///", "unix://relative"),
    *("redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel://h//0"),
    *("redis+sentinel://h/s/x", "redis+sentinel://,/s", "redis+sentinel://h,/s"),
    *("redis+cluster://h/1", "redis+cluster://h?db=1", "redis+cluster://,h"),
    *(7, b"redis://h", ["redis://h"]),
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_that_cannot_work(url: Any) -> None:
    with pytest.raises(ConfigurationError):
        RedisStorage(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@h:port/0",
        "redis://user:hunter2@h/hunter2",
        "redis://user:12?hunter2@h/0",
        "redis://user:12?hunter2=3@h/0",
        "redis://user:hunter2#@h/0",
        "redis://user:hunter2@h,h2/0",
        "redis://h?password=hunter2&nonsense=1",
        "redis+sentinel://user:hunter2@h",
        "redis+sentinel://h/s?sentinel_password=hunter2&nonsense=1",
        "redis+cluster://user:hunter2@h/7",
        "unix://user:hunter2@h/x",
        "http://user:hunter2@h",
        "hunter2",
    ],
)
def test_no_password_in_what_is_refused(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with refusal(caplog, ConfigurationError, "hunter2"):
        RedisStorage(url)


def test_a_url_or_a_client() -> None:
    with pytest.raises(ConfigurationError, match="URL or a client"):
        RedisStorage()
    with pytest.raises(ConfigurationError, match="URL or a client"):
        RedisStorage("redis://", client=redis.Redis())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("timeout", value) for value in (0, -1, "5", True, None, float("inf"), float("nan"))),
        *(("lease", value) for value in (0, 0.01, "5", True, None)),
        *(("wait_replicas", value) for value in (-1, 1.5, "1", True, None)),
        *(("wait_timeout", value) for value in (0, -1, "1", 5, 6)),
    ],
)
def test_options_that_cannot_work(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        RedisStorage("redis://", **{name: value})


def test_waiting_for_replicas_longer_than_for_the_server() -> None:
    with pytest.raises(ConfigurationError, match="wait_timeout"):
        RedisStorage("redis://", wait_timeout=2, timeout=2)


# ---------------------------------------------------------------- clients


def test_clients_that_cannot_work() -> None:
    for client in (object(), "redis://h", redis.asyncio.Redis(), redis.Redis):
        with pytest.raises(ConfigurationError, match="client must be"):
            RedisStorage(client=client)


def test_a_client_that_caches(server: RedisServer) -> None:
    cache = pytest.importorskip("redis.cache")
    with (
        server.client(protocol=3, cache_config=cache.CacheConfig()) as client,
        pytest.raises(ConfigurationError, match="cache"),
    ):
        RedisStorage(client=client)


def test_a_client_of_replicas(sentinel: RedisSentinel) -> None:
    options: dict[str, Any] = {"password": SECRET}
    watchers = Sentinel([("127.0.0.1", sentinel.sentinel.port)], sentinel_kwargs=options)
    with pytest.raises(ConfigurationError, match="master_for"):
        RedisStorage(client=watchers.slave_for(SERVICE, **options))
    client: Any = watchers.master_for(SERVICE, **options)
    with client, RedisStorage(client=client) as store:
        assert SERVICE in repr(store)
        assert SECRET not in repr(store)
        store.ping()


def test_a_client_that_nobody_else_has(
    server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When redis-py's client is deleted it closes all connections, those in use included."""
    client = server.client()
    closed: list[str] = []
    monkeypatch.setattr(client.connection_pool, "close", lambda: closed.append("early"))
    with RedisStorage(client=client, prefix=prefix) as store:
        del client
        gc.collect()
        store.ping()
    assert closed == []


def test_connections_to_sentinel_are_closed(sentinel: RedisSentinel, prefix: str) -> None:
    with sentinel.sentinel.client() as client:

        def connections() -> int:
            return len(list(client.client_list()))

        before = connections()
        store = RedisStorage(sentinel.url(), prefix=prefix)
        assert connections() > before
        store.close()
        wait_until(lambda: connections() <= before, "Sentinel to see them closed")


def test_whose_connections_are_closed(server: RedisServer, prefix: str) -> None:
    with server.client() as client:
        store = RedisStorage(client=client, prefix=prefix)
        store.set("app", "a@x", "A")
        store.close()
        assert client.connection_pool._available_connections[0]._sock is not None
    store = RedisStorage(server.url(), prefix=prefix)
    pool = store._server.source
    store.close()
    assert isinstance(pool, ConnectionPool)
    assert all(each._sock is None for each in pool._available_connections)


# ---------------------------------------------------------------- repr


def test_repr_shows_where_and_no_password(
    server: RedisServer, sentinel: RedisSentinel, cluster: RedisCluster
) -> None:
    urls = [server.url(), sentinel.url(), cluster.url(), f"unix://:{ENCODED}@/x"]
    urls[3] = f"unix://:{quote(SECRET, safe='')}@{server.socket}?db=0"
    clients: list[Any] = [server.client(), cluster.client()]
    for store in (
        *(RedisStorage(url, prefix="é\n") for url in urls),
        *(RedisStorage(client=client, prefix="é\n") for client in clients),
    ):
        with store:
            text = repr(store)
            assert text.startswith("<RedisStorage ")
            assert text.isascii()
            assert text.isprintable()
            assert SECRET not in text
            assert quote(SECRET, safe="") not in text
            store.ping()
    assert repr(RedisStorage(server.url())) == (
        f"<RedisStorage redis://:***@127.0.0.1:{server.port}/0 'salmon_state'>"
    )
    for client in clients:
        client.close()


# ---------------------------------------------------------------- what the server refuses


def test_wrong_password(
    server: RedisServer,
    sentinel: RedisSentinel,
    cluster: RedisCluster,
    caplog: pytest.LogCaptureFixture,
) -> None:
    right = quote(SECRET, safe="")
    for url in (server.url(), sentinel.url(), cluster.url(), f"unix://:{right}@{server.socket}"):
        with refusal(caplog, ConfigurationError, WRONG, SECRET, right):
            RedisStorage(url.replace(f":{right}@", f":{WRONG}@"))
        with refusal(caplog, ConfigurationError, SECRET, right):
            RedisStorage(url.replace(f":{right}@", ""))
    with refusal(caplog, ConfigurationError, WRONG, SECRET, right) as message:
        RedisStorage(sentinel.url(sentinel_password=WRONG))
    assert "sentinel_password" in message[0]
    with (
        server.client(password=WRONG) as client,
        refusal(caplog, ConfigurationError, WRONG, SECRET),
    ):
        RedisStorage(client=client)


def test_a_database_that_is_not_there(server: RedisServer) -> None:
    with pytest.raises(ConfigurationError, match=r"DB index|Invalid Database"):
        RedisStorage(server.url(db=99))


def test_a_service_that_sentinel_does_not_know(sentinel: RedisSentinel) -> None:
    with pytest.raises(ConfigurationError, match=f"'nobody': it knows {SERVICE}"):
        RedisStorage(sentinel.url().replace(f"/{SERVICE}/", "/nobody/"))


def test_the_wrong_kind(
    server: RedisServer, sentinel: RedisSentinel, cluster: RedisCluster
) -> None:
    with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
        RedisStorage(next(iter(cluster.members.values())).url())
    with pytest.raises(ConfigurationError, match="Cluster mode is not enabled"):
        RedisStorage(server.url().replace("redis://", "redis+cluster://"))
    watcher = server.url().replace(str(server.port), str(sentinel.sentinel.port))
    with pytest.raises(ConfigurationError, match=r"redis\+sentinel://|Sentinel"):
        RedisStorage(watcher.replace("/0", ""))
    url = server.url().replace("redis://", "redis+sentinel://").replace("/0", "/states")
    with pytest.raises(ConfigurationError, match="unknown command"):
        RedisStorage(f"{url}?sentinel_password={quote(SECRET, safe='')}")


def test_a_replica_is_no_place_to_write(sentinel: RedisSentinel) -> None:
    with pytest.raises(StorageUnavailable) as caught:
        RedisStorage(sentinel.replicas()[0].url())
    assert "read only replica" in caught.value.detail


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "volatile-ttl", "noeviction"])
@pytest.mark.parametrize("ttl", [None, 60])
def test_a_server_that_removes_states(
    server: RedisServer, raw: Any, caplog: pytest.LogCaptureFixture, policy: str, ttl: int | None
) -> None:
    raw.config_set("maxmemory", "100mb")
    raw.config_set("maxmemory-policy", policy)
    removes = policy.startswith("allkeys") or (policy.startswith("volatile") and ttl is not None)
    try:
        with RedisStorage(server.url(), ttl=ttl) as store:
            assert (f"maxmemory-policy is {policy}" in caplog.text) == removes
            caplog.clear()
            store.ping()  # is asked often, and says it once
            assert not caplog.records
    finally:
        raw.config_set("maxmemory", "0")
        raw.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize(
    ("appendonly", "save", "forgets"), [("no", "", True), ("no", "60 1", False), ("yes", "", False)]
)
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_server_that_keeps_nothing(
    caplog: pytest.LogCaptureFixture, appendonly: str, save: str, forgets: bool, protocol: int
) -> None:
    server = RedisServer(appendonly=appendonly, save=save)
    try:
        RedisStorage(f"{server.url()}?protocol={protocol}").close()
        assert ("forgets all states" in caplog.text) == forgets
        with server.client() as client:
            client.config_set("requirepass", "")
            client.acl_setuser("default", enabled=True, commands=["-config"])
        caplog.clear()
        RedisStorage(f"redis://127.0.0.1:{server.port}").close()
        assert not caplog.records  # what it does not tell
    finally:
        server.remove()


@pytest.mark.parametrize("protocol", ["", "?protocol=2", "?protocol=3"])
def test_a_server_that_asks_for_a_login(server: RedisServer, protocol: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisStorage(f"redis://127.0.0.1:{server.port}{protocol}")
    assert "asks for a login: a URL has it as user:password@" in str(caught.value)
    assert "HELLO" not in str(caught.value)


def test_a_sentinel_that_asks_for_a_login(sentinel: RedisSentinel) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisStorage(sentinel.url().partition("?")[0])
    assert "Sentinel asks for a login, which its URL gives as sentinel_user" in str(caught.value)
    assert "HELLO" not in str(caught.value)


@pytest.mark.parametrize(
    "form",
    [
        "redis://:{password}@127.0.0.1:{port}",
        "unix://:{password}@{path}",
        "redis+sentinel://:{password}@127.0.0.1:{port}/s?sentinel_password={password}",
        "redis+cluster://:{password}@127.0.0.1:{port}",
        "rediss://:{password}@127.0.0.1:{port}",
    ],
)
def test_nobody_there(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = form.format(password=ENCODED, port=free_port(), path=tmp_path / "socket")
    with refusal(caplog, StorageUnavailable, PASSWORD, ENCODED):
        RedisStorage(url)


def test_clients_of_the_cluster_are_named(cluster: RedisCluster) -> None:
    with cluster.client() as client:
        assert isinstance(client, ClusterClient)
        with RedisStorage(client=client) as store:
            assert repr(store).startswith("<RedisStorage redis+cluster://127.0.0.1:")
