"""Private Redis servers for the tests: one, a primary with a replica and Sentinel, a cluster."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.services import Server, free_port, program, provide

SECRET = "Geh3im:@/?#" + secrets.token_hex(8)
"""A password with everything in it that a URL gives a meaning to."""

SERVICE = "states"
PATIENCE = 60.0
HURRY, CALM = 500, 30_000
"""Milliseconds of silence after which a primary is replaced: if that is the test, and if not."""

OWN_DATABASE = 1
"""Where nobody is who has a prefix of their own instead."""

Settings = dict[str, object]


class RedisServer(Server):
    """One server; what it acknowledged outlives it, unless its settings say otherwise.

    It need not outlive the machine: the operating system has it by then, and waiting for the disk
    makes the tests as slow as whatever else waits for it.
    """

    program = "redis-server"
    places = ("/usr/bin", "/usr/local/bin")

    def __init__(self, **settings: object) -> None:
        self.settings = settings
        super().__init__()

    def prepare(self) -> None:
        self.run("mkdir", str(self.data))
        self.socket = self.directory / "socket"

    def command(self) -> list[str]:
        settings: Settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "unixsocket": self.socket,
            "unixsocketperm": 777,
            "dir": self.data,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "no",
            "requirepass": SECRET,
            "masterauth": SECRET,
            "repl-diskless-sync-delay": 0,
            **{name.replace("_", "-"): value for name, value in self.settings.items()},
        }
        return [self.binary, *_as_arguments(settings)]

    def client(self, **options: Any) -> redis.Redis:
        """Returns an administrator's client that is quick to say that something is wrong."""
        options = {"password": SECRET, "retry": Retry(NoBackoff(), 0), **options}
        return redis.Redis(host="127.0.0.1", port=self.port, **options)

    def ping(self) -> None:
        with self.client(socket_timeout=5) as client:
            client.ping()

    def url(self, **changes: Any) -> str:
        parts = {"user": "", "password": SECRET, "host": "127.0.0.1", "db": 0, **changes}
        login = f"{parts['user']}:{quote(parts['password'], safe='')}@"
        return f"redis://{login}{parts['host']}:{self.port}/{parts['db']}"

    def fresh_database(self) -> str:
        """Empties a database for a store that has the prefix of everybody; returns its URL."""
        with self.client(db=OWN_DATABASE) as client:
            client.flushdb()
        return self.url(db=OWN_DATABASE)

    def empty(self) -> None:
        """Removes what earlier tests left: what goes through a database goes through theirs."""
        with self.client() as client:
            client.flushall()

    def runs(self) -> bool:
        """Returns whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def revive(self) -> None:
        """Makes it run again after whatever a test did to it."""
        self.resume()
        if not self.runs():
            self.start()


class SentinelServer(Server):
    """One Sentinel that watches a primary."""

    program = "redis-server"
    places = ("/usr/bin", "/usr/local/bin")

    def __init__(self, primary: RedisServer) -> None:
        self.primary = primary
        super().__init__()

    def prepare(self) -> None:
        self.configuration = self.directory / "sentinel.conf"
        settings: Settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.directory,
            "requirepass": SECRET,
            "sentinel": [
                f"monitor {SERVICE} 127.0.0.1 {self.primary.port} 1",
                f'auth-pass {SERVICE} "{SECRET}"',
                f"down-after-milliseconds {SERVICE} {CALM}",
                f"failover-timeout {SERVICE} 5000",
            ],
        }
        lines = []
        for name, value in settings.items():
            values = value if isinstance(value, list) else [f'"{value}"']
            lines += [f"{name} {each}" for each in values]
        self.configuration.write_text("\n".join(lines) + "\n")
        self.configuration.chmod(0o666)

    def command(self) -> list[str]:
        return [self.binary, str(self.configuration), "--sentinel"]

    def client(self) -> redis.Redis:
        """Returns a client of Sentinel itself."""
        return redis.Redis(port=self.port, password=SECRET)

    def ping(self) -> None:
        with self.client() as client:
            client.ping()


class Several:
    """Some servers that belong together."""

    servers: Sequence[Server] = ()

    def remove(self) -> None:
        for server in self.servers:
            server.remove()


class RedisSentinel(Several):
    """A primary, a replica, and a Sentinel."""

    def __init__(self) -> None:
        servers: list[Server] = []
        self.servers = servers
        try:
            one = RedisServer()
            servers.append(one)
            other = RedisServer(replicaof=f"127.0.0.1 {one.port}")
            servers.append(other)
            self.members = {one.port: one, other.port: other}
            self.sentinel = SentinelServer(one)
            servers.append(self.sentinel)
            self.wait_until_whole()
        except BaseException:
            self.remove()
            raise

    def url(self, *, db: int = 0, **options: str) -> str:
        options = {"sentinel_password": SECRET, **options}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items())
        login = f":{quote(SECRET, safe='')}@"
        # The first one is not there: the next one is asked.
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{self.sentinel.port}"
        return f"redis+sentinel://{login}{hosts}/{SERVICE}/{db}?{query}"

    def fresh_database(self) -> str:
        """Does the same as a server."""
        self.primary().fresh_database()
        return self.url(db=OWN_DATABASE)

    def primary(self) -> RedisServer:
        """Returns the server that Sentinel takes for the primary now."""
        return self.members[int(self._state()["port"])]

    def replicas(self) -> list[RedisServer]:
        """Returns the others."""
        primary = self.primary()
        return [server for server in self.members.values() if server is not primary]

    def wait_until_whole(self) -> None:
        """Waits until the primary has a replica that keeps up, and Sentinel knows both."""

        def whole() -> bool:
            state = self._state()
            with self.primary().client() as client:
                info: Any = client.info("replication")
            online = info["role"] == "master" and info.get("slave0", {}).get("state") == "online"
            return bool(online and state["num-slaves"] >= 1 and state["flags"] == "master")

        wait_until(whole, "the replica to keep up")

    def hurry(self, milliseconds: int = HURRY) -> None:
        """Makes Sentinel quick to take the primary for dead, until all is healed."""
        with self.sentinel.client() as client:
            client.sentinel_set(SERVICE, "down-after-milliseconds", milliseconds)

    def heal(self) -> None:
        """Makes everybody run again and waits until the replica keeps up.

        A primary of old is made a replica as an administrator does it: Sentinel would do so after
        ten seconds.
        """
        for server in self.members.values():
            server.revive()
        wait_until(lambda: self._state()["flags"] == "master", "a failover to end")
        primary = self.primary()
        for server in self.replicas():
            with server.client() as client:
                client.replicaof("127.0.0.1", primary.port)
        self.wait_until_whole()
        self.hurry(CALM)

    def _state(self) -> Any:
        with self.sentinel.client() as client:
            return client.sentinel_masters()[SERVICE]


class RedisCluster(Several):
    """Three primaries with a replica each."""

    def __init__(self) -> None:
        servers: list[RedisServer] = []
        self.servers = servers
        try:
            for _ in range(6):
                settings = {"cluster_enabled": "yes", "cluster_node_timeout": CALM}
                servers.append(RedisServer(**settings, cluster_port=free_port()))
            self.members: dict[int, RedisServer] = {server.port: server for server in servers}
            create = [program("redis-cli", *RedisServer.places), "-a", SECRET, "--no-auth-warning"]
            nodes = [f"127.0.0.1:{port}" for port in self.members]
            options = ["--cluster-replicas", "1", "--cluster-yes"]
            servers[0].run(*create, "--cluster", "create", *nodes, *options)
            self.wait_until_whole()
        except BaseException:
            self.remove()
            raise

    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{port}" for port in list(self.members)[:3])
        return f"redis+cluster://:{quote(SECRET, safe='')}@{nodes}"

    def fresh_database(self) -> str:
        """Does the same as a server; there is one database only."""
        self.empty()
        return self.url()

    def empty(self) -> None:
        """Removes what earlier tests left."""
        for server in self.members.values():
            with server.client() as client, contextlib.suppress(redis.ReadOnlyError):
                client.flushall()

    def client(self, **options: Any) -> redis.RedisCluster:
        """Returns an administrator's client."""
        port = next(port for port, server in self.members.items() if server.runs())
        return redis.RedisCluster(host="127.0.0.1", port=port, password=SECRET, **options)

    def primary_of(self, key: bytes) -> RedisServer:
        """Returns the server that has a key."""
        with self.client() as client:
            return self.members[int(client.get_node_from_key(key).port)]

    def wait_until_whole(self) -> None:
        """Waits until all agree that each of three primaries has a replica that keeps up."""

        def whole() -> bool:
            for server in self.members.values():
                with server.client() as client:
                    nodes: Any = client.cluster("nodes")
                    info: Any = client.info("replication")
                roles = sorted(node["flags"].split(",")[-1] for node in nodes.values())
                if roles != ["master"] * 3 + ["slave"] * 3:
                    return False
                keeps_up = info.get("master_link_status", "up") == "up"
                if not keeps_up or (info["role"] == "master" and info["connected_slaves"] != 1):
                    return False
                with server.client() as client:
                    state: Any = client.cluster("info")
                if state["cluster_state"] != "ok":
                    return False
            return True

        wait_until(whole, "the cluster to be whole")

    def hurry(self, milliseconds: int = HURRY) -> None:
        """Makes the members quick to take each other for dead, until all is healed."""
        for server in self.members.values():
            with server.client() as client:
                client.config_set("cluster-node-timeout", milliseconds)

    def heal(self) -> None:
        """Makes everybody run again and waits until the cluster is whole."""
        for server in self.members.values():
            server.revive()
        self.wait_until_whole()
        self.hurry(CALM)


