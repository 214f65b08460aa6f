"""doctor: each thing that it finds is planted, and found, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from salmon_state import StateStorage, StorageUnavailable, open_storage
from salmon_state.entries import Kind, Write
from salmon_state.mail.outbox import Outbox
from salmon_state.stores.redis import diagnosis as redis_diagnosis
from salmon_state.stores.sqlalchemy.diagnosis.mariadb import _durability
from tests.operate.typing_commands import ANNA, APP, BEN, application_in, process, rows, typed
from tests.redis_services import OWN_DATABASE, RedisSentinel, RedisServer, wait_until
from tests.services import MariaDBServer, PostgreSQLServer, fresh_url
from tests.stores.sqlalchemy_places import Place


def wrong(url: str, *options: str) -> dict[str, str]:
    """What doctor says is wrong, with its advice."""
    return {row["finding"]: row["advice"] for row in rows(url, "doctor", *options) if row["wrong"]}


def found(url: str, part: str, *options: str) -> bool:
    """Whether something is wrong that says this, and has an advice."""
    said = wrong(url, *options)
    return any(part in finding and advice for finding, advice in said.items())


@pytest.fixture
def url(url: str) -> str:
    open_storage(url).close()
    return url


@pytest.fixture
def file(file: str) -> str:
    open_storage(file).close()
    return file


@pytest.fixture
def store(file: str) -> Iterator[StateStorage]:
    with open_storage(file) as store:
        yield store


# ---------------------------------------------------------------- every store


@pytest.mark.slow
def test_a_store_that_is_well(url: str) -> None:
    """But for the servers of the tests, which are not durable: they would take twice as long."""
    said = rows(url, "doctor", "--deep")
    assert {row["check"] for row in said} >= {"reachable", "outbox"}
    accepted = ("fsync is off", "innodb_flush_log", "appendfsync is no")
    left = [row for row in said if row["wrong"] and not row["finding"].startswith(accepted)]
    assert left == []


@pytest.mark.slow
def test_mail_that_does_not_leave(url: str) -> None:
    with open_storage(url) as store:
        assert rows(url, "health")[0]["ok"]
        store._clock = lambda: time.time_ns() // 1000 - 3_600_000_000
        Outbox(store).send(ANNA, "list@example.com", "Hello", "Hello!")
        assert found(url, "the first of them due")
        store._commit([Write(Kind.DEAD, ANNA, "mail-0", b"?", 1)])
        assert found(url, "given up: 1")
    line = rows(url, "health")[0]
    assert (line["ok"], len(line["wrong"])) == (False, 2)
    said = typed(url, "health")
    assert (said.output.count("\n"), said.output[:6]) == (1, "NOT ok")


@pytest.mark.slow
def test_who_is_in_a_conversation(url: str) -> None:
    def wait_for_it() -> None:
        with open_storage(url) as other, other.conversation(ANNA, timeout=60):
            pass

    waiting = threading.Thread(target=wait_for_it)
    with open_storage(url) as store:
        store.set(APP, ANNA, "POSTING")
        with store.conversation(ANNA):
            waiting.start()
            if url.startswith("redis"):  # where nobody knows who waits
                expected = f"'{ANNA}' is held by process {os.getpid()} on "
            else:
                expected = "it: 1" if url.startswith(("postgresql", "mysql")) else "others: 1"
            wait_until(lambda: expected in held(url), expected)
        waiting.join()
        wait_until(lambda: expected not in held(url), "nobody to be in it any more")


def held(url: str) -> str:
    return "".join(row["finding"] for row in rows(url, "doctor") if row["check"] == "locks")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_conversation_that_is_stuck(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_url(request, kind, tmp_path)
    monkeypatch.setattr(f"salmon_state.stores.sqlalchemy.diagnosis.{kind}.STUCK", -1)
    with ExitStack() as held, open_storage(url) as store:

        def converse() -> None:
            with open_storage(url) as other, other.conversation(ANNA, timeout=60):
                pass

        held.enter_context(store.conversation(ANNA))
        waiting = threading.Thread(target=converse)
        waiting.start()
        advice: list[str] = []

        def is_found() -> bool:
            said = [row for row in rows(url, "doctor") if row["check"] == "locks"]
            advice[:] = [row["advice"] for row in said if "for it: 1" in row["finding"]]
            return bool(advice)

        wait_until(is_found, "the one who waits")
        # What the advice says frees the sender.
        administrator = request.getfixturevalue(kind).connect()
        with administrator, administrator.cursor() as cursor:
            cursor.execute(advice[0].partition(" frees")[0])
        waiting.join()
        store.set(APP, ANNA, "LOST")
        with pytest.raises(StorageUnavailable):
            held.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "mariadb", "redis_server"])
def test_a_clock_that_is_wrong(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_url(request, kind, tmp_path)
    open_storage(url).close()
    assert not found(url, "clock")
    late = staticmethod(lambda: time.time_ns() // 1000 - 5_000_000)
    monkeypatch.setattr(StateStorage, "_clock", late)
    assert found(url, "s ahead of ours")


# ---------------------------------------------------------------- files


def test_files_of_different_users(file: str, store: StateStorage, tmp_path: Path) -> None:
    store.set(APP, ANNA, "POSTING")
    assert wrong(file) == {}
    (tmp_path / "states.db").chmod(0o660)
    said = wrong(file)
    assert said
    assert all("is not open to the same users" in finding for finding in said)
    for advice in said.values():
        subprocess.run(["sh", "-c", advice], check=True)
    assert wrong(file) == {}


def test_a_directory_that_everybody_may_write(file: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert found(file, "every user of this machine may replace")


def test_a_process_that_is_stopped(file: str) -> None:
    """Its name is what the system left of a longer one: 15 bytes, whatever the last one is."""
    holder = (
        "import pathlib, sys, salmon_state\n"
        "pathlib.Path('/proc/self/comm').write_bytes('Mailinglisten-Änderung'.encode())\n"
        f"with salmon_state.open_storage({file!r}).conversation({ANNA!r}):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", holder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert wrong(file) == {}
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: found(file, f"process {process.pid} "), "it to be stopped")
        (advice,) = wrong(file).values()
        subprocess.run(["sh", "-c", advice.partition(",")[0]], check=True)
        process.communicate(b"\n")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_an_index_that_is_missing(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = None if kind == "sqlite" else request.getfixturevalue(kind)
    place = Place(kind, fresh_url(request, kind, tmp_path), server)
    open_storage(place.url).close()
    on = " ON salmon_state_entries" if kind == "mariadb" else ""
    place.run(f"DROP INDEX salmon_state_due{on}")
    said = [row for row in rows(place.url, "doctor") if row["check"] == "indexes"]
    assert [row["wrong"] for row in said] == [True]
    place.run(said[0]["advice"])
    assert not [row for row in rows(place.url, "doctor") if row["check"] == "indexes"]


def said_of_indexes(url: str) -> list[bool]:
    return [row["wrong"] for row in rows(url, "doctor") if row["check"] == "indexes"]


def check_that_indexes_are_recommended(url: str) -> None:
    """Checks that it is from three states on, and not any more when they are there."""
    with open_storage(url) as store:
        for sender in ("a@x", "b@x"):
            store.set(APP, sender, "POSTING")
        assert said_of_indexes(url) == []
        store.set(APP, "c@x", "POSTING")
        assert said_of_indexes(url) == [False]
    open_storage(url, indexes=True).close()
    assert said_of_indexes(url) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_many_states_without_the_indexes_that_are_an_option(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are recommended; for a monitor nothing is wrong."""
    monkeypatch.setattr("salmon_state.stores.sqlalchemy.diagnosis.MANY", 3)
    url = fresh_url(request, kind, tmp_path)
    check_that_indexes_are_recommended(url)


