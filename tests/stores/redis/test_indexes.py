"""The index of the states that is an option: what it finds, and that it holds whatever there is."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from salmon_state import ConversationBusy, StorageError, StorageUnavailable
from salmon_state.entries import EVERY, Entry, Kind, Where, Write
from salmon_state.stores.redis import RedisStorage
from salmon_state.stores.redis.entries import members_of
from salmon_state.stores.redis.indexes import ADD, FIND, Index
from salmon_state.stores.redis.scripts import Script
from salmon_state.stores.redis.servers import Server
from salmon_state.testing.processes import forking_context
from salmon_state.testing.suite import contents, set_clock
from tests.redis_services import MovingSlot, RedisCluster, RedisServer

MODULE, OTHER, ANNA = "app.handlers", "app.o 'th' er", "anna@example.com"
LONG = "S" * 5_000
STRANGE = ["'", '"', "'app'", " app", "app ", "a' 'b", 'a"b', "a\\b", "\n\0", "é", "-0", LONG]
NOON = 1_700_000_000_000_000

CONTEXT = forking_context(__name__)


@pytest.fixture
def opened(server: RedisServer, prefix: str) -> Callable[..., RedisStorage]:
    return partial(RedisStorage, server.url(), prefix=prefix, timeout=30)


@pytest.fixture
def indexed(opened: Callable[..., RedisStorage]) -> Iterator[RedisStorage]:
    with opened(indexes=True) as store:
        yield store


def look(store: RedisStorage, *args: Any, **where: Any) -> set[Entry]:
    """Returns what is found, each once; and asserts that nothing was searched for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._server, "scan", None)
        found = [
            e for page in store._pages(Kind.STATE, Where(*args, **where)) for e in page.entries
        ]
    assert len(found) == len(set(found))
    return set(found)


def search(store: RedisStorage) -> set[Entry]:
    return {e for page in store._pages(Kind.STATE, Where()) for e in page.entries}


def same(store: RedisStorage) -> None:
    """Asserts that the index has what there is, and nothing else."""
    expected = {b"", b"whole"}
    for page in store._pages(Kind.STATE, Where()):
        for entry in page.entries:
            expected.update(members_of(store._keys, entry))
    found: set[bytes] = set()
    for key in store._keys.all_indexes():
        found.update(store._server.read(key, (b"ZRANGE", key, 0, -1)))
    assert found == expected


def states(count: int, state: str = "POSTING") -> list[Write]:
    return [Write(Kind.STATE, f"{n}@x", MODULE, state, n) for n in range(count)]


# ---------------------------------------------------------------- what it finds


def test_what_is_stored(indexed: RedisStorage, raw: Any, prefix: str) -> None:
    """Pinned: whoever changes it must read the old one for ever."""
    indexed._commit([Write(Kind.STATE, ANNA, MODULE, "É", NOON)])
    digest = indexed._keys.of(ANNA)[-65:-1]
    assert raw.zrange(f"{prefix}:{{due}}:index", 0, -1, withscores=True) == [
        (b"", 0),
        (b"  'app.handlers' %b" % digest, 0),
        (b" 000%d 'app.handlers' %b" % (NOON, digest), 0),
        (b"\\xc9 'app.handlers' 000%d %b" % (NOON, digest), 0),
        (b"whole", 0),
    ]


def test_it_finds_what_a_search_finds(url: str, prefix: str) -> None:
    with RedisStorage(url, prefix=prefix, timeout=30, indexes=True) as store:
        writes = [
            Write(Kind.STATE, f"{n % 40}@x", module, state, at)
            for n, (module, state, at) in enumerate(
                (module, state, at)
                for module in (MODULE, OTHER, "app", "app.handlers2", "")
                for state in ("S", "S2", "S 2", LONG, LONG + "2", "building", "whole", "é", "~")
                for at in (None, -(10**15), -5, -1, 0, 1, 9, 10, NOON, NOON + 1)
            )
        ]
        writes += [
            Write(Kind.STATE, f"{n % 7}@x", module, f"{module}{n % 9}", n)
            for n, module in enumerate(STRANGE)
        ]
        for write in writes:
            store._commit([write])
        values = [None, "S", "S2", "S 2", LONG, LONG + "2", "building", "whole", "é", "~", "NONE"]
        everything = search(store)
        asked = [
            Where(EVERY, name, value, before)
            for value in values
            for name in (EVERY, MODULE, OTHER, "app", "", "none")
            for before in (None, -4, -1, 0, 1, 10, NOON + 1, 2**62)
            if (name, value, before) != (EVERY, None, None)
        ]
        asked += [Where(name=name) for name in STRANGE]
        for where in asked if store.spans_senders else random.Random(7).sample(asked, 10):
            assert look(store, *where) == {e for e in everything if where.matches(e)}, where


