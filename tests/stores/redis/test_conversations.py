"""Leases and commits: between threads, between processes, and when a process stands still."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from salmon.server import SMTPError

from salmon_state import ConversationBusy, StorageError, StorageUnavailable
from salmon_state.stores.redis import RedisStorage
from salmon_state.stores.redis.entries import lease_of
from salmon_state.testing import mails, tasks
from salmon_state.testing.processes import StoreProcess, store_processes
from salmon_state.testing.sender_locks import check_ring
from salmon_state.testing.suite import contents
from salmon_state.testing.threads import run_together
from tests.forking import in_child
from tests.redis_services import RedisCluster, RedisServer, wait_until

MODULE, ANNA, BEN, CLEO = "app.handlers", "anna@example.com", "ben@example.com", "cleo@example.com"
LEASE = 1.0


class TemporaryFailure(SMTPError):
    def __init__(self) -> None:
        super().__init__(450, "later")


@pytest.fixture
def anywhere(url: str, prefix: str) -> Iterator[RedisStorage]:
    """A store of each kind."""
    with RedisStorage(url, prefix=prefix) as store:
        yield store


def leases(store: RedisStorage) -> list[bytes]:
    """Returns the tokens of the leases that are held on the three."""
    keys = [lease_of(store._keys.of(sender)) for sender in (ANNA, BEN, CLEO)]
    found = [store._server.read(key, (b"GET", key)) for key in keys]
    return [token for token in found if token is not None]


def signalled(process: StoreProcess, number: signal.Signals) -> None:
    pid = process._process.pid
    assert pid is not None
    os.kill(pid, number)


# ---------------------------------------------------------------- what is promised everywhere


def test_reads_its_own_writes_and_commits_them_together(anywhere: RedisStorage) -> None:
    store = anywhere
    store.set("other", BEN, "OLD")
    with store.conversation(ANNA):
        assert store.get(MODULE, ANNA) == "START"
        store.set(MODULE, ANNA, "A")
        store.set(MODULE, BEN, "B")
        assert store.set_all(BEN, "C") == 2
        assert store.compare_and_set(MODULE, CLEO, "START", "D")
        assert store.get(MODULE, ANNA) == "A"
        assert contents(store) == {("other", BEN): "OLD"}
    assert contents(store) == {
        (MODULE, ANNA): "A",
        (MODULE, BEN): "C",
        ("other", BEN): "C",
        (MODULE, CLEO): "D",
    }
    assert leases(store) == []


def test_a_temporary_failure_leaves_nothing(anywhere: RedisStorage) -> None:
    with pytest.raises(TemporaryFailure), anywhere.conversation(ANNA):  # noqa: PT012
        anywhere.set(MODULE, ANNA, "A")
        anywhere.set_all(BEN, "B")
        raise TemporaryFailure
    assert contents(anywhere) == {}
    assert leases(anywhere) == []


def test_nested_conversations_are_one_commit(anywhere: RedisStorage) -> None:
    store = anywhere
    with store.conversation(ANNA):
        store.set(MODULE, ANNA, "A")
        with store.conversation(BEN):
            store.set(MODULE, BEN, "B")
            with store.conversation(ANNA):
                store.set("other", ANNA, "A")
        assert len(leases(store)) == 2
        with pytest.raises(TemporaryFailure), store.conversation(CLEO):  # noqa: PT012
            store.set(MODULE, CLEO, "C")
            raise TemporaryFailure
        assert contents(store) == {}
    assert contents(store) == {(MODULE, ANNA): "A", ("other", ANNA): "A", (MODULE, BEN): "B"}
    assert leases(store) == []


@pytest.mark.parametrize("lost", [ANNA, BEN])
def test_every_lease_must_be_held(anywhere: RedisStorage, lost: str) -> None:
    """Of nested conversations the one whose lease is gone takes all the others with it."""
    store = anywhere
    with pytest.raises(ConversationBusy, match="busy"), store.conversation(ANNA):  # noqa: PT012
        store.set(MODULE, ANNA, "A")
        store.set_all(CLEO, "C")
        store.set(MODULE, CLEO, "C")
        with store.conversation(BEN):
            pass
        lease = lease_of(store._keys.of(lost))
        store._server.read(lease, (b"SET", lease, b"somebody else"))
    assert contents(store) == {}
    assert leases(store) == [b"somebody else"]


def test_what_somebody_set_meanwhile_stays(anywhere: RedisStorage) -> None:
    store = anywhere
    store.set(MODULE, ANNA, "A")
    for state in ("B", "START"):
        with pytest.raises(ConversationBusy), store.conversation(ANNA):  # noqa: PT012
            store.set(MODULE, ANNA, "MINE")
            store.set(MODULE, BEN, "MINE")
            run_together([partial(store.set, MODULE, ANNA, state)])
        assert store.get(MODULE, ANNA) == state
        assert store.get(MODULE, BEN) == "START"
        assert leases(store) == []


def test_others_wait_or_are_told(anywhere: RedisStorage, url: str, prefix: str) -> None:
    store = anywhere

    def elsewhere(sender: str | None, timeout: float) -> bool:
        with RedisStorage(url, prefix=prefix) as other:
            try:
                with other.conversation(sender, timeout=timeout):
                    return True
            except ConversationBusy:
                return False

    with store.conversation(ANNA):
        assert run_together([partial(elsewhere, ANNA, 0)]) == [False]
        assert run_together([partial(elsewhere, ANNA, 0.1)]) == [False]
        assert run_together([partial(elsewhere, BEN, 0)]) == [True]
    with store.conversation(None):
        assert run_together([partial(elsewhere, None, 0)]) == [True]
    with store.conversation(ANNA):
        waiting = threading.Thread(target=lambda: elsewhere(ANNA, 60))
        waiting.start()
        time.sleep(0.05)
    waiting.join(60)
    assert not waiting.is_alive()


def test_crossing_conversations_end(anywhere: RedisStorage) -> None:
    """Two that want each other's sender: neither waits for ever."""
    barrier = threading.Barrier(2)

    def cross(one: str, other: str) -> str:
        try:
            with anywhere.conversation(one):
                barrier.wait(60)
                with anywhere.conversation(other):
                    return "both"
        except ConversationBusy:
            return "busy"

    # The second may come when the first has given up and left.
    assert "busy" in run_together([partial(cross, ANNA, BEN), partial(cross, BEN, ANNA)])
    assert leases(anywhere) == []


