"""Entries of other kinds than states in Redis: their form, what is due, and large commits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from salmon_state import StorageError, StorageUnavailable
from salmon_state.entries import ABSENT, ANYTHING, EVERY, Condition, Entry, Kind, Seen, Where, Write
from salmon_state.errors import Overtaken
from salmon_state.stores.redis import RedisStorage
from salmon_state.stores.redis.entries import SLOTS, Keys, tags
from salmon_state.testing.suite import everything
from tests.redis_services import RedisCluster

ANNA, BEN = "anna@example.com", "ben@example.com"
DIGEST = hashlib.sha256(ascii(ANNA).encode()).hexdigest()
NOON = 1_700_000_000_000_000
MANY = 2500


def outgoing(count: int, *, at: int = NOON, expect: Condition = ABSENT) -> Iterator[Write]:
    for number in range(count):
        yield Write(Kind.OUTGOING, ANNA, f"{number:05}", b"value", at + number, expect)


def keys_of(store: RedisStorage, raw: Any) -> set[bytes]:
    return set(raw.scan_iter(match=store._keys.everything))


# ---------------------------------------------------------------- the form


def test_what_is_stored(store: RedisStorage, raw: Any, prefix: str) -> None:
    """Pinned: whoever changes it must read the old one for ever."""
    store._commit([Write(Kind.OUTGOING, ANNA, "é", b"\0 \xff", NOON)])
    store._commit([Write(Kind.CURSOR, ANNA, "", b"7")])
    due = f"{prefix}:{{due}}:due:3".encode()
    outgoing, cursor = (f"{prefix}:{{{DIGEST}}}:{kind}".encode() for kind in (3, 8))
    assert keys_of(store, raw) == {due, outgoing, cursor}
    sender = {b"sender": b"'anna@example.com'"}
    assert raw.hgetall(outgoing) == {**sender, b"'\\xe9'": b"\0 \xff", b"@'\\xe9'": b"%d" % NOON}
    assert raw.hgetall(cursor) == {**sender, b"''": b"7", b"@''": b"-"}
    assert raw.zrange(due, 0, -1, withscores=True) == [(DIGEST.encode() + b"'\\xe9'", NOON)]


def test_the_version_before_does_not_see_them(store: RedisStorage, raw: Any) -> None:
    """It takes all keys that end in a brace for states, and damaged ones at that."""
    store.set("app", ANNA, "POSTING")
    store._commit(outgoing(MANY))
    store._commit([Write(kind, ANNA, "n", b"x", NOON) for kind in Kind if kind > 1])
    seen = list(raw.scan_iter(match=store._keys.everything + b"}"))
    assert seen == [store._keys.of(ANNA)]


def test_nothing_is_left_of_the_last_entry(store: RedisStorage, raw: Any) -> None:
    for write in (Write(Kind.BODY, ANNA, "n", None), Write(Kind.BODY, ANNA, EVERY, None)):
        store._commit([Write(Kind.BODY, ANNA, "n", b"x", NOON)])
        assert store._commit([write]) == [1]
        assert keys_of(store, raw) == set()


@pytest.mark.parametrize("missing", [b"@'n'", b"sender"])
def test_a_damaged_entry_is_an_error(store: RedisStorage, raw: Any, missing: bytes) -> None:
    store._commit([Write(Kind.CURSOR, ANNA, "n", b"x")])
    raw.hdel(store._keys.of(ANNA, Kind.CURSOR), missing)
    with pytest.raises(StorageError, match="damaged"):
        everything(store, Kind.CURSOR)
    if missing != b"sender":
        with pytest.raises(StorageError, match="damaged"):
            store._commit([Write(Kind.CURSOR, ANNA, "n", b"y", None, Seen())])


def test_every_slot_of_a_cluster_has_a_tag(cluster: RedisCluster) -> None:
    assert len(set(tags())) == SLOTS
    keys = Keys("p", clustered=True)
    with cluster.client() as client:
        for sender in map(str, range(50)):
            key = keys.of(sender, Kind.OUTGOING)
            assert client.keyslot(key) == client.keyslot(keys.due(key, Kind.OUTGOING))


# ---------------------------------------------------------------- large commits


@pytest.mark.parametrize("expect", [ABSENT, ANYTHING], ids=repr)
@pytest.mark.parametrize("there", [0, 5, 2 * MANY])
def test_a_large_commit_beside_what_is_there(
    store: RedisStorage, there: int, expect: Condition
) -> None:
    """Whichever of the two is moved to the other one, and whatever both of them have."""
    before = [Write(Kind.OUTGOING, ANNA, f"x{n}", b"before", NOON) for n in range(there)]
    shared = [] if expect is ABSENT else [Write(Kind.OUTGOING, ANNA, "00007", b"before", NOON)]
    store._commit([*before, *shared])
    assert store._commit(outgoing(MANY, expect=expect)) == [1] * MANY
    found = {entry.name: entry for entry in everything(store, Kind.OUTGOING)}
    assert len(found) == store._count(Kind.OUTGOING) == there + MANY
    assert found["00007"] == Entry(Kind.OUTGOING, ANNA, "00007", b"value", NOON + 7)
    due = everything(store, Kind.OUTGOING, Where(before=NOON + 8))
    assert [entry.name for entry in due if entry.name[0] != "x"] == [f"{n:05}" for n in range(8)]


def test_a_large_commit_that_is_overtaken(store: RedisStorage, raw: Any) -> None:
    last = Write(Kind.OUTGOING, ANNA, f"{MANY - 1:05}", b"before", NOON)
    store._commit([last])
    keys = keys_of(store, raw)
    with pytest.raises(Overtaken):
        store._commit(outgoing(MANY))
    assert [entry.value for entry in everything(store, Kind.OUTGOING)] == [b"before"]
    assert keys_of(store, raw) == keys


def test_a_large_commit_whose_beginning_is_forgotten(store: RedisStorage, raw: Any) -> None:
    def slow() -> Iterator[Write]:
        yield from outgoing(MANY)
        for key in keys_of(store, raw):
            raw.delete(key)
        yield Write(Kind.OUTGOING, ANNA, "last", b"value", NOON)

    with pytest.raises(StorageUnavailable):
        store._commit(slow())
    assert everything(store, Kind.OUTGOING) == []


@pytest.mark.parametrize("use", ["claim", "page", "count", "key"])
def test_what_is_due_of_a_large_commit_is_found_by_whoever_looks(
    store: RedisStorage, use: str
) -> None:
    """First of all by the one who moves it there, as nobody has yet."""
    store._commit([Write(Kind.OUTGOING, BEN, "one", b"value", NOON + 1)])
    store._commit(outgoing(MANY))
    store._clock = lambda: NOON * 2
    if use == "claim":
        claimed = store._claim(Kind.OUTGOING, NOON * 3, 10 * MANY)
        assert len(claimed) == MANY + 1
        assert [entry.name for entry in claimed[:4]] in (
            ["00000", "00001", "one", "00002"],
            ["00000", "one", "00001", "00002"],
        )
        assert store._claim(Kind.OUTGOING, NOON * 3, 10) == []
    elif use == "count":
        assert store._count(Kind.OUTGOING) == MANY + 1
    else:
        where = Where() if use == "key" else Where(before=NOON * 2)
        assert len(everything(store, Kind.OUTGOING, where)) == MANY + 1


@pytest.mark.parametrize(
    ("kind", "sender", "value"),
    [(Kind.HANDLED, "\0" * 300_000, b"x"), (Kind.DEAD, ANNA, b"x" * 1_100_000)],
    ids=["senders", "values"],
)
def test_what_is_due_and_large_comes_a_part_at_a_time(
    store: RedisStorage, monkeypatch: pytest.MonkeyPatch, kind: Kind, sender: str, value: bytes
) -> None:
    """From the server as well as in a page, whatever it is that is large."""
    store._commit([Write(kind, sender, f"{n}", value, NOON + n, ABSENT) for n in range(8)])
    replies: list[int] = []
    run = store._server.run

    def watched(*args: Any, **options: Any) -> Any:
        reply = run(*args, **options)
        replies.append(sum(map(len, reply)))
        return reply

    monkeypatch.setattr(store._server, "run", watched)
    pages = [page.entries for page in store._pages(kind, Where(before=NOON * 2))]
    assert [entry.name for entries in pages for entry in entries] == list(map(str, range(8)))
    assert max(map(len, pages)) <= 4
    assert max(replies) < 2_500_000


def test_what_is_due_and_gone_is_forgotten(store: RedisStorage, raw: Any) -> None:
    """All of many entries go at once, and where they were due they go when they are met."""
    store._commit(outgoing(MANY))
    assert store._commit([Write(Kind.OUTGOING, ANNA, EVERY, None)]) == [MANY]
    assert everything(store, Kind.OUTGOING) == []
    store._commit([Write(Kind.OUTGOING, ANNA, "00003", b"again", NOON * 2)])
    assert store._count(Kind.OUTGOING) == 1
    assert [entry.at for entry in everything(store, Kind.OUTGOING)] == [NOON * 2]
    assert raw.zcard(store._keys.due(b"", Kind.OUTGOING)) == 1


def test_a_large_commit_keeps_the_server_busy_for_a_thousand_at_most(
    store: RedisStorage, raw: Any
) -> None:
    sizes: list[int] = []
    change = store._server.change

    def watched(script: Any, keys: Any, argv: Any, **options: Any) -> Any:
        sizes.append(len(argv))
        return change(script, keys, argv, **options)

    store._server.change = watched  # type: ignore[method-assign]
    store._commit(outgoing(MANY))
    assert max(sizes) <= 5 * 1000 + 20
    assert len(sizes) == 3