@pytest.mark.parametrize("count", [499, 500, 501, 1_700])
def test_all_of_many_pages(indexed: RedisStorage, count: int) -> None:
    indexed._commit(states(count))
    assert len(look(indexed, value="POSTING")) == len(look(indexed, before=count)) == count
    assert len(look(indexed, name=MODULE)) == count
    assert indexed.rename(MODULE, "POSTING", "ASKING") == count
    assert look(indexed, value="POSTING") == set()
    assert indexed.rename_module(MODULE, OTHER) == len(look(indexed, name=OTHER)) == count
    assert look(indexed, name=MODULE) == set()
    set_clock(indexed, NOON)
    assert indexed.purge(older_than=timedelta(0), state="ASKING") == count
    same(indexed)


def test_a_module_comes_once_whatever_becomes_of_it(indexed: RedisStorage) -> None:
    """Whoever sets the states that he is given does not meet them again, nor misses others."""
    indexed._commit(states(1_200, "A"))
    found = []
    for number, record in enumerate(indexed.records(module=MODULE)):
        found.append(record.sender)
        indexed.set(MODULE, record.sender, "Z" if number % 2 else "0")
        if number == 100:
            indexed.rename(MODULE, "A", "0")
    assert len(found) == len(set(found)) == 1_200
    same(indexed)


@pytest.mark.parametrize("filter_", ["state", "module"])
def test_what_is_rare_takes_three_commands(indexed: RedisStorage, raw: Any, filter_: str) -> None:
    indexed._commit([*states(2_000), Write(Kind.STATE, ANNA, "RARE", "RARE", NOON)])
    for text, count in (("RARE", 1), ("NOBODY", 0)):
        asked: dict[str, Any] = {filter_: text}
        records = partial(indexed.records, **asked)
        assert len(list(records())) == count  # the server knows the scripts
        raw.config_resetstat()
        assert len(list(records())) == count
        calls = {name: each["calls"] for name, each in raw.info("commandstats").items()}
        assert calls["cmdstat_zrangebylex"] == 1 + count
        assert calls["cmdstat_evalsha"] == 1 + 2 * count
        assert "cmdstat_scan" not in calls


# ---------------------------------------------------------------- it holds whatever there is


def test_whatever_is_written_is_in_it(url: str, prefix: str) -> None:
    chance = random.Random(5)
    acts = set()
    with (
        RedisStorage(url, prefix=prefix, timeout=30, indexes=True) as one,
        RedisStorage(url, prefix=prefix, timeout=30, ttl=3600) as other,
    ):
        # A look goes through a part for each slot in a cluster; within a part, all is as here.
        for _ in range(300 if one.spans_senders else 12):
            store, sender = chance.choice((one, other)), f"{chance.randrange(6)}@x"
            module, state = chance.choice((MODULE, OTHER)), chance.choice(("A", "B", "START"))
            act = chance.randrange(8)
            acts.add(act)
            if act < 2:
                store.set(module, sender, state)
            elif act == 2:
                store.set_all(sender, state)
            elif act == 3:
                store.compare_and_set(module, sender, "A", state)
            elif act == 4:
                store.rename(module, "B", state)
            elif act == 5:
                store.purge(older_than=timedelta(0), module=module, state="A")
            elif act == 6:
                store.rename_module(MODULE, OTHER)
            else:
                with store.conversation(sender):
                    store.set(module, sender, state)
                    store.set_all(f"{chance.randrange(6)}@x", "B")
            everything = search(other)
            assert {e for value in "AB" for e in look(one, value=value)} == everything
            assert look(one, before=2**62) == everything
            assert look(one, name=module) == {e for e in everything if e.name == module}
        one.clear()
        assert look(one, before=2**62) == set()
        other.set(MODULE, ANNA, "A")
        assert len(look(other, value="A")) == len(look(other, name=MODULE)) == 1
        assert len(acts) == 8


def test_a_store_that_was_opened_before_keeps_it(
    opened: Callable[..., RedisStorage], store: RedisStorage
) -> None:
    store._commit(states(10))
    with opened(indexes=True) as indexed:
        store.set(MODULE, ANNA, "RARE")
        store.set_all("1@x", "RARE")
        store.set(MODULE, "2@x", "START")
        with store.conversation("3@x"):
            store.set(MODULE, "3@x", "RARE")
        assert len(look(indexed, value="RARE")) == len(look(store, value="RARE")) == 3
        assert len(look(indexed, name=MODULE)) == len(look(store, name=MODULE)) == 10
        same(indexed)


def test_without_one_nothing_is_written_beside(store: RedisStorage, raw: Any) -> None:
    store._commit(states(10))
    assert len(list(store.records(state="POSTING"))) == 10
    store.clear()
    assert not list(raw.scan_iter(match=store._keys.everything))