def test_a_handler_that_takes_longer_than_the_lease(url: str, prefix: str) -> None:
    """The lease is extended again and again, while there is still much left of it."""
    with RedisStorage(url, prefix=prefix, lease=3.0) as store:
        key = lease_of(store._keys.of(ANNA))
        left = [0]

        def extended() -> bool:
            left.append(int(store._server.read(key, (b"PTTL", key))))
            return left[-1] > left[-2]

        with store.conversation(ANNA):
            store.set(MODULE, ANNA, "A")
            for _ in range(3):  # the first is that it is there
                wait_until(extended, "the lease to be extended")
        assert contents(store) == {(MODULE, ANNA): "A"}


def test_processes_move_one_sender_on(url: str, prefix: str) -> None:
    """Each mail moves the state by one: no step is taken twice, none is left out."""
    with store_processes(partial(RedisStorage, url, prefix=prefix), 3) as others:
        for other in others:
            other.start(mails.walk, [ANNA], 50, 20.0)
        check_ring(sum((other.result() for other in others), Counter[str]()), 150)


# ---------------------------------------------------------------- processes that stand still or die


@contextmanager
def paused(url: str, prefix: str, *, lease: float) -> Iterator[Callable[[], Any]]:
    """Gives what lets a process go on, and out, that stands still in a conversation."""
    with store_processes(partial(RedisStorage, url, prefix=prefix, lease=lease), 1) as (sleeper,):
        sleeper.call(mails.enter, ANNA)
        sleeper.call(tasks.do, "set", MODULE, ANNA, "STALE")

        def go_on() -> None:
            signalled(sleeper, signal.SIGCONT)
            sleeper.call(mails.leave)

        signalled(sleeper, signal.SIGSTOP)
        try:
            yield go_on
        finally:
            signalled(sleeper, signal.SIGCONT)


def test_a_paused_process_overwrites_nothing(url: str, prefix: str) -> None:
    """SIGSTOP for longer than the lease: another mail is handled, and the sleeper changes nothing.

    The only thing that is waited for is the lease itself, by the server's clock.
    """
    with RedisStorage(url, prefix=prefix) as store, paused(url, prefix, lease=LEASE) as go_on:
        with store.conversation(ANNA, timeout=60):
            assert store.get(MODULE, ANNA) == "START"
            store.set(MODULE, ANNA, "NEW")
        with pytest.raises(ConversationBusy) as caught:
            go_on()
        assert "lease" in caught.value.detail
        assert contents(store) == {(MODULE, ANNA): "NEW"}


def test_a_paused_process_that_nobody_overtook(url: str, prefix: str) -> None:
    with RedisStorage(url, prefix=prefix) as store, paused(url, prefix, lease=LEASE) as go_on:
        wait_until(lambda: not leases(store), "the lease to end")
        with pytest.raises(ConversationBusy) as caught:
            go_on()
        assert "lease" in caught.value.detail
        assert contents(store) == {}


