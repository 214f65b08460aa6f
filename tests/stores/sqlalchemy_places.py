"""Where a SQL store is in a test, and what its administrator sees there."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from tests.services import PASSWORD

HANG = 60.0
"""Seconds after which a test is taken to hang; nothing waits that long when all is well."""


RIGHTS = (
    *(f"SELECT, INSERT, UPDATE, DELETE ON salmon_state{suffix}" for suffix in ("", "_entries")),
    "SELECT ON salmon_state_version",
)
"""What a user needs at least."""


class Place:
    """One database: its kind, its URL, and the server it is on, if it needs one."""

    def __init__(self, kind: str, url: str, server: Any = None) -> None:
        self.kind = kind
        self.url = url
        self.server = server
        self.database = sa.make_url(url).database or ""

    @contextlib.contextmanager
    def administrator(self) -> Iterator[Any]:
        """Gives a cursor of the driver that may do everything, past the store."""
        if self.server is None:
            connection: Any = sqlite3.connect(self.database, isolation_level=None)
        else:
            connection = self.server.connect(self.database)
        with contextlib.closing(connection):
            yield connection.cursor()

    def run(self, *statements: str) -> None:
        """Runs statements as the administrator."""
        with self.administrator() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Returns the rows of a query of the administrator."""
        with self.administrator() as cursor:
            cursor.execute(statement)
            return [tuple(row) for row in cursor.fetchall()]

    def connections(self) -> int:
        """Returns how many connections to this database its server sees, but for ours."""
        if self.kind == "postgresql":
            query = (
                "SELECT count(*) FROM pg_stat_activity "
                f"WHERE datname = '{self.database}' AND pid <> pg_backend_pid()"
            )
        else:
            query = (
                "SELECT count(*) FROM information_schema.processlist "
                f"WHERE db = '{self.database}' AND id <> connection_id()"
            )
        count: int = self.rows(query)[0][0]
        return count

    def waiting(self) -> list[int]:
        """Returns which connections to this database wait for somebody else's lock."""
        if self.kind == "postgresql":
            waits = "wait_event_type = 'Lock' AND datname = current_database()"
            query = f"SELECT pid FROM pg_stat_activity WHERE {waits}"
        else:
            time.sleep(0.15)  # whoever asks more often than each 0.1 s is told what was before
            query = (
                "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx "
                "WHERE trx_state = 'LOCK WAIT'"
            )
        return [row[0] for row in self.rows(query)]

    def user(self, *rights: str) -> str:
        """Makes a user who may connect and has some rights; returns the URL to log in with."""
        name = "user_" + secrets.token_hex(4)
        if self.kind == "postgresql":
            self.run(f"CREATE USER {name} PASSWORD '{PASSWORD}'")
            self.run(*(f"GRANT {right} TO {name}" for right in rights))
        else:
            self.run(f"CREATE USER {name}@'%' IDENTIFIED BY '{PASSWORD}'")
            self.run(f"GRANT USAGE ON *.* TO {name}@'%'")
            self.run(*(f"GRANT {right} TO {name}@'%'" for right in rights))
        url: str = self.server.url(database=self.database, user=name)
        return url


def eventually(condition: Callable[[], bool]) -> None:
    """Returns as soon as a condition holds; a test that waits in vain has failed."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def run_threads(work: Callable[[], object], count: int) -> None:
    """Does the same in some threads at once; what one of them raises is raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive(), "a thread hangs"
    for error in errors:
        raise error