# ---------------------------------------------------------------- PostgreSQL


@pytest.fixture
def postgres(postgresql: PostgreSQLServer) -> Iterator[Place]:
    place = Place("postgresql", postgresql.fresh_database(), postgresql)
    open_storage(place.url).close()
    yield place
    place.run("SET synchronous_commit = local", "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")
    wait_until(lambda: not found(place.url, "standby_names"), "the server to be as it was")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "part"),
    [
        ("", "fsync is off"),  # as for all tests
        ("ALTER SYSTEM SET full_page_writes = off", "full_page_writes is off"),
        ("ALTER DATABASE {} SET synchronous_commit = off", "synchronous_commit is off"),
        ("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "no commit returns"),
        (
            "ALTER DATABASE {} SET synchronous_commit = local; "
            "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
            "synchronous_commit is local",
        ),
        (
            "CREATE SUBSCRIPTION planted CONNECTION 'host=127.0.0.1 port=1' PUBLICATION planted "
            "WITH (connect = false, slot_name = 'planted'); ALTER SUBSCRIPTION planted ENABLE",
            "the subscription planted writes",
        ),
        (
            "UPDATE pg_index SET indisvalid = false "
            "WHERE indexrelid = 'salmon_state_due'::regclass",
            "salmon_state_due is not valid",
        ),
    ],
)
def test_postgresql(postgres: Place, plant: str, part: str) -> None:
    assert found(postgres.url, part) == (not plant)
    if plant:
        name = postgres.url.rpartition("/")[2]
        postgres.run(*plant.format(name).split("; "), "SELECT pg_reload_conf()")
    wait_until(lambda: found(postgres.url, part), part)
    if "SUBSCRIPTION" in plant:
        postgres.run(
            "ALTER SUBSCRIPTION planted DISABLE",
            "ALTER SUBSCRIPTION planted SET (slot_name = NONE)",
            "DROP SUBSCRIPTION planted",
        )


