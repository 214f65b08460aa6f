"""What a PostgreSQL server says of itself.

Sources: https://www.postgresql.org/docs/current/runtime-config-wal.html and
https://www.postgresql.org/docs/current/monitoring-stats.html
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from salmon_state.findings import STUCK, Finding

__all__ = ["diagnose_postgresql"]

_SETTINGS = """
SELECT name, setting FROM pg_settings WHERE name IN
  ('fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names')
"""

# A user without pg_monitor sees that there are standbys and nothing about them.
_STANDBYS = "SELECT application_name, state, sync_state FROM pg_stat_replication"

_IDLE_SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE NOT active"

_SUBSCRIPTIONS = """
SELECT subname FROM pg_subscription JOIN pg_database ON pg_database.oid = subdbid
WHERE datname = current_database() AND subenabled
"""

_INVALID_INDEXES = """
SELECT indexrelid::regclass::text FROM pg_index
WHERE indrelid = to_regclass(%s) AND NOT (indisvalid AND indisready)
"""

_LOCKS = """
SELECT pid, usename, application_name, coalesce(host(client_addr), 'this machine'),
  coalesce(date_trunc('second', xact_start)::text, 'when, this user may not ask'),
  extract(epoch FROM clock_timestamp() - xact_start) > %s,
  (SELECT count(*) FROM pg_locks AS waiting
   WHERE NOT waiting.granted AND waiting.locktype = 'advisory'
     AND (waiting.database, waiting.classid, waiting.objid, waiting.objsubid)
       = (pg_locks.database, pg_locks.classid, pg_locks.objid, pg_locks.objsubid))
FROM pg_locks JOIN pg_stat_activity USING (pid)
JOIN pg_database ON pg_database.oid = pg_locks.database
WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock'
  AND pg_database.datname = current_database()
ORDER BY xact_start
"""


def diagnose_postgresql(connection: sa.Connection, tables: sa.MetaData) -> Iterator[Finding]:
    """Yields what there is to say of the server and of who is in a conversation."""
    settings = {str(name): str(value) for name, value in connection.exec_driver_sql(_SETTINGS)}
    yield from _durability(settings)
    yield from _replicas(connection, settings)
    for (name,) in connection.exec_driver_sql(_SUBSCRIPTIONS):
        text = f"the subscription {name} writes into this database what another server says"
        advice = f"leave these tables out of it, or ALTER SUBSCRIPTION {name} DISABLE"
        yield Finding("writers", text, advice)
    for table in tables.sorted_tables:
        name = connection.dialect.identifier_preparer.format_table(table)
        for (index,) in connection.exec_driver_sql(_INVALID_INDEXES, (name,)):
            text = f"the index {index} is not valid, and not used"
            yield Finding("indexes", text, f"REINDEX INDEX {index}")
    yield from _locks(connection)


def _durability(settings: dict[str, str]) -> Iterator[Finding]:
    change = "set {} = on in postgresql.conf, then SELECT pg_reload_conf()"
    for name, lost in (
        ("fsync", "a power failure may damage the whole database"),
        ("full_page_writes", "a power failure may damage pages of the database"),
    ):
        advice = change.format(name) if settings[name] == "off" else ""
        text = f"{name} is off: {lost}" if advice else f"{name} is on"
        yield Finding("durability", text, advice)
    waits = settings["synchronous_commit"]
    names = settings["synchronous_standby_names"]
    if waits == "off":
        text = "synchronous_commit is off: after a power failure the last commits are gone"
        advice = (
            f"{change.format('synchronous_commit')}; look at ALTER ROLE and ALTER DATABASE as well"
        )
        yield Finding("durability", text, advice)
    elif waits == "local" and names:
        text = "synchronous_commit is local: a failover loses commits, in spite of the standbys"
        yield Finding("durability", text, change.format("synchronous_commit"))
    else:
        yield Finding("durability", f"synchronous_commit is {waits}")


def _replicas(connection: sa.Connection, settings: dict[str, str]) -> Iterator[Finding]:
    standbys = connection.exec_driver_sql(_STANDBYS).all()
    known = [name or "a standby" for name, _, _ in standbys]
    yield Finding("replicas", f"standbys connected: {', '.join(known) or 'none'}")
    waited_for = settings["synchronous_standby_names"]
    if waited_for and not any(
        sync in ("sync", "quorum") or not state for _, state, sync in standbys
    ):
        text = f"no standby of synchronous_standby_names = {waited_for} is there: no commit returns"
        yield Finding("replicas", text, "start the standby, or take it out of that setting")
    for name, state, _ in standbys:
        if state not in ("streaming", None):
            text = f"the standby {name} does not keep up: its state is {state}"
            yield Finding("replicas", text, "wait if it is new; otherwise look at its log")
    for (slot,) in connection.exec_driver_sql(_IDLE_SLOTS):
        text = f"nobody reads the replication slot {slot}: what is kept for it fills the disk"
        advice = f"start its standby, or SELECT pg_drop_replication_slot('{slot}')"
        yield Finding("replicas", text, advice)


def _locks(connection: sa.Connection) -> Iterator[Finding]:
    for pid, user, program, host, since, stuck, waiting in connection.exec_driver_sql(
        _LOCKS, (STUCK,)
    ):
        text = (
            f"process {pid} of the server ({user}, {program or 'unnamed'}, from {host}) has held a "
            f"conversation since {since}; waiting for it: {waiting}"
        )
        advice = f"SELECT pg_terminate_backend({pid}) frees its sender" if stuck else ""
        yield Finding("locks", text, advice)
