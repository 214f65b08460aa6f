"""Where the contenders keep what they keep: one temporary directory, and private servers."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.redis_services import RedisServer
from tests.services import MariaDBServer, Missing, PostgreSQLServer


class RoomyPostgreSQL(PostgreSQLServer):
    """A server whose cache holds a million conversations, as one in production would."""

    def command(self) -> list[str]:
        return [*super().command(), "--shared_buffers=512MB"]


class RoomyMariaDB(MariaDBServer):
    """A server whose cache holds a million conversations, as one in production would."""

    def command(self) -> list[str]:
        return [*super().command(), "--innodb-buffer-pool-size=512M"]


class Places:
    """Gives out fresh places; servers are started when they are first asked for."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._servers: dict[str, Any] = {}
        self._count = 0
        self.directory = Path(tempfile.mkdtemp(prefix="salmon-state-bench-"))
        self._open.callback(shutil.rmtree, self.directory, ignore_errors=True)

    def __enter__(self) -> Places:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def _server(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._servers:
            self._servers[name] = make()
            self._open.callback(self._servers[name].remove)
        return self._servers[name]

    @property
    def postgresql(self) -> PostgreSQLServer:
        server: PostgreSQLServer = self._server("postgresql", RoomyPostgreSQL)
        return server

    @property
    def mariadb(self) -> MariaDBServer:
        server: MariaDBServer = self._server("mariadb", RoomyMariaDB)
        return server

    def redis(self, fsync: str = "everysec") -> RedisServer:
        """Returns a server with an append-only file."""
        server: RedisServer = self._server(f"redis {fsync}", lambda: RedisServer(appendfsync=fsync))
        return server

    def path(self, name: str) -> Path:
        """Returns a path at which there is nothing."""
        self._count += 1
        return self.directory / f"{self._count:04}-{name}"

    def url(self, kind: str) -> str:
        """Returns the URL of an empty place for a store of ours."""
        if kind == "memory":
            return "memory://"
        if kind in ("sqlite", "shelve"):
            return f"{kind}:///{self.path(kind)}"
        if kind == "redis":
            server = self.redis()
            with server.client() as client:
                client.flushdb()
            return server.url()
        database: PostgreSQLServer | MariaDBServer = getattr(self, kind)
        return database.fresh_database()


@contextlib.contextmanager
def skipped_if_missing(what: str) -> Iterator[None]:
    """Goes on without a server that is not installed, and says so."""
    try:
        yield
    except Missing as missing:
        print(f"  {what}: left out, {missing}", file=sys.stderr)
