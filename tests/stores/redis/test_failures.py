"""Servers that restart, hang, refuse and lose replies: bounded time, no mail lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from salmon.server import SMTPError

from salmon_state import ConversationBusy, StorageError, StorageUnavailable
from salmon_state.stores.redis import RedisStorage
from salmon_state.testing.lifecycle import CALLS
from salmon_state.testing.suite import contents, fill
from salmon_state.testing.threads import run_together
from tests.redis_services import (
    SECRET,
    MovingSlot,
    RedisCluster,
    RedisSentinel,
    RedisServer,
    fresh_prefix,
)
from tests.services import again
from tests.stores.redis.proxy import Proxy

MODULE, ANNA, BEN = "app.handlers", "anna@example.com", "ben@example.com"
HANG = 60.0
"""Seconds after which a test is taken to hang."""


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def through(proxy: Proxy, server: RedisServer, prefix: str) -> Iterator[RedisStorage]:
    """A store whose connections can be cut."""
    url = server.url().replace(f":{server.port}/", f":{proxy.port}/")
    with RedisStorage(url, prefix=prefix) as store:
        yield store


def converse(store: RedisStorage) -> None:
    with store.conversation(ANNA):
        store.set(MODULE, ANNA, "B")


# ---------------------------------------------------------------- restarts


@pytest.mark.parametrize("name", [*CALLS, "conversation"])
def test_a_restarted_server_costs_no_mail(
    store: RedisStorage, server: RedisServer, name: str
) -> None:
    """All connections are dead and the scripts are forgotten: the next call works."""
    call: Callable[[RedisStorage], object] = {**CALLS, "conversation": converse}[name]
    fill(store, [(MODULE, ANNA, "A")])
    run_together([lambda: store.get(MODULE, ANNA)] * 4)
    server.kill()
    server.start()
    call(store)


def test_scripts_that_were_forgotten(store: RedisStorage, raw: Any) -> None:
    fill(store, [(MODULE, f"{number}@x", "A") for number in range(700)], updated_at=0)
    raw.script_flush()
    assert store.rename(MODULE, "A", "B") == 700
    raw.script_flush()
    with store.conversation(ANNA):
        raw.script_flush()
        store.set(MODULE, ANNA, "B")
        raw.script_flush()
    raw.script_flush()
    assert store.purge(older_than=timedelta(days=1)) == 700
    assert contents(store) == {(MODULE, ANNA): "B"}


def test_a_server_that_went_away(store: RedisStorage, server: RedisServer) -> None:
    fill(store, [(MODULE, ANNA, "A")])
    server.kill()
    begin = time.monotonic()
    for call in (*CALLS.values(), converse):
        with pytest.raises(StorageUnavailable) as caught:
            call(store)
        assert isinstance(caught.value, SMTPError)
        assert "Connection refused" in caught.value.detail
    assert time.monotonic() - begin < HANG
    server.start()
    store.ping()


def test_a_server_that_says_nothing(server: RedisServer, prefix: str) -> None:
    with again(lambda: RedisStorage(server.url(), prefix=prefix, timeout=0.2)) as store:
        again(lambda: fill(store, [(MODULE, ANNA, "A")]))
        server.pause()
        begin = time.monotonic()
        try:
            for call in (*CALLS.values(), converse):
                with pytest.raises(StorageUnavailable) as caught:
                    call(store)
                assert "Timeout" in caught.value.detail
            with pytest.raises(StorageUnavailable):
                RedisStorage(server.url(), timeout=0.2)
        finally:
            server.resume()
        assert time.monotonic() - begin < HANG
        again(store.ping)
        # What was sent and not answered may have been done since: it was one call each.
        again(lambda: store.set(MODULE, ANNA, "A"))
        assert again(lambda: contents(store)) == {(MODULE, ANNA): "A"}


def test_late_replies_are_nobodys(server: RedisServer, prefix: str) -> None:
    """A reply that comes after its time limit is not taken for that of the next command."""
    with again(lambda: RedisStorage(server.url(), prefix=prefix, timeout=0.1)) as store:
        check_late_replies(store, server)


def test_late_replies_behind_sentinel(sentinel: RedisSentinel, prefix: str) -> None:
    """redis-py leaves a connection through Sentinel open then, with the reply still to come."""
    with again(lambda: RedisStorage(sentinel.url(), prefix=prefix, timeout=0.1)) as store:
        check_late_replies(store, sentinel.primary())


def check_late_replies(store: RedisStorage, server: RedisServer) -> None:
    senders = [f"{number}@x" for number in range(20)]
    for sender in senders:
        again(partial(store.set, MODULE, sender, f"S {sender}"))
    server.pause()
    try:
        with pytest.raises(StorageUnavailable):
            store.get(MODULE, "0@x")
    finally:
        server.resume()
    for sender in senders * 3:
        assert again(partial(store.get, MODULE, sender)) == f"S {sender}"


@pytest.mark.parametrize("replicas", [0, 1])
def test_an_address_that_leads_to_another_primary(
    server: RedisServer, proxy: Proxy, raw: Any, sentinel: RedisSentinel, prefix: str, replicas: int
) -> None:
    """The old one became a replica and ends no connection: who hears so makes a new one."""
    url = server.url().replace(f":{server.port}/", f":{proxy.port}/")
    with RedisStorage(url, prefix=prefix, timeout=30, wait_replicas=replicas) as store:
        raw.replicaof("127.0.0.1", 1)
        proxy.target = sentinel.primary().port
        try:
            with pytest.raises(StorageUnavailable) as caught:
                store.set(MODULE, ANNA, "A")
            assert "read only" in caught.value.detail
            store.set(MODULE, ANNA, "A")
        finally:
            raw.replicaof("NO", "ONE")


# ---------------------------------------------------------------- lost replies


def cut_once(proxy: Proxy, marker: bytes) -> list[bytes]:
    """Makes the proxy end the connection instead of passing on the reply to one command."""
    cuts: list[bytes] = []

    def cut(asked: bytes, answered: bytes) -> bool:
        if marker in asked and not cuts:
            cuts.append(answered)
            return True
        return False

    proxy.cut = cut
    return cuts


@pytest.mark.parametrize(
    ("marker", "call"),
    [
        (b"HGET", lambda store: store.get(MODULE, ANNA)),
        (b"EVAL", lambda store: store.set(MODULE, ANNA, "A")),
        (b"EVAL", lambda store: store.set(MODULE, BEN, "START")),
        (b"EVAL", lambda store: store.set_all(ANNA, "A")),
        (b"HGETALL", lambda store: list(store.records(sender=ANNA))),
        (b"EVAL", lambda store: list(store)),
        (b"EVAL", lambda store: store.conversation(ANNA).__enter__().__exit__(None, None, None)),
        (b"INFO", lambda store: store.ping()),
    ],
)
def test_what_may_happen_twice_is_repeated(
    through: RedisStorage, proxy: Proxy, marker: bytes, call: Callable[[RedisStorage], object]
) -> None:
    through.set(MODULE, ANNA, "A")
    cuts = cut_once(proxy, marker)
    call(through)
    assert len(cuts) == 1
    assert contents(through) == {(MODULE, ANNA): "A"}


def test_what_must_not_happen_twice_is_not(through: RedisStorage, proxy: Proxy) -> None:
    """Whoever hears that it failed may ask; nobody hears that it did not happen when it did."""
    through.set(MODULE, ANNA, "A")
    through.compare_and_set(MODULE, ANNA, "A", "A")  # the server knows the script
    cuts = cut_once(proxy, b"EVAL")
    with pytest.raises(StorageUnavailable):
        through.compare_and_set(MODULE, ANNA, "A", "B")
    assert len(cuts) == 1
    assert through.get(MODULE, ANNA) == "B"


def test_a_commit_whose_reply_is_lost(through: RedisStorage, proxy: Proxy) -> None:
    converse(through)  # so that the server knows the script
    with pytest.raises(StorageUnavailable), through.conversation(ANNA):  # noqa: PT012
        through.set(MODULE, ANNA, "B")
        cuts = cut_once(proxy, b"EVAL")
    assert len(cuts) == 1
    assert through.get(MODULE, ANNA) == "B"
    converse(through)


def test_a_given_clients_attempts_do_not_repeat_it(
    proxy: Proxy, server: RedisServer, prefix: str
) -> None:
    retry = Retry(NoBackoff(), 5)
    client = redis.Redis(port=proxy.port, password=SECRET, retry=retry)
    with client, RedisStorage(client=client, prefix=prefix) as store:
        store.set(MODULE, ANNA, "A")
        store.compare_and_set(MODULE, ANNA, "A", "A")
        cut_once(proxy, b"EVAL")
        with pytest.raises(StorageUnavailable):
            store.compare_and_set(MODULE, ANNA, "A", "B")


def test_a_scan_that_breaks_off(through: RedisStorage, proxy: Proxy, raw: Any) -> None:
    """A cursor means nothing on another connection, which may lead to another server."""
    fill(through, [(MODULE, f"{number}@x", "A") for number in range(1500)])
    cuts: list[int] = []

    def cut(asked: bytes, answered: bytes) -> bool:
        if b"SCAN" in asked:
            cuts.append(1)
        return len(cuts) == 2 and b"SCAN" in asked

    proxy.cut = cut
    with pytest.raises(StorageUnavailable):
        list(through)
    assert len(contents(through)) == 1500


# ---------------------------------------------------------------- what the server refuses


def test_a_full_memory(store: RedisStorage, raw: Any) -> None:
    store.set(MODULE, ANNA, "A")
    raw.config_set("maxmemory", "1")
    try:
        for call in (lambda: store.set(MODULE, BEN, "B"), lambda: converse(store)):
            with pytest.raises(StorageUnavailable) as caught:
                call()
            assert "OutOfMemory" in caught.value.detail
        assert store.get(MODULE, ANNA) == "A"
    finally:
        raw.config_set("maxmemory", "0")
    assert contents(store) == {(MODULE, ANNA): "A"}


def test_a_memory_that_is_full_at_the_end_of_a_mail(store: RedisStorage, raw: Any) -> None:
    """The server answers, so that nobody waits for a lease to end when the mail comes again."""
    conversation = store.conversation(ANNA)
    conversation.__enter__()
    store.set(MODULE, ANNA, "A")
    raw.config_set("maxmemory", "1")
    try:
        with pytest.raises(StorageUnavailable):
            conversation.__exit__(None, None, None)
    finally:
        raw.config_set("maxmemory", "0")
    with store.conversation(ANNA, timeout=0):
        assert store.get(MODULE, ANNA) == "START"


def test_too_few_replicas(store: RedisStorage, raw: Any) -> None:
    raw.config_set("min-replicas-to-write", "1")
    try:
        with pytest.raises(StorageUnavailable) as caught:
            store.set(MODULE, ANNA, "A")
        assert "NOREPLICAS" in caught.value.detail
    finally:
        raw.config_set("min-replicas-to-write", "0")
    assert contents(store) == {}


def test_a_password_that_changes(server: RedisServer, raw: Any, prefix: str) -> None:
    raw.acl_setuser("changing", True, passwords=["+one"], categories=["+@all"], keys=["*"])
    with RedisStorage(server.url(user="changing", password="one"), prefix=prefix) as store:
        store.set(MODULE, ANNA, "A")
        raw.acl_setuser("changing", True, reset_passwords=True, passwords=["+two"])
        raw.client_kill_filter(user="changing")
        with pytest.raises(StorageUnavailable) as caught:
            store.get(MODULE, ANNA)
        assert "Authentication" in caught.value.detail


@pytest.mark.parametrize(
    "reply",
    [
        *("LOADING Redis is loading the dataset in memory", "BUSY Redis is busy running a script"),
        *("READONLY You can't write against a read only replica.", "MISCONF no snapshots"),
        *("MASTERDOWN Link with MASTER is down", "CLUSTERDOWN The cluster is down"),
        *("TRYAGAIN Multiple keys request", "NOAUTH Authentication required.", "WHATEVER"),
        *("OOM command not allowed", "NOPERM no", "ERR max number of clients reached"),
    ],
)
def test_whatever_the_server_answers(store: RedisStorage, reply: str) -> None:
    parse: Any = redis.connection.DefaultParser.parse_error
    error = parse(reply)

    class Failing:
        def take(self) -> Any:
            return self

        def send_command(self, *command: object) -> None:
            pass

        def read_response(self, **options: object) -> None:
            raise error

        def give(self, connection: object) -> None:
            pass

        drop = give

    store._server._one = Failing()  # type: ignore[assignment]  # no more than is asked of it
    with pytest.raises(StorageUnavailable) as caught:
        store.get(MODULE, ANNA)
    assert str(caught.value) == "451 4.3.0 State store unavailable, try again later"


def test_no_password_in_an_error(store: RedisStorage, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StorageUnavailable) as caught:
        store._raise(redis.ConnectionError(f"AUTH {SECRET}\nfailed"))
    assert caught.value.detail == "ConnectionError: AUTH *** failed"
    assert SECRET not in caplog.text
    assert type(store._explain(ZeroDivisionError())) is StorageError


# ---------------------------------------------------------------- replicas that confirm


def test_writes_that_replicas_confirm(sentinel: RedisSentinel, prefix: str) -> None:
    opened = partial(RedisStorage, sentinel.url(), prefix=prefix)
    writes: dict[str, Callable[[RedisStorage], object]] = {
        "set": lambda store: store.set(MODULE, ANNA, "B"),
        "remove": lambda store: store.set(MODULE, ANNA, "START"),
        "compare_and_set": lambda store: store.compare_and_set(MODULE, ANNA, "A", "B"),
        "set_all": lambda store: store.set_all(ANNA, "B"),
        "rename": lambda store: store.rename(MODULE, "A", "B"),
        "purge": lambda store: store.purge(older_than=timedelta(0)),
        "clear": lambda store: store.clear(),
        "conversation": converse,
    }
    with (
        opened(wait_replicas=1) as patient,
        opened(wait_replicas=1, wait_timeout=0.05) as store,
        opened() as careless,
    ):
        for write in writes.values():
            patient.set(MODULE, ANNA, "A")
            write(patient)
        for replica in sentinel.replicas():
            replica.pause()
        try:
            for name, write in writes.items():
                careless.set(MODULE, ANNA, "A")
                with pytest.raises(StorageUnavailable) as caught:
                    write(store)
                assert "not confirmed: 0 of 1" in caught.value.detail, name
                assert not isinstance(caught.value, ConversationBusy)
                assert store.get(MODULE, ANNA) != "A", name
            assert store.get(MODULE, ANNA) == "B"
        finally:
            for replica in sentinel.replicas():
                replica.resume()
        patient.set(MODULE, ANNA, "C")


def test_writes_that_replicas_confirm_in_a_cluster(cluster: RedisCluster, prefix: str) -> None:
    with RedisStorage(cluster.url(), prefix=prefix, wait_replicas=1) as store:
        for number in range(20):
            store.set(MODULE, f"{number}@x", "A")
        converse(store)
        assert store.rename(MODULE, "A", "B") == 20
        store.clear()
    with (
        RedisStorage(cluster.url(), prefix=prefix, wait_replicas=2, wait_timeout=0.1) as store,
        pytest.raises(StorageUnavailable),
    ):
        store.set(MODULE, ANNA, "A")


# ---------------------------------------------------------------- clusters


def test_slots_that_move(cluster: RedisCluster) -> None:
    """Keys move to another primary while the store reads, sets, lists and converses."""
    cluster.empty()
    prefix = fresh_prefix()
    sender = f"{prefix}@x"  # alone in its slot
    with RedisStorage(cluster.url(), prefix=prefix) as store:
        fill(store, [(MODULE, f"{number}@x", "A") for number in range(60)])
        store.set(MODULE, sender, "A")
        key = store._keys.of(sender)
        slot = MovingSlot(cluster, key)
        slot.begin()
        assert store.get(MODULE, sender) == "A"
        slot.move(key)
        assert store.get(MODULE, sender) == "A"  # asks the one that has it by now
        store.set(MODULE, sender, "B")
        assert store.set_all(sender, "C") == 1
        assert len(contents(store)) == 61
        slot.end()
        assert store.get(MODULE, sender) == "C"  # is told where it has gone
        with store.conversation(sender):
            store.set(MODULE, sender, "D")
        assert len(contents(store)) == len(store) == 61
        store.clear()
        assert len(store) == 0
    slot.give_back()


def test_an_iteration_while_the_cluster_changes(cluster: RedisCluster, prefix: str) -> None:
    with RedisStorage(cluster.url(), prefix=prefix) as store:
        fill(store, [(MODULE, f"{number}@x", "A") for number in range(60)])
        layouts = iter([["before"], ["after"]])
        store._server.layout = lambda: next(layouts)  # type: ignore[method-assign]
        with pytest.raises(StorageUnavailable) as caught:
            list(store)
        assert "cluster changed" in caught.value.detail
