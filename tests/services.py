"""Private database servers for the tests: own data, own ports on loopback, stopped at the end.

A server that is not installed skips the tests that need it; with ``REQUIRE_SERVICES=1``, as in
CI, it fails them.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import hashlib
import hmac
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg
import pymysql
import pytest

from salmon_state import StorageUnavailable
from tests.janitor import Janitor

Found = TypeVar("Found")

ENVIRONMENT = dict(os.environ)
"""What this run was started with, for what asks other machines."""

# PyMySQL reads all certification authorities of the machine for each connection that it makes,
# which takes longer than most tests. Nobody here asks for one.
os.environ["SSL_CERT_FILE"] = os.devnull

JANITOR = Janitor()
PASSWORD = "Geh3im-" + secrets.token_hex(8)


class Missing(Exception):
    """A server is not installed here."""


def free_port() -> int:
    """Returns a port on loopback that nobody listens on, and that no connection is given.

    A server that is killed would find its own taken when it starts again, if it were one of those
    that Linux gives to outgoing connections, which begin at 32768. None is given twice, nor to two
    of the processes that run tests side by side: somebody may be about to listen on the first, as a
    server does for clients and for its cluster, or again when it has been restarted.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _WORKERS
    while True:
        port = 10_000 + secrets.randbelow(22_768 // _WORKERS) * _WORKERS + worker
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


_given: set[int] = set()
_WORKERS = 16


def again(call: Callable[[], Found]) -> Found:
    """Makes a call that is to succeed as often as the store is unavailable; returns what it does.

    A store whose short timeout the test needs may be refused by a server that is only slow.
    """
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except StorageUnavailable:
            if time.monotonic() > deadline:
                raise


def program(name: str, *places: str) -> str:
    """Returns the path of an installed program, looking beside ``PATH`` where servers live."""
    found = shutil.which(name)
    for place in places:
        candidates = sorted(glob.glob(f"{place}/{name}"))
        found = found or (candidates[-1] if candidates else None)
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


class Server:
    """One server process in a directory of its own, run by an ordinary user even under root.

    Args:
        durable: Whether what it has acknowledged outlives the machine. What outlives the server,
            killed as it may be, is the same without, and most tests take half as long.
    """

    users: tuple[str, ...] = ("nobody",)
    program = ""
    places: tuple[str, ...] = ("/usr/sbin", "/usr/local/sbin")

    def __init__(self, *, durable: bool = True) -> None:
        self.durable = durable
        self.binary = program(self.program, *self.places)
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"salmon-state-{self.program}-"))
        self.data = self.directory / "data"
        self.user: str | None = None
        if os.geteuid() == 0:  # database servers refuse to run as root
            self.user = next(name for name in self.users if _exists(name))
            shutil.chown(self.directory, self.user)
        self.process: subprocess.Popen[bytes] | None = None
        self.unused: list[str] = []
        """Databases that were lent and may be lent again."""
        self.prepare()
        self.start()
        self.set_up()

    def prepare(self) -> None:
        """Makes what the server needs before its first start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def set_up(self) -> None:
        """Makes what the tests need, once, in the running server."""

    def ping(self) -> None:
        """Raises while the server does not answer."""
        raise NotImplementedError

    def url(self, **changes: Any) -> str:
        raise NotImplementedError

    def run(self, *command: str, **options: Any) -> None:
        done = subprocess.run(
            command,
            cwd=self.directory,
            user=self.user,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **options,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed: {done.stdout.decode()[-2000:]}")

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                user=self.user,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        JANITOR.watch(self.directory, self.process.pid)
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.ping()
            except Exception as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    text = (self.directory / "server.log").read_text(errors="replace")
                    raise RuntimeError(f"{self.program} did not start: {text[-2000:]}") from error
                time.sleep(0.05)

    def kill(self) -> None:
        """Ends the server and all its processes as a power failure would: SIGKILL."""
        assert self.process is not None
        killed = self._signal(signal.SIGKILL)
        self.process.wait()
        while _alive(killed):  # it would not start again before they have let go of its memory
            time.sleep(0.01)

    def stop(self) -> None:
        """Stops the server; harmless when it does not run."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT if self.program == "postgres" else 15)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def pause(self) -> None:
        """Makes the server say nothing, without closing a connection."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused server go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> list[int]:
        # One by one, because each of PostgreSQL's processes leads a process group of its own.
        assert self.process is not None
        if number != signal.SIGCONT:
            os.kill(self.process.pid, signal.SIGSTOP)  # so that it makes no more
        processes = [
            self.process.pid,
            *(int(pid) for pid in _ps("pid=", "--ppid", str(self.process.pid))),
        ]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        return processes

    def remove(self) -> None:
        """Ends the server, which need not put its data in order, and removes them."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        JANITOR.forget(self.directory)