class MovingSlot:
    """The slot of a key on its way to another primary of a cluster, as Redis documents it.

    Attributes:
        source: Whose it is.
        target: Whose it becomes.
    """

    def __init__(self, cluster: RedisCluster, key: bytes) -> None:
        self._cluster = cluster
        with cluster.client() as client:
            self._slot: int = client.keyslot(key)
        self.source = cluster.primary_of(key)
        self.target = next(
            server
            for server in cluster.members.values()
            if server is not self.source and _is_primary(server)
        )

    def begin(self) -> None:
        """Lets both know of it; no key is moved yet."""
        _set_slot(self.target, f"{self._slot} IMPORTING {_name(self.source)}")
        _set_slot(self.source, f"{self._slot} MIGRATING {_name(self.target)}")

    def move(self, *keys: bytes) -> None:
        """Moves keys of the slot; without any, all that are left."""
        with self.source.client() as client:
            left = keys or client.execute_command(f"CLUSTER GETKEYSINSLOT {self._slot} 10")
            there = ("127.0.0.1", self.target.port, "", 0, 5000, "AUTH", SECRET)
            for key in left:
                client.execute_command("MIGRATE", *there, "KEYS", key)

    def end(self) -> None:
        """Says whose it is now."""
        for server in (self.target, self.source):
            _set_slot(server, f"{self._slot} NODE {_name(self.target)}")

    def give_back(self) -> None:
        """Undoes it, when the slot is empty; it ends when all know it.

        It is moved back: of two primaries that say that a slot is theirs, the one is believed that
        imported it last, and whoever only says so may be told otherwise by what is on its way.
        """
        self.source, self.target = self.target, self.source
        self.begin()
        self.end()
        wait_until(self._is_known, "all to know whose a slot is")

    def _is_known(self) -> bool:
        members = self._cluster.members.values()
        return all(_owner(member, self._slot) == self.target.port for member in members)