@pytest.mark.slow
def test_a_slot_that_nobody_reads(postgres: Place) -> None:
    postgres.run("SELECT pg_create_physical_replication_slot('planted')")
    (advice,) = (
        advice for finding, advice in wrong(postgres.url).items() if "slot planted" in finding
    )
    postgres.run(advice.partition(", or ")[2])
    assert not found(postgres.url, "slot planted")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_user_who_may_only_use_the_tables(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(kind)
    place = Place(kind, server.fresh_database(), server)
    open_storage(place.url).close()
    right = "SELECT, INSERT, UPDATE, DELETE"
    tables = ("salmon_state", "salmon_state_entries", "salmon_state_version")
    schema = f"{place.database}." if kind == "mariadb" else ""
    user = place.user(*(f"{right} ON {schema}{table}" for table in tables))
    assert set(wrong(user)) == set(wrong(place.url))


# ---------------------------------------------------------------- MariaDB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "undo", "part"),
    [
        (
            "SET GLOBAL innodb_flush_log_at_trx_commit = 0",
            "SET GLOBAL innodb_flush_log_at_trx_commit = 2",
            "innodb_flush_log_at_trx_commit is 0",
        ),
        (
            "CHANGE MASTER TO MASTER_HOST = '192.0.2.1', MASTER_USER = 'x'",
            "RESET SLAVE ALL",
            "takes what 192.0.2.1 writes",
        ),
        (
            "SET GLOBAL rpl_semi_sync_master_enabled = ON",
            "SET GLOBAL rpl_semi_sync_master_enabled = OFF",
            "replicas connected: 0",
        ),
    ],
)
def test_mariadb(mariadb: MariaDBServer, plant: str, undo: str, part: str) -> None:
    url = mariadb.fresh_database()
    open_storage(url).close()
    assert not found(url, part)
    with mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute(plant)
        try:
            assert found(url, part)
        finally:
            cursor.execute(undo)


@pytest.mark.parametrize(
    ("name", "right", "bad"),
    [
        ("innodb_flush_log_at_trx_commit", "1", "2"),
        ("innodb_doublewrite", "ON", "OFF"),  # which a server is started with
        ("sync_binlog", "1", "0"),
    ],
)
def test_what_mariadb_is_started_with(name: str, right: str, bad: str) -> None:
    for value in (right, bad):
        said = [*_durability({"log_bin": "ON", "sync_binlog": "1", name: value})]
        assert [f.text.split(":")[0] for f in said if f.advice] == [
            f"{name} is {bad}" for _ in said[:1] if value == bad
        ]


