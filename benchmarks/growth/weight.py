"""How much memory a process needs for a store, and how many bytes the store itself."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from benchmarks.floors import connect_mariadb
from benchmarks.growth.fill import PREFIX, query_postgresql
from benchmarks.operations import sender
from benchmarks.rounds import Row
from salmon_state.stores.redis.entries import Keys


def weight(name: str, url: str, size: int) -> Row:
    """Returns how much memory a process has that uses the store, and the bytes it takes."""
    command = [sys.executable, "-m", "benchmarks.growth.reader", url, str(size)]
    checkout = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": checkout}
    said = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=600
    ).stdout
    return {"process_mib": round(int(said) / 1024, 1), "bytes": _bytes(name, url, size)}


def _bytes(name: str, url: str, size: int) -> int | None:
    if name in ("sqlite", "shelve"):
        path = Path(url.partition("///")[2])
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    if name == "postgresql":
        return int(query_postgresql(url, "SELECT pg_total_relation_size('salmon_state')")[0])
    if name == "mariadb":
        database = sa.make_url(url).database
        with connect_mariadb(url) as server, server.cursor() as cursor:
            cursor.execute(
                "SELECT file_size FROM information_schema.innodb_sys_tablespaces WHERE name = %s",
                (f"{database}/salmon_state",),
            )
            row = cursor.fetchone()
        return int(row[0]) if row else None
    if name == "redis":
        return _redis_bytes(url, size)
    return None


def _redis_bytes(url: str, size: int) -> int:
    """Returns the memory that Redis says its entries take, going by the first thousand."""
    import redis

    keys = Keys(PREFIX)
    client = redis.Redis.from_url(url)
    with client.pipeline(transaction=False) as pipeline:
        for number in range(1000):
            pipeline.memory_usage(keys.of(sender(number)))
        return int(sum(pipeline.execute()) * size // 1000)