class PostgreSQLServer(Server):
    users = ("postgres", "nobody")
    program = "postgres"
    places = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin")

    def prepare(self) -> None:
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        initdb = [program("initdb", *self.places), "-D", str(self.data), "-U", "salmon"]
        options = ["--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "--encoding=UTF8"]
        self.run(*initdb, *options, "--locale=C.UTF-8")

    def set_up(self) -> None:
        # Clients would hash a password 4096 times for each of the thousands of connections.
        with self.connect() as connection:
            connection.execute(f"ALTER ROLE salmon PASSWORD '{_hashed_once(PASSWORD)}'")

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.directory,
            "max_connections": 150,
            "shared_buffers": "64MB",
            "fsync": "on" if self.durable else "off",
            # In its own directory, that goes with it: those of killed servers would stay for ever.
            "dynamic_shared_memory_type": "mmap",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self.binary, "-D", str(self.data), *options]

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Returns an administrator's connection."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="salmon",
            password=PASSWORD,
            dbname=database,
            autocommit=True,
        )

    def ping(self) -> None:
        self.connect().close()

    def url(self, **changes: Any) -> str:
        return _url("postgresql+psycopg", self.port, {"database": "postgres", **changes})

    def fresh_database(self) -> str:
        """Creates an empty database and returns its URL."""
        name = "test_" + secrets.token_hex(6)
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(database=name)

    @contextlib.contextmanager
    def lend_database(self) -> Iterator[str]:
        """Gives one that was used before, if there is one: to empty it is much quicker."""
        url = self._emptied(self.unused.pop()) if self.unused else self.fresh_database()
        yield url
        self.unused.append(url)

    def _emptied(self, url: str) -> str:
        name = url.rpartition("/")[2]
        with self.connect() as connection:
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(end, [name])
            connection.execute(f"ALTER DATABASE {name} RESET ALL")
        with self.connect(name) as connection:
            schemas = (
                "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)'"
            )
            for (schema,) in connection.execute(schemas).fetchall():
                connection.execute(f'DROP SCHEMA "{schema}" CASCADE')
            connection.execute("CREATE SCHEMA public")
            connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
        return url


class PostgreSQLStandby(PostgreSQLServer):
    """A streaming standby of another server, under the application name ``standby``."""

    def __init__(self, primary: PostgreSQLServer) -> None:
        self.primary = primary
        super().__init__(durable=primary.durable)

    def prepare(self) -> None:
        backup = [program("pg_basebackup", *self.places), "-D", str(self.data), "--no-sync"]
        source = f"host=127.0.0.1 port={self.primary.port} user=salmon password={PASSWORD}"
        place = ["-d", f"{source} application_name=standby", "--checkpoint=fast"]
        self.run(*backup, *place, "--write-recovery-conf")

    def set_up(self) -> None:
        """Has what its primary has."""

    def promote(self) -> None:
        """Makes it a primary of its own."""
        with self.connect() as connection:
            connection.execute("SELECT pg_promote()")


