"""Key-value stores and caches that a user could put states into, behind ``get`` and ``set``."""

# mypy: disable-error-code="import-not-found, import-untyped, no-any-return"

from __future__ import annotations

import dbm
import shelve
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diskcache
import redis as redis_py
import sqlitedict
from cachelib import FileSystemCache, RedisCache
from salmon.routing import ROUTE_FIRST_STATE as START

from tests.redis_services import SECRET, RedisServer

Pairs = list[tuple[str, str, str]]


def salmon_shelf_filler(path: Path) -> Callable[[Pairs], None]:
    """Returns what fills a shelf of Salmon's, which would take hours by itself."""

    def fill(pairs: Pairs) -> None:
        with shelve.open(str(path)) as shelf:
            for module, sender, state in pairs:
                shelf[repr([module.encode("ascii"), sender])] = state

    return fill


def shelf_flavour(path: Path) -> str:
    """Returns which dbm this Python gives to shelves."""
    dbm.open(str(path), "c").close()
    return str(dbm.whichdb(str(path)))


class DiskCacheStorage:
    """DiskCache that evicts nothing."""

    def __init__(self, path: Path, synchronous: int) -> None:
        self._cache = diskcache.Cache(
            str(path), eviction_policy="none", cull_limit=0, sqlite_synchronous=synchronous
        )

    def get(self, module: str, sender: str) -> str:
        found: str = self._cache.get((module, sender), START)
        return found

    def set(self, module: str, sender: str, state: str) -> None:
        if state == START:
            self._cache.delete((module, sender))
        else:
            self._cache.set((module, sender), state)

    def fill(self, pairs: Pairs) -> None:
        with self._cache.transact():
            for pair in pairs:
                self.set(*pair)

    def close(self) -> None:
        self._cache.close()


class SqliteDictStorage:
    """sqlitedict with each change committed; it sets ``synchronous=OFF`` itself."""

    def __init__(self, path: Path) -> None:
        self._states: Any = sqlitedict.SqliteDict(str(path), journal_mode="WAL")

    def get(self, module: str, sender: str) -> str:
        found: str = self._states.get(f"{module} {sender}", START)
        return found

    def set(self, module: str, sender: str, state: str) -> None:
        if state == START:
            self._states.pop(f"{module} {sender}", None)
        else:
            self._states[f"{module} {sender}"] = state
        self._states.commit()

    def fill(self, pairs: Pairs) -> None:
        self._states.update({f"{module} {sender}": state for module, sender, state in pairs})
        self._states.commit()

    def close(self) -> None:
        self._states.close()


class _Cachelib:
    _cache: Any

    def get(self, module: str, sender: str) -> str:
        found: str = self._cache.get(f"{module} {sender}") or START
        return found

    def set(self, module: str, sender: str, state: str) -> None:
        if state == START:
            self._cache.delete(f"{module} {sender}")
        else:
            self._cache.set(f"{module} {sender}", state)

    def fill(self, pairs: Pairs) -> None:
        self._cache.set_many({f"{module} {sender}": state for module, sender, state in pairs})


class CachelibFiles(_Cachelib):
    """A file for each conversation, without an upper limit and without a time to live."""

    def __init__(self, path: Path) -> None:
        self._cache = FileSystemCache(str(path), threshold=0, default_timeout=0)


class CachelibRedis(_Cachelib):
    """cachelib on Redis, without a time to live."""

    def __init__(self, server: RedisServer) -> None:
        client = redis_py.Redis(host="127.0.0.1", port=server.port, password=SECRET)
        self._cache = RedisCache(client, default_timeout=0, key_prefix="cachelib:")
