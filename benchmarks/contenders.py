"""Who is measured: ours, the floor under each of our stores, and what a user would pick instead.

The peers are imported where they are needed: they are installed for `make bench` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from salmon.routing import MemoryStorage as SalmonMemoryStorage
from salmon.routing import ShelveStorage as SalmonShelveStorage

from benchmarks import floors
from benchmarks.orm_store import ORMStorage
from benchmarks.places import Places, skipped_if_missing
from benchmarks.rounds import FLOOR, OURS, PEER
from salmon_state import open_storage
from salmon_state.entries import Kind, Write, in_order

Pairs = list[tuple[str, str, str]]
"""Modules, senders and states."""


class Contender(NamedTuple):
    """One store and what is to be said about it."""

    group: str
    who: str
    role: str
    durability: str
    store: Any
    """Has ``get`` and ``set``; if they are coroutines, also the ``loop`` to run them in."""
    fill: Callable[[Pairs], None]
    """Sets many states at once, however the store can."""

    def close(self) -> None:
        """Closes what can be closed."""
        getattr(self.store, "close", lambda: None)()


def ours(kind: str, url: str, durability: str, *, group: str = "") -> Contender:
    """Returns one of our stores, at an empty place."""
    store = open_storage(url)

    def fill(pairs: Pairs) -> None:
        store._commit(
            in_order(
                Write(Kind.STATE, sender, module, state, 1_700_000_000_000_000)
                for module, sender, state in pairs
            )
        )

    return Contender(group or kind, "salmon-state", OURS, durability, store, fill)


def one_by_one(store: Any) -> Callable[[Pairs], None]:
    """Returns what fills a store that has nothing better than ``set``."""

    def fill(pairs: Pairs) -> None:
        for pair in pairs:
            store.set(*pair)

    return fill


def memory(places: Places) -> Iterator[Contender]:
    def made(who: str, role: str, store: Any) -> Contender:
        return Contender("memory", who, role, "memory", store, one_by_one(store))

    yield made("dict", FLOOR, floors.Dict())
    yield ours("memory", "memory://", "memory")
    yield made("Salmon's MemoryStorage", PEER, SalmonMemoryStorage())


def shelve(places: Places) -> Iterator[Contender]:
    from benchmarks import peers

    floor = floors.Shelf(places.path("raw-shelf"))
    yield Contender("shelve", "sqlite3", FLOOR, "fsync", floor, floor.fill)
    yield ours("shelve", places.url("shelve"), "fsync")
    path = places.path("salmon-shelf")
    salmon = SalmonShelveStorage(str(path))
    fill = peers.salmon_shelf_filler(path)
    flavour = peers.shelf_flavour(places.path("any"))
    yield Contender("shelve", f"Salmon's ({flavour})", PEER, "no fsync", salmon, fill)
    files = peers.CachelibFiles(places.path("cachelib"))
    yield Contender("shelve", "cachelib, files", PEER, "no fsync", files, one_by_one(files))


def sqlite(places: Places) -> Iterator[Contender]:
    from benchmarks import peers

    floor = floors.SQLite(places.path("raw.db"))
    yield Contender("sqlite", "sqlite3", FLOOR, "fsync", floor, floor.fill)
    yield ours("sqlite", places.url("sqlite"), "fsync")
    yield from _mappers("sqlite", lambda: places.url("sqlite"))
    for durability, synchronous in (("fsync", 2), ("no fsync", 1)):
        cache = peers.DiskCacheStorage(places.path("diskcache"), synchronous)
        who = f"DiskCache, synchronous={'FULL' if synchronous == 2 else 'NORMAL'}"
        yield Contender("sqlite", who, PEER, durability, cache, cache.fill)
    mapping = peers.SqliteDictStorage(places.path("sqlitedict"))
    yield Contender("sqlite", "sqlitedict", PEER, "no fsync", mapping, mapping.fill)


def _mappers(group: str, url: Callable[[], str]) -> Iterator[Contender]:
    from benchmarks import django_store

    orm = ORMStorage(url())
    yield Contender(group, "SQLAlchemy ORM, naive", PEER, "fsync", orm, orm.fill)
    django = django_store.DjangoStorage(url())
    yield Contender(group, "Django ORM", PEER, "fsync", django, django.fill)


def postgresql(places: Places) -> Iterator[Contender]:
    floor = floors.PostgreSQL(places.url("postgresql"))
    yield Contender("postgresql", "psycopg", FLOOR, "fsync", floor, floor.fill)
    yield ours("postgresql", places.url("postgresql"), "fsync")
    yield from _mappers("postgresql", lambda: places.url("postgresql"))


def mariadb(places: Places) -> Iterator[Contender]:
    floor = floors.MariaDB(places.url("mariadb"))
    yield Contender("mariadb", "PyMySQL", FLOOR, "fsync", floor, floor.fill)
    yield ours("mariadb", places.url("mariadb"), "fsync")
    yield from _mappers("mariadb", lambda: places.url("mariadb"))


def redis(places: Places) -> Iterator[Contender]:
    yield from _redis(places, "redis", "everysec", "fsync each second")


def redis_always(places: Places) -> Iterator[Contender]:
    yield from _redis(places, "redis-always", "always", "fsync")


def _redis(places: Places, group: str, fsync: str, durability: str) -> Iterator[Contender]:
    from benchmarks import asynchronous, peers

    server = places.redis(fsync)
    with server.client() as administrator:
        administrator.flushdb()

    def made(who: str, role: str, store: Any) -> Contender:
        return Contender(group, who, role, durability, store, store.fill)

    yield made("redis-py", FLOOR, floors.Redis(server.url()))
    yield ours("redis", server.url(), durability, group=group)
    yield made("cachelib", PEER, peers.CachelibRedis(server))
    yield made("aiogram (async)", PEER, asynchronous.Aiogram(server))
    yield made("py-key-value (async)", PEER, asynchronous.KeyValue(server))


GROUPS: dict[str, Callable[[Places], Iterator[Contender]]] = {
    "memory": memory,
    "shelve": shelve,
    "sqlite": sqlite,
    "postgresql": postgresql,
    "mariadb": mariadb,
    "redis": redis,
    "redis-always": redis_always,
}


def group(places: Places, name: str) -> list[Contender]:
    """Returns the contenders of a group, or none if its server is not installed."""
    found: list[Contender] = []
    with skipped_if_missing(name):
        found.extend(GROUPS[name](places))
    return found