# ---------------------------------------------------------------- Redis


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "options", "part"),
    [
        ({"appendfsync": "no"}, "", "appendfsync is no"),
        ({"appendonly": "no"}, "", "neither appendonly nor save"),
        ({"appendonly": "no", "save": "3600 1"}, "", "since the last snapshot"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "", "when its memory is full"),
        ({}, "wait_replicas", "no write is confirmed"),
    ],
)
def test_redis(
    redis_server: RedisServer, settings: dict[str, str], options: str, part: str
) -> None:
    url = redis_server.fresh_database()
    base = {"appendfsync": "everysec", "appendonly": "yes", "save": ""}
    base |= {"maxmemory": "0", "maxmemory-policy": "noeviction"}
    with redis_server.client() as client:
        try:
            for name, value in base.items():
                client.config_set(name, value)
            with open_storage(url, wait_replicas=1 if options else 0) as store:
                assert options or not [f for f in store.diagnose() if f.advice]
                for name, value in settings.items():
                    client.config_set(name, value)
                assert [f for f in store.diagnose() if f.advice and part in f.text]
        finally:
            for name, value in {**base, "appendfsync": "no"}.items():
                client.config_set(name, value)


def test_a_replica_of_redis_that_it_counts_and_does_not_describe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It leaves out one whose address it cannot find out, as its connection is breaking."""
    monkeypatch.setattr(redis_diagnosis, "_setting", lambda pool, name: None)
    info = {"connected_slaves": "2", "slave0": "ip=192.0.2.1,port=6379,state=online,offset=1,lag=0"}
    pool: Any = None
    said = [*redis_diagnosis._replicas(pool, info, 0)]
    assert [(finding.text, finding.advice) for finding in said] == [("replicas connected: 2", "")]


@pytest.mark.slow
def test_many_states_in_redis_without_an_index(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is recommended, and nothing wrong; one that is not whole is to be finished."""
    monkeypatch.setattr(redis_diagnosis, "MANY", 3)
    url = redis_server.fresh_database()
    check_that_indexes_are_recommended(url)
    with redis_server.client(db=OWN_DATABASE) as client:
        client.zrem("salmon_state:{due}:index", "whole")
    assert said_of_indexes(url) == [True]
    open_storage(url, indexes=True).close()
    assert said_of_indexes(url) == []


@pytest.mark.slow
def test_many_states_in_a_shelf_without_indexes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("salmon_state.stores.shelf.store.MANY", 3)
    check_that_indexes_are_recommended(f"shelve:///{tmp_path}/states")


def test_redis_that_cannot_write_its_files(redis_server: RedisServer) -> None:
    url = redis_server.fresh_database()
    with redis_server.client() as client:
        mode = redis_server.data.stat().st_mode & 0o777
        try:
            redis_server.data.chmod(0o500)
            client.bgsave()
            wait_until(lambda: found(url, "rdb_last_bgsave_status is err"), "a snapshot to fail")
        finally:
            redis_server.data.chmod(mode)
        client.bgsave()
        wait_until(lambda: not found(url, "rdb_last_bgsave"), "a snapshot to be made")


@pytest.mark.slow
def test_redis_that_does_not_tell(redis_server: RedisServer) -> None:
    redis_server.fresh_database()
    with redis_server.client() as client:
        rights = ["+@all", "-info", "-config"]
        client.acl_setuser(
            "limited", enabled=True, passwords=["+geheim"], keys=["*"], commands=rights
        )
        try:
            url = redis_server.url(user="limited", password="geheim", db=OWN_DATABASE)
            assert (wrong(url), "geheim" in str(rows(url, "doctor"))) == ({}, False)
            assert "may not ask" in str(rows(url, "doctor"))
        finally:
            client.acl_deluser("limited")