def test_a_paused_process_within_its_lease_goes_on(url: str, prefix: str) -> None:
    with RedisStorage(url, prefix=prefix) as store, paused(url, prefix, lease=60) as go_on:
        assert len(leases(store)) == 1
        go_on()
        assert contents(store) == {(MODULE, ANNA): "STALE"}


def test_the_sender_of_a_killed_process_is_free_within_the_lease(url: str, prefix: str) -> None:
    opened = partial(RedisStorage, url, prefix=prefix, lease=60)
    with store_processes(opened, 1) as (victim,), opened() as store:
        victim.start(mails.held, ANNA, [(MODULE, ANNA, "HALF")])
        assert victim.item() == "inside"
        victim.kill()
        with pytest.raises(ConversationBusy), store.conversation(ANNA, timeout=0):
            pass
        key = lease_of(store._keys.of(ANNA))
        assert 0 < store._server.read(key, (b"PTTL", key)) <= 60_000
        store._server.read(key, (b"PEXPIRE", key, b"1"))  # when it ends, that is
        with store.conversation(ANNA, timeout=60):
            assert store.get(MODULE, ANNA) == "START"


# ---------------------------------------------------------------- leases


def test_a_lease_is_given_back_by_its_owner_only(store: RedisStorage) -> None:
    with store.conversation(ANNA):
        key = lease_of(store._keys.of(ANNA))
        store._server.read(key, (b"SET", key, b"somebody else"))
    assert leases(store) == [b"somebody else"]


def test_the_thread_that_extends_ends(server: RedisServer, prefix: str) -> None:
    def threads() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "salmon_state leases"]

    wait_until(lambda: not threads(), "the threads of earlier tests to end")
    with RedisStorage(server.url(), prefix=prefix, lease=2.0) as store:
        assert threads() == []
        with store.conversation(ANNA):
            assert len(threads()) == 1
        wait_until(lambda: not threads(), "the thread to end when nothing is held")
        with store.conversation(ANNA):
            assert len(threads()) == 1
    wait_until(lambda: not threads(), "the thread to end with the store")


