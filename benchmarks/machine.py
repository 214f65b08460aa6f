"""What the figures were measured on and with: no path, no name of a host."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import sqlite3
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.redis_services import RedisServer
from tests.services import MariaDBServer, Missing, PostgreSQLServer, program

PACKAGES = (
    "salmon-state", "salmon-mail", "SQLAlchemy", "psycopg", "PyMySQL", "redis", "hiredis",
    "diskcache", "sqlitedict", "cachelib", "Django", "aiogram", "py-key-value-aio",
    "langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres", "dbos",
)  # fmt: skip

DURABILITY = {
    "memory": "none: it ends with the process",
    "shelve": "SQLite file, WAL, synchronous=FULL: every commit is fsynced",
    "sqlite": "WAL: every commit is fsynced, by ourselves",
    "postgresql": "fsync=on, synchronous_commit=on: every commit is fsynced; shared_buffers=512MB",
    "mariadb": "innodb_flush_log_at_trx_commit=1: every commit is fsynced; buffer pool 512 MB",
    "redis": "appendonly=yes, appendfsync=everysec: fsynced once a second",
    "redis-always": "appendonly=yes, appendfsync=always: every write is fsynced",
}


def describe(directory: Path) -> dict[str, Any]:
    """Returns the machine, the versions and the settings."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "fdatasync_us": round(_fdatasync(directory) * 1e6),
        "versions": {**_servers(), **_packages(), "SQLite": sqlite3.sqlite_version},
        "durability": DURABILITY,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1].strip()
    return platform.machine()


def _fdatasync(directory: Path) -> float:
    """Returns how long it takes to bring 4 KiB to the disk: the floor of what is durable."""
    samples = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(100):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            samples.append(time.perf_counter() - began)
    return statistics.median(samples)


def _servers() -> dict[str, str]:
    found = {}
    for name, server in (
        ("PostgreSQL", PostgreSQLServer), ("MariaDB", MariaDBServer), ("Redis", RedisServer)
    ):  # fmt: skip
        with contextlib.suppress(Missing):
            binary = program(server.program, *server.places)
            said = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout
            version = re.search(r"[0-9]+\.[0-9.]+[0-9]", said)
            found[name] = version[0] if version else "unknown"
    return found


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
