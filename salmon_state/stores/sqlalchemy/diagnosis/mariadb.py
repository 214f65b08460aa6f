"""What a MariaDB or MySQL server says of itself.

Sources: https://mariadb.com/kb/en/innodb-system-variables/ and
https://mariadb.com/kb/en/show-replica-status/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from salmon_state.findings import STUCK, Finding

__all__ = ["diagnose_mariadb"]

_VARIABLES = (
    "'innodb_flush_log_at_trx_commit', 'innodb_doublewrite', 'log_bin', 'sync_binlog', "
    "'rpl_semi_sync_master_enabled'"
)

# Who has a named lock is only told to whoever knows its name, so only those are found that keep
# somebody waiting.
_WAITING = (
    "SELECT info FROM information_schema.processlist "
    "WHERE info LIKE 'SELECT GET_LOCK(%%' AND state LIKE 'User lock%%'"
)
_HOLDER = (
    "SELECT id, user, host, NOW() - INTERVAL time SECOND, time > %s "
    "FROM information_schema.processlist WHERE id = IS_USED_LOCK(%s)"
)


def diagnose_mariadb(connection: sa.Connection, tables: sa.MetaData) -> Iterator[Finding]:
    """Yields what there is to say of the server and of who keeps others waiting."""
    rows = connection.exec_driver_sql(f"SHOW VARIABLES WHERE Variable_name IN ({_VARIABLES})")
    variables = {str(name).lower(): str(value) for name, value in rows}
    yield from _durability(variables)
    yield from _replicas(connection, variables)
    yield from _locks(connection)


def _durability(variables: dict[str, str]) -> Iterator[Finding]:
    expected = {
        "innodb_flush_log_at_trx_commit": ("1", "a power failure loses the last commits"),
        "innodb_doublewrite": ("ON", "a power failure may damage pages of the database"),
    }
    if variables.get("log_bin") == "ON":
        lost = "after a power failure the replicas have other states than this server"
        expected["sync_binlog"] = ("1", lost)
    for name, (right, lost) in expected.items():
        value = variables.get(name, right)
        wrong = value in ("0", "2", "OFF") if right != "1" else value != right
        text = f"{name} is {value}: {lost}" if wrong else f"{name} is {value}"
        advice = f"set {name} = {right} in the server's configuration" if wrong else ""
        yield Finding("durability", text, advice)


def _replicas(connection: sa.Connection, variables: dict[str, str]) -> Iterator[Finding]:
    sources: Sequence[Any] | None = None
    for name in ("REPLICA", "SLAVE"):  # the newer name first
        if sources is None:
            with suppress(DBAPIError):
                sources = connection.exec_driver_sql(f"SHOW {name} STATUS").mappings().all()
    if sources is None:
        yield Finding("writers", "this user may not ask whether another server writes here too")
    for source in sources or ():
        host = source.get("Source_Host") or source["Master_Host"]
        text = f"this server also takes what {host} writes: there are two masters"
        yield Finding(
            "writers", text, "give the URL of that one, or STOP REPLICA and RESET REPLICA ALL here"
        )
    if variables.get("rpl_semi_sync_master_enabled") == "ON":
        status = "SHOW STATUS LIKE 'Rpl_semi_sync_master_clients'"
        clients = int(connection.exec_driver_sql(status).one()[1])
        text = f"semi-synchronous replicas connected: {clients}"
        yield Finding("replicas", text, "" if clients else "start a replica; no commit waits now")


def _locks(connection: sa.Connection) -> Iterator[Finding]:
    waiting: dict[str, int] = {}
    for (statement,) in connection.exec_driver_sql(_WAITING).all():
        match = re.match(r"SELECT GET_LOCK\('([!-&(-~]+)'", str(statement))
        if match is not None:
            waiting[match[1]] = waiting.get(match[1], 0) + 1
    for name, number in waiting.items():
        for thread, user, host, since, stuck in connection.exec_driver_sql(_HOLDER, (STUCK, name)):
            text = (
                f"thread {thread} of the server ({user} from {host}) holds a conversation and has "
                f"said nothing since {since}; waiting for it: {number}"
            )
            advice = f"KILL {thread} frees its sender" if stuck else ""
            yield Finding("locks", text, advice)