def test_extending_survives_a_server_that_restarts(
    server: RedisServer, prefix: str, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The lease is on the disk like everything else."""
    with RedisStorage(server.url(), prefix=prefix, lease=6) as store:
        with store.conversation(ANNA):
            store.set(MODULE, ANNA, "A")
            server.kill()
            wait_until(lambda: "was not extended" in caplog.text, "a third of the lease to end")
            server.start()
            lease = lease_of(store._keys.of(ANNA))
            wait_until(lambda: raw.pttl(lease) > 4500, "the lease to be extended after all")
        assert store.get(MODULE, ANNA) == "A"


def test_closing_inside(store: RedisStorage, server: RedisServer, prefix: str) -> None:
    with pytest.raises(StorageUnavailable, match="unavailable"), store.conversation(ANNA):  # noqa: PT012
        store.set(MODULE, ANNA, "A")
        store.close()
    with RedisStorage(server.url(), prefix=prefix) as other:
        assert contents(other) == {}


def test_a_lost_reply_to_entering(store: RedisStorage, raw: Any) -> None:
    """The connection dies when the lease is won already: it is ours, not somebody else's."""
    run = store._server.run
    calls = []

    def twice(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        first = run(*arguments, **options)
        return run(*arguments, **options) if len(calls) == 1 else first

    store._server.run = twice  # type: ignore[method-assign]
    with store.conversation(ANNA, timeout=0):
        store.set(MODULE, ANNA, "A")
    assert store.get(MODULE, ANNA) == "A"
    assert leases(store) == []


def test_a_damaged_entry_leaves_no_lease(store: RedisStorage, raw: Any) -> None:
    raw.execute_command("HSET", store._keys.of(BEN), "'app'", "damaged")
    with store.conversation(ANNA):
        with pytest.raises(StorageError, match="damaged"), store.conversation(BEN):
            pass
        assert len(leases(store)) == 1
        assert run_together([lambda: _free(store, BEN)]) == ["damaged"]


def _free(store: RedisStorage, sender: str) -> str:
    try:
        with store.conversation(sender, timeout=0):
            return "free"
    except ConversationBusy:
        return "busy"
    except StorageError:
        return "damaged"


# ---------------------------------------------------------------- os.fork


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(anywhere: RedisStorage) -> None:
    store = anywhere
    store.set(MODULE, ANNA, "A")

    def child() -> None:
        for number in range(50):
            assert store.get(MODULE, ANNA) == "A"
            store.set(MODULE, BEN, f"S{number}")
        with store.conversation(CLEO, timeout=0):
            store.set(MODULE, CLEO, "C")
        with pytest.raises(ConversationBusy), store.conversation(ANNA, timeout=0):
            pass
        assert len(list(store)) == 3

    with store.conversation(ANNA):
        reader = store.records()
        assert next(reader).state == "A"
        assert in_child(child) == 0
        assert store.get(MODULE, ANNA) == "A"
        assert {record.sender for record in reader} <= {BEN, CLEO}  # which came meanwhile
        assert len(leases(store)) == 1
        store.set("other", ANNA, "A")
    assert store.get("other", ANNA) == "A"
    assert store.get(MODULE, CLEO) == "C"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forking_among_threads(store: RedisStorage) -> None:
    """Whatever lock another thread holds at the moment of the fork, the child does not wait."""
    ended = threading.Event()

    def write() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            with store.conversation(f"{threading.get_ident()}@x", timeout=40):
                store.set(MODULE, f"{threading.get_ident()}@x", f"S{number}")

    def child() -> None:
        signal.alarm(50)
        for writer in writers:
            with store.conversation(f"{writer.ident}@x", timeout=40):
                store.set("child", f"{writer.ident}@x", "A")

    writers = [threading.Thread(target=write, daemon=True) for _ in range(4)]
    for writer in writers:
        writer.start()
    try:
        assert [in_child(child) for _ in range(10)] == [0] * 10
    finally:
        ended.set()
        for writer in writers:
            writer.join(60)


# ---------------------------------------------------------------- round trips


@contextmanager
def watched(server: RedisServer) -> Iterator[list[str]]:
    """Gives the commands that clients send, as the server sees them, without those of scripts."""
    seen: list[str] = []
    done = threading.Event()

    def watch(monitor: Any) -> None:
        for entry in monitor.listen():
            if "the end" in entry["command"]:
                done.set()
                return
            if entry["client_type"] != "lua":
                seen.append(entry["command"].split()[0])

    with server.client(decode_responses=True) as client, client.monitor() as monitor:
        watcher = threading.Thread(target=watch, args=(monitor,), daemon=True)
        watcher.start()
        yield seen
        with server.client() as other:
            other.echo("the end")
        assert done.wait(60)
    seen[:] = [command for command in seen if command not in ("AUTH", "CLIENT", "HELLO", "SELECT")]


@pytest.mark.parametrize(
    ("name", "work", "commands"),
    [
        ("get", lambda store: store.get(MODULE, ANNA), ["HGET"]),
        ("set", lambda store: store.set(MODULE, ANNA, "A"), ["EVALSHA"]),
        ("remove", lambda store: store.set(MODULE, ANNA, "START"), ["EVALSHA"]),
        ("cas", lambda store: store.compare_and_set(MODULE, ANNA, "A", "B"), ["EVALSHA"]),
        ("set_all", lambda store: store.set_all(ANNA, "C"), ["EVALSHA"]),
        ("sender", lambda store: list(store.records(sender=ANNA)), ["HGETALL"]),
        ("mail", lambda store: mail(store, 8), ["EVALSHA", "EVALSHA"]),
        ("mail that moves others", lambda store: mail(store, 8, 5), ["EVALSHA", "EVALSHA"]),
        ("mail without a change", lambda store: read_mail(store), ["EVALSHA", "EVALSHA"]),
    ],
)
def test_round_trips(
    store: RedisStorage,
    server: RedisServer,
    name: str,
    work: Callable[[RedisStorage], object],
    commands: list[str],
) -> None:
    store.set(MODULE, ANNA, "A")
    read_mail(store)  # the server knows the scripts afterwards
    store.set(MODULE, ANNA, "START")
    with store.conversation(ANNA):
        store.set(MODULE, ANNA, "A")
    with watched(server) as seen:
        work(store)
    assert seen == commands, name


def mail(store: RedisStorage, states: int, others: int = 0) -> None:
    with store.conversation(ANNA):
        for number in range(states):
            store.get(f"module{number}", ANNA)
        store.set(MODULE, ANNA, "B")
        for number in range(others):
            store.set(MODULE, f"{number}@x", "B")


def read_mail(store: RedisStorage) -> None:
    with store.conversation(ANNA):
        store.get(MODULE, ANNA)


def test_a_commit_in_a_cluster_is_one_command_for_one_sender(
    cluster: RedisCluster, prefix: str
) -> None:
    with RedisStorage(cluster.url(), prefix=prefix) as store:
        read_mail(store)
        with watched(cluster.primary_of(store._keys.of(ANNA))) as seen:
            mail(store, 8)
    assert [re.sub("EVAL$", "EVALSHA", command) for command in seen if command != "PING"][-2:] == [
        "EVALSHA",
        "EVALSHA",
    ]