def test_it_is_made_of_what_there_is(url: str, prefix: str) -> None:
    with RedisStorage(url, prefix=prefix, timeout=30) as store:
        store._commit([Write(Kind.CURSOR, ANNA, "n", b"x")])
        for write in states(700):
            store._commit([write])
        RedisStorage(url, prefix=prefix, timeout=30, indexes=True).close()
        assert len(look(store, value="POSTING")) == 700
        assert len(look(store, before=5)) == 5
        assert len(look(store, name=MODULE)) == 700


def test_what_ended_by_itself_goes_when_it_is_met(
    opened: Callable[..., RedisStorage], raw: Any
) -> None:
    with opened(indexes=True, ttl=1000) as store:
        store._commit(states(20))
        for number in range(5):
            raw.delete(store._keys.of(f"{number}@x"))
        with store.paused():
            assert len(look(store, value="POSTING")) == len(look(store, name=MODULE)) == 15
        assert len(look(store, value="POSTING")) == len(look(store, before=NOON)) == 15
        assert len(look(store, name=MODULE)) == 15
        same(store)


def test_what_is_damaged(indexed: RedisStorage, raw: Any) -> None:
    """Whoever meets it is told, and whoever writes over it mends it."""
    key, field = indexed._keys.of(ANNA), "'app.handlers'"
    raw.hset(key, mapping={"sender": f"'{ANNA}'", field: "rubbish"})
    indexed.set(MODULE, ANNA, "A")
    same(indexed)
    raw.hset(key, field, "rubbish")
    with pytest.raises(StorageError, match="damaged"):
        list(indexed.records(module=MODULE))


@pytest.mark.parametrize("where", [Where(value="POSTING"), Where(name=MODULE), Where(before=9)])
def test_what_came_between_finding_and_taking_out_stays(
    indexed: RedisStorage, raw: Any, monkeypatch: pytest.MonkeyPatch, where: Where
) -> None:
    indexed._commit(states(3))
    prune = Index.prune
    raw.delete(indexed._keys.of("1@x"))

    def late(self: Index, members: list[bytes]) -> None:
        indexed._commit([Write(Kind.STATE, "1@x", MODULE, "POSTING", 1)])
        prune(self, members)

    monkeypatch.setattr(Index, "prune", late)
    assert len(look(indexed, *where)) == 2
    monkeypatch.undo()
    same(indexed)


def test_who_may_not_write_it(
    opened: Callable[..., RedisStorage], raw: Any, server: RedisServer, prefix: str
) -> None:
    """He writes as long as there is none, and nothing past it."""
    raw.acl_setuser("other", True, passwords=["+p"], keys=["*"], commands=["+@all", "-@sortedset"])
    try:
        with RedisStorage(server.url(user="other", password="p"), prefix=prefix) as other:
            other.set(MODULE, ANNA, "A")
            with other.conversation(ANNA):
                other.set(MODULE, ANNA, "B")
            assert contents(other, state="B") == {(MODULE, ANNA): "B"}
            with opened(indexes=True) as indexed:
                for attempt in (
                    lambda: other.set(MODULE, ANNA, "C"),
                    lambda: other.set_all(ANNA, "C"),
                    lambda: other.compare_and_set(MODULE, ANNA, "B", "C"),
                ):
                    with pytest.raises(StorageUnavailable):
                        attempt()
                same(indexed)
                assert indexed.get(MODULE, ANNA) == "B"
                assert contents(other, state="B") == {(MODULE, ANNA): "B"}  # searched
                assert contents(other, module=MODULE) == {(MODULE, ANNA): "B"}
    finally:
        raw.acl_deluser("other")


# ---------------------------------------------------------------- how it comes to be


@pytest.mark.parametrize("after", [0, 1, 2])
def test_whoever_makes_it_is_killed(
    opened: Callable[..., RedisStorage], server: RedisServer, prefix: str, after: int
) -> None:
    with opened() as store:
        store._commit(states(1_800))
        process = CONTEXT.Process(target=build_and_die, args=(server.url(), prefix, after))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert len(list(store.records(state="POSTING"))) == 1_800
        store.set(MODULE, ANNA, "POSTING")
        with opened(indexes=True):
            assert len(look(store, value="POSTING")) == 1_801
            same(store)


def build_and_die(url: str, prefix: str, after: int) -> None:
    left = [after]
    run_each = Server.run_each

    def mortal(self: Any, pool: Any, script: Any, groups: Any, argv: Any) -> Any:
        if script is ADD:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return run_each(self, pool, script, groups, argv)

    pytest.MonkeyPatch().setattr(Server, "run_each", mortal)  # until this process dies
    RedisStorage(url, prefix=prefix, indexes=True)