@pytest.mark.stress  # Sentinel asks each server every ten seconds only
def test_two_primaries_behind_sentinel(redis_sentinel: RedisSentinel) -> None:
    url = redis_sentinel.fresh_database()
    assert found(url, "cut off from its replicas")  # min-replicas-to-write is 0
    assert not found(url, "takes writes")
    (replica,) = redis_sentinel.replicas()
    with replica.client() as client:
        client.replicaof("NO", "ONE")
    wait_until(lambda: found(url, f"{replica.port} is a replica and takes writes"), "Sentinel")
    redis_sentinel.heal()


# ---------------------------------------------------------------- the application


def test_tables_of_an_earlier_version(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "stores/version_1/states.db"
    shutil.copy(old, tmp_path / "states.db")
    url = f"sqlite:///{tmp_path}/states.db"
    for _ in range(2):  # it changes nothing
        assert found(url, "has version 1")
        assert typed(url, "health").output.startswith("NOT ok")


BOOT = """
import logging
from salmon.routing import Router
from salmon_state import attach, open_storage
Router.STATE_STORE = open_storage("memory://")
attach(Router)
logging.basicConfig(filename="application.log")
"""


@pytest.mark.parametrize(
    ("boot", "parts"),
    [
        (BOOT, []),
        (
            "import logging; logging.basicConfig(); logging.getLogger().handlers[0].setLevel(50)",
            ["Salmon's", "not attached", "reach no handler"],
        ),
    ],
)
def test_an_application(file: str, boot: str, parts: list[str], tmp_path: Path) -> None:
    (tmp_path / "boot.py").write_text(boot)
    done = process("--store", file, "--json", "doctor", "--boot", "boot", cwd=tmp_path)
    said = [row for row in map(json.loads, done.stdout.splitlines()) if row["wrong"]]
    assert [part in row["finding"] for part, row in zip(parts, said, strict=True)] == [
        *(True for _ in parts)
    ]
    assert done.returncode == (1 if parts else 0)


def test_states_that_nobody_handles(file: str, store: StateStorage, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/settings.py").write_text("handlers = ['handlers']\n")
    (tmp_path / "handlers.py").write_text("def POSTING(message): ...\n")
    for sender, state in ((ANNA, "POSTING"), (BEN, "GONE"), ("carl@x", "ERROR")):
        store.set("handlers", sender, state)
    with application_in(tmp_path):
        assert [advice.rpartition("rename ")[2] for advice in wrong(file).values()] == [
            "handlers ERROR START",
            "handlers GONE NEW",
        ]
        for state in ("GONE", "ERROR"):
            assert rows(file, "rename", "handlers", state, "POSTING") == [{"moved": 1}]
        said = rows(file, "doctor")
        assert [row["wrong"] for row in said] == [False] * len(said)
        assert said[-1]["finding"] == "conversations with handlers in POSTING: 3"
        store.set("old", ANNA, "POSTING")
        assert "old, which is none of the handlers: 1" in rows(file, "doctor")[-1]["finding"]


def test_conversations_in_error_without_the_application(
    file: str, store: StateStorage, tmp_path: Path
) -> None:
    store.set("handlers", ANNA, "ERROR")
    store.set("handlers", BEN, "POSTING")
    with application_in(tmp_path):
        assert found(file, "conversations with handlers in ERROR: 1")
        assert "say --handlers MODULE" in rows(file, "doctor")[-1]["finding"]


def test_an_advice_that_is_typed_does_what_it_says(
    file: str, store: StateStorage, tmp_path: Path
) -> None:
    """An application may make the name of a module of an address, as the lists' does."""
    store.set("lists:$(reboot); x", ANNA, "ERROR")
    with application_in(tmp_path):
        [advice] = wrong(file).values()
    assert advice.endswith("rename 'lists:$(reboot); x' ERROR START")


def test_what_cannot_be_imported(file: str) -> None:
    assert found(file, "nothing_there cannot be imported", "--boot", "nothing_there")
    assert found(file, "nothing_there cannot be imported", "--handlers", "nothing_there")