def _set_slot(server: RedisServer, what: str) -> None:
    with server.client() as client:
        client.execute_command(f"CLUSTER SETSLOT {what}")


def _is_primary(server: RedisServer) -> bool:
    with server.client() as client:
        role: Any = client.role()
    return bool(role[0] in (b"master", "master"))


def _name(server: RedisServer) -> str:
    with server.client(decode_responses=True) as client:
        name: Any = client.execute_command("CLUSTER MYID")
    return str(name)


def _owner(server: RedisServer, slot: int) -> Any:
    """Returns the port of whose a slot is, as a server knows it."""
    with server.client() as client:
        parts: Any = client.cluster("slots")
    return next((owner[1] for first, last, owner, *_ in parts if first <= slot <= last), None)


_NOT_YET = (redis.RedisError, redis.exceptions.RedisClusterException, OSError, KeyError)
"""What a question may raise in the middle of a failover."""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Waits for something that happens soon, and fails if it does not."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(*_NOT_YET):
            if condition():
                return
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def _as_arguments(settings: Settings) -> list[str]:
    arguments = []
    for name, value in settings.items():
        arguments += [f"--{name}", *(str(value).split() if name == "replicaof" else [str(value)])]
    return arguments


def fresh_prefix() -> str:
    """Returns a prefix that nobody has used."""
    return f"test [*?\\] {secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis server of this test run."""
    yield from provide(RedisServer)


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[RedisSentinel]:
    """A primary, a replica and a Sentinel of this test run."""
    yield from provide(RedisSentinel)


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """A cluster of this test run."""
    yield from provide(RedisCluster)