def test_it_is_emptied_while_it_is_made(
    opened: Callable[..., RedisStorage], store: RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever empties it and dies leaves it to be made again, whatever the first one adds."""
    store._commit(states(1_800))
    made = Index.build

    def build(self: Index, hashes: Any) -> None:
        def emptied() -> Iterator[Any]:
            for number, each in enumerate(hashes):
                yield each
                if number == 1:
                    self.empty()

        made(self, emptied())

    with monkeypatch.context() as patch:
        patch.setattr(Index, "build", build)
        opened(indexes=True).close()
    assert len(list(store.records(state="POSTING"))) == 1_800
    opened(indexes=True).close()
    assert len(look(store, value="POSTING")) == 1_800


def test_it_is_removed_while_it_is_read(indexed: RedisStorage, raw: Any) -> None:
    indexed._commit(states(1_200))
    pages = indexed._pages(Kind.STATE, Where(value="POSTING"))
    assert len(next(pages).entries) == 500
    raw.delete(*indexed._keys.all_indexes())
    with pytest.raises(StorageUnavailable, match="451"):
        indexed._call(list, pages)
    assert len(list(indexed.records(state="POSTING"))) == 1_200  # searched


def test_others_write_while_it_is_made_and_used(server: RedisServer, prefix: str) -> None:
    """And are killed; at the end it has what there is."""
    open_store = partial(RedisStorage, server.url(), prefix=prefix, timeout=30)
    with open_store() as store:
        store._commit(states(1_000, "A"))
        acts = ("set", "set", "rename", "purge", "converse")
        processes = [
            CONTEXT.Process(target=act, args=(server.url(), prefix, act_)) for act_ in acts
        ]
        for process in processes:
            process.start()
        try:
            with open_store(indexes=True) as indexed:
                for _ in range(30):
                    for state in "ABC":
                        for record in indexed.records(state=state):
                            assert record.state == state
                    assert len(list(indexed.records(module=MODULE))) <= 1_000
        finally:
            for process in processes:
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                process.join(60)
        found = {entry for state in "ABC" for entry in look(store, value=state)}
        assert found == search(store)
        same(store)


def act(url: str, prefix: str, what: str) -> None:
    store = RedisStorage(url, prefix=prefix, timeout=30)
    chance = random.Random()
    while True:
        sender = f"{chance.randrange(1_000)}@x"
        if what == "set":
            store.set(MODULE, sender, chance.choice("ABC"))
        elif what == "rename":
            store.rename(MODULE, *chance.sample("ABC", 2))
        elif what == "purge":
            store.purge(older_than=timedelta(milliseconds=500), state=chance.choice("ABC"))
        else:
            with suppress(ConversationBusy), store.conversation(sender):  # or overtaken
                store.set(MODULE, sender, chance.choice(("A", "B", "C", "START")))


# ---------------------------------------------------------------- in a cluster


def test_a_part_in_which_many_are(
    cluster: RedisCluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has more than its share of the first look is not read on by shares."""
    with RedisStorage(cluster.url(), prefix=prefix, timeout=30, indexes=True) as store:
        for number in range(150):
            store.set(MODULE, f"{number}@x", "ONE")
        store._commit([Write(Kind.STATE, ANNA, f"{n:03}", "ONE", NOON) for n in range(400)])
        assert len(look(store, value="ONE")) == 550  # the servers know the scripts
        run, alone = store._server.run, list[Script]()

        def counted(script: Script, *arguments: Any, **options: Any) -> Any:
            alone.append(script)
            return run(script, *arguments, **options)

        monkeypatch.setattr(store._server, "run", counted)
        assert len(look(store, value="ONE")) == 550
    assert alone.count(FIND) == 1


@pytest.mark.parametrize(
    ("moved", "known"), [("hash", True), ("index", True), ("nothing", True), ("nothing", False)]
)
def test_slots_that_move(cluster: RedisCluster, prefix: str, moved: str, known: bool) -> None:
    """Whoever writes where hash and index are apart says before that not all is in the index."""
    cluster.empty()  # others' indexes are in each slot
    sender = f"{prefix}@x"
    with RedisStorage(cluster.url(), prefix=prefix) as store:
        store.set(MODULE, sender, "A")
        if known:
            RedisStorage(cluster.url(), prefix=prefix, indexes=True).close()
        key = store._keys.of(sender)
        slot = MovingSlot(cluster, key)
        slot.begin()
        if moved != "nothing":
            slot.move(key if moved == "hash" else store._keys.index(key))
        store.set(MODULE, sender, "B")
        assert store.get(MODULE, sender) == "B"
        assert contents(store, state="B") == {(MODULE, sender): "B"}
        slot.move()
        slot.end()
        assert contents(store, state="B") == {(MODULE, sender): "B"}
        with RedisStorage(cluster.url(), prefix=prefix, indexes=True) as indexed:
            assert len(look(indexed, value="B")) == 1
    cluster.empty()
    slot.give_back()