class MariaDBServer(Server):
    users = ("mysql", "nobody")
    program = "mariadbd"

    def prepare(self) -> None:
        install = program("mariadb-install-db", "/usr/bin")
        options = [f"--datadir={self.data}", "--auth-root-authentication-method=normal"]
        # Servers that share a directory for temporary files remove each other's when they start.
        self.run(install, "--no-defaults", *options, "--skip-test-db", f"--tmpdir={self.directory}")

    def command(self) -> list[str]:
        settings = {
            "datadir": self.data,
            "tmpdir": self.directory,
            "socket": self.directory / "socket",
            "pid-file": self.directory / "pid",
            "port": self.port,
            "bind-address": "127.0.0.1",
            "max-connections": 150,
            "innodb-buffer-pool-size": "64M",
            "max-allowed-packet": "64M",  # for mails of 20 MB
            "innodb-flush-log-at-trx-commit": 1 if self.durable else 2,
        }
        return [self.binary, "--no-defaults", *(f"--{k}={v}" for k, v in settings.items())]

    def set_up(self) -> None:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE USER salmon@'%' IDENTIFIED BY '{PASSWORD}'")
            cursor.execute("GRANT ALL ON *.* TO salmon@'%'")
            cursor.execute("DROP USER IF EXISTS ''@localhost")

    def connect(self, database: str | None = None) -> pymysql.Connection[Any]:
        """Returns an administrator's connection."""
        return pymysql.connect(
            unix_socket=str(self.directory / "socket"),
            user="root",
            database=database,
            autocommit=True,
        )

    def ping(self) -> None:
        with socket.socket(socket.AF_UNIX) as probe:  # PyMySQL forgets one that is refused
            probe.connect(str(self.directory / "socket"))
        self.connect().close()

    def url(self, **changes: Any) -> str:
        return _url("mysql+pymysql", self.port, {"database": "mysql", **changes})

    def fresh_database(self) -> str:
        """Creates an empty database and returns its URL."""
        name = "test_" + secrets.token_hex(6)
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        return self.url(database=name)


def _url(driver: str, port: int, parts: dict[str, Any]) -> str:
    user, password = parts.get("user", "salmon"), parts.get("password", PASSWORD)
    return f"{driver}://{user}:{password}@127.0.0.1:{port}/{parts['database']}"


def _hashed_once(password: str) -> str:
    """Returns what PostgreSQL keeps of a password, with one iteration; see RFC 5803."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    client, server = (hmac.digest(salted, key, "sha256") for key in (b"Client Key", b"Server Key"))
    parts = [
        base64.b64encode(part).decode() for part in (salt, hashlib.sha256(client).digest(), server)
    ]
    return "SCRAM-SHA-256$1:{}${}:{}".format(*parts)


def _ps(what: str, *which: str) -> list[str]:
    found = subprocess.run(["ps", "-o", what, *which], capture_output=True, text=True, check=False)
    return found.stdout.split()


def _alive(processes: list[int]) -> bool:
    states = _ps("stat=", "-p", ",".join(map(str, processes)))
    return any(not state.startswith("Z") for state in states)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


@contextlib.contextmanager
def lent_database(server: Any) -> Iterator[str]:
    """Gives the URL of an empty database on a server, the caller's until the block ends."""
    if isinstance(server, PostgreSQLServer):  # where making one takes longest
        with server.lend_database() as url:
            yield url
    else:
        yield server.fresh_database()


def fresh_url(request: pytest.FixtureRequest, kind: str, directory: Path) -> str:
    """Returns the URL of an empty store of a kind.

    Args:
        request: That of the fixture that asks.
        kind: ``memory``, ``shelve``, ``sqlite``, or the fixture of a server.
        directory: Where its files are, if it has some.
    """
    here = {
        "memory": "memory://",
        "shelve": f"shelve:///{directory}/states",
        "sqlite": f"sqlite:///{directory}/states.db",
    }
    if kind in here:
        return here[kind]
    lent = contextlib.ExitStack()
    request.addfinalizer(lent.close)
    return lent.enter_context(lent_database(request.getfixturevalue(kind)))


class Removable(Protocol):
    """What is there until it is removed."""

    def remove(self) -> None:
        """Ends it."""


def provide(make: Callable[[], Removable]) -> Iterator[Any]:
    """Yields a running server, and removes it at the end."""
    try:
        server = make()
    except Missing as missing:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"{missing}, and REQUIRE_SERVICES=1 promises it")
        pytest.skip(f"{missing}: install it to run this test")
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQLServer]:
    """A PostgreSQL server of this test run."""
    yield from provide(lambda: PostgreSQLServer(durable=False))


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDBServer]:
    """A MariaDB server of this test run."""
    yield from provide(lambda: MariaDBServer(durable=False))
