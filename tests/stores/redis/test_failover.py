"""Primaries that are killed under load: what is promised is checked, what is not is counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from salmon_state import StorageUnavailable
from salmon_state.entries import Kind, Write
from salmon_state.stores.redis import RedisStorage
from salmon_state.testing.processes import StoreProcess, store_processes
from tests.redis_services import (
    SERVICE,
    RedisCluster,
    RedisSentinel,
    RedisServer,
    fresh_prefix,
    wait_until,
)
from tests.services import again, provide
from tests.stores.redis import workers

SENDERS = 10
LATER = 10**17  # in microseconds, far away


class Load:
    """Processes that set and converse as fast as they can, and what they were told.

    Threads listen to them all the time: a process that nobody listens to soon stops.
    """

    def __init__(self, processes: Sequence[StoreProcess]) -> None:
        self.processes = processes
        self.acknowledged: dict[str, int] = {}
        self.refused = 0
        self._told = [0] * len(processes)
        self._noting = threading.Lock()
        self._ending = threading.Event()
        self._listeners = []
        for number, process in enumerate(processes):
            work = workers.converse_numbered if number % 2 else workers.set_numbered
            process.start(work, f"{work.__name__}{number}", SENDERS)
            self._listeners.append(threading.Thread(target=self._listen, args=(number,)))
            self._listeners[-1].start()

    def run(self, enough: int) -> None:
        """Goes on until each process was told so often that all is well, since now."""
        goals = [told + enough for told in self._told]
        wait_until(
            lambda: all(told >= goal for told, goal in zip(self._told, goals, strict=True)),
            "each process to be told that all is well",
        )

    def end(self) -> None:
        """Kills the processes; harmless when repeated."""
        self._ending.set()
        for number, listener in enumerate(self._listeners):
            listener.join()
            for item in self.processes[number].kill():
                self._note(number, item)
        self._listeners = []

    def _listen(self, number: int) -> None:
        while not self._ending.is_set():
            self._note(number, self.processes[number].item())

    def _note(self, number: int, item: tuple[str, int, bool]) -> None:
        sender, state, well = item
        with self._noting:
            if well:
                self.acknowledged[sender] = state
                self._told[number] += 1
            else:
                self.refused += 1

    def check(self, store: RedisStorage) -> tuple[int, int]:
        """Returns how many senders there are, and how many lost what was acknowledged.

        Every conversation is wholly there or not at all, whatever else was lost.
        """
        lost = 0
        for sender, last in self.acknowledged.items():
            found = {record.module: record.state for record in store.records(sender=sender)}
            states = set(found.values())
            assert len(states) <= 1, f"half a conversation: {found}"
            if sender.startswith("converse") and found:
                assert set(found) == {"one", "two"}, f"half a conversation: {found}"
            lost += not states or int(states.pop()) < last
        return len(self.acknowledged), lost


@contextmanager
def loaded(url: str, **options: Any) -> Iterator[tuple[Load, RedisStorage]]:
    opened = partial(RedisStorage, url, prefix=fresh_prefix(), timeout=1, lease=2, **options)
    with store_processes(opened, 2) as processes:
        load = Load(processes)
        try:
            load.run(enough=50)
            yield load, opened()
        finally:
            load.end()


def kill_under_load(
    servers: RedisSentinel | RedisCluster, primary: Callable[[], RedisServer], **options: Any
) -> tuple[int, int, int]:
    """Kills a primary, and lets it come back as a replica when another one has its place.

    Returns:
        The senders, those that lost something acknowledged, and the calls that were refused.
    """
    with loaded(servers.url(), **options) as (load, store):
        victim = primary()
        servers.hurry()
        victim.kill()
        wait_until(lambda: primary() is not victim, "the failover")
        servers.heal()
        load.run(enough=100)
        load.end()
        with store:
            return *load.check(store), load.refused


# ---------------------------------------------------------------- one server


@pytest.fixture
def durable_server() -> Iterator[RedisServer]:
    """One that is configured as the guide says."""
    yield from provide(partial(RedisServer, appendfsync="always"))


def test_a_killed_server_keeps_what_it_acknowledged(durable_server: RedisServer) -> None:
    with loaded(durable_server.url()) as (load, store):
        for _ in range(3):
            durable_server.kill()
            durable_server.start()
            load.run(enough=50)
        durable_server.kill()
        durable_server.start()
        load.end()
        with store:
            senders, lost = load.check(store)
    assert (senders, lost) == (2 * SENDERS, 0)


@pytest.mark.stress
@pytest.mark.parametrize("settings", [{"appendfsync": "everysec"}, {"appendonly": "no"}], ids=str)
def test_what_a_killed_server_may_lose(settings: dict[str, str]) -> None:
    """Nothing is promised then; SIGKILL is kinder than a power failure to everysec."""
    server = RedisServer(**settings)
    try:
        with loaded(server.url()) as (load, store):
            server.kill()
            load.end()
            server.start()
            with store:
                senders, lost = load.check(store)
        print(f"\n{settings}: of {senders} senders {lost} lost what was acknowledged")  # noqa: T201
    finally:
        server.remove()


# ---------------------------------------------------------------- failover


def test_sentinel_fails_over_to_what_was_confirmed(sentinel: RedisSentinel) -> None:
    senders, lost, refused = kill_under_load(sentinel, sentinel.primary, wait_replicas=1)
    assert (senders, lost) == (2 * SENDERS, 0)
    assert refused > 0


def test_a_cluster_fails_over_to_what_was_confirmed(cluster: RedisCluster) -> None:
    primary = partial(cluster.primary_of, b"whoever has this one")
    senders, lost, refused = kill_under_load(cluster, primary, wait_replicas=1)
    assert (senders, lost) == (2 * SENDERS, 0)
    assert refused > 0


def test_who_only_looks_for_what_is_due_follows_a_failover(cluster: RedisCluster) -> None:
    """A dispatcher does nothing else while there is nothing to send."""
    prefix = fresh_prefix()
    with (
        RedisStorage(cluster.url(), prefix=prefix, timeout=1) as writer,
        RedisStorage(cluster.url(), prefix=prefix, timeout=1) as looker,
    ):
        assert looker._claim(Kind.OUTGOING, LATER, 9) == []
        before = cluster.primary_of(writer._keys.of("anna@example.com"))
        cluster.hurry()
        before.kill()
        mail = Write(Kind.OUTGOING, "anna@example.com", "1", b"x", 1)
        again(lambda: writer._call(writer._commit, [mail]))  # to the new primary
        [found] = again(lambda: looker._call(looker._claim, Kind.OUTGOING, LATER, 9))
        assert (found.sender, found.name, found.value) == ("anna@example.com", "1", b"x")


@pytest.mark.parametrize("kind", [Kind.STATE, Kind.OUTGOING], ids=lambda kind: kind.name)
def test_a_slot_that_nobody_had_is_looked_for_again(cluster: RedisCluster, kind: Kind) -> None:
    """A client that takes a layout with holes has one of the moment when somebody died."""
    with RedisStorage(cluster.url(), prefix=fresh_prefix()) as store:
        layout = store._server.source.nodes_manager.slots_cache
        del layout[store._server.source.keyslot(store._keys.of("anna@example.com", kind))]
        look: Callable[[], object] = partial(store.get, "app", "anna@example.com")
        if kind is not Kind.STATE:
            look = partial(store._call, store._claim, kind, LATER, 9)
        with pytest.raises(StorageUnavailable):
            look()
        look()


@pytest.mark.stress  # Sentinel takes ten seconds until it makes the old primary a replica
def test_a_planned_failover_refuses_and_goes_on(sentinel: RedisSentinel) -> None:
    """The old primary lives on as a replica: nobody keeps talking to it."""
    with loaded(sentinel.url(), wait_replicas=1) as (load, store):
        before = sentinel.primary()
        with sentinel.sentinel.client() as client:
            client.execute_command("SENTINEL FAILOVER", SERVICE)
        wait_until(lambda: sentinel.primary() is not before, "the failover")
        load.run(enough=100)
        load.end()
        with store:
            assert load.check(store) == (2 * SENDERS, 0)


def test_a_paused_primary_is_replaced(sentinel: RedisSentinel) -> None:
    """It does not answer and closes no connection: time limits end it. A replica, it refuses."""
    with loaded(sentinel.url(), wait_replicas=1) as (load, store):
        before = sentinel.primary()
        sentinel.hurry()
        before.pause()
        wait_until(lambda: sentinel.primary() is not before, "the failover")
        sentinel.heal()
        load.run(enough=100)
        load.end()
        with store:
            assert load.check(store) == (2 * SENDERS, 0)


def test_a_conversation_across_a_failover(sentinel: RedisSentinel) -> None:
    """It commits if its lease came along, and changes nothing if not: either is whole."""
    with RedisStorage(sentinel.url(), prefix=fresh_prefix(), timeout=1, lease=30) as store:
        before = sentinel.primary()
        with suppress(StorageUnavailable), store.conversation("anna@example.com"):
            store.set("one", "anna@example.com", "A")
            store.set("two", "anna@example.com", "A")
            sentinel.hurry()
            before.kill()
            wait_until(lambda: sentinel.primary() is not before, "the failover")
        wait_until(lambda: works(store), "the new primary to answer")
        found = {record.module for record in store.records(sender="anna@example.com")}
        assert found in ({"one", "two"}, set())


def works(store: RedisStorage) -> bool:
    try:
        store.ping()
    except StorageUnavailable:
        return False
    return True


@pytest.mark.stress
@pytest.mark.parametrize("confirmed", [0, 1])
@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_many_failovers(kind: str, confirmed: int, request: pytest.FixtureRequest) -> None:
    servers = request.getfixturevalue(kind)
    total = 0
    for turn in range(5):
        if kind == "sentinel":
            primary = servers.primary
        else:
            primary = partial(servers.primary_of, f"turn {turn}".encode())
        senders, lost, refused = kill_under_load(servers, primary, wait_replicas=confirmed)
        total += lost
        print(  # noqa: T201
            f"\n{kind}, wait_replicas={confirmed}, failover {turn}: of {senders} senders {lost} "
            f"lost what was acknowledged; {refused} calls were refused"
        )
    assert total == 0 or not confirmed
