"""What is in Redis, and what happens when somebody else has put something there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest

from salmon_state import ConfigurationError, StorageError, StorageUnavailable
from salmon_state.entries import Kind, Where, Write
from salmon_state.stores.redis import RedisStorage, pages
from salmon_state.stores.redis.entries import Keys, decode_value
from salmon_state.testing.suite import contents, fill, set_clock
from tests.redis_services import RedisCluster, RedisServer

MODULE, SENDER = "app.handlers", "anna@example.com"
FIELD = b"'app.handlers'"


def key_of(prefix: str, sender: str | None = SENDER) -> bytes:
    return f"{prefix}:{{{hashlib.sha256(ascii(sender).encode()).hexdigest()}}}".encode()


# ---------------------------------------------------------------- the format


def test_what_is_stored(store: RedisStorage, raw: Any, prefix: str) -> None:
    """Pinned: whoever changes it must read the old one for ever."""
    set_clock(store, 1_700_000_000_123_456)
    store.set(MODULE, SENDER, "POSTING")
    store.set("ü", SENDER, "É \\ x")
    store._commit([Write(Kind.STATE, "é\udcff'\"@x", MODULE, "OLD", None)])
    assert raw.hgetall(key_of(prefix)) == {
        b"sender": b"'anna@example.com'",
        FIELD: b"1700000000123456 POSTING",
        b"'\\xfc'": rb"1700000000123456 \xc9\x20\\\x20x",
    }
    assert raw.hgetall(key_of(prefix, "é\udcff'\"@x")) == {
        b"sender": b"'\\xe9\\udcff\\'\"@x'",
        FIELD: b"- OLD",
    }
    assert contents(store)["ü", SENDER] == "É \\ x"


def test_nothing_is_left_of_the_last_state(store: RedisStorage, raw: Any) -> None:
    store.set("one", SENDER, "A")
    store.set("two", SENDER, "A")
    store.set("one", SENDER, "START")
    assert len(store) == 1
    assert store.compare_and_set("two", SENDER, "A", "START")
    store.set("one", SENDER, "A")
    assert store.set_all(SENDER, "START") == 1
    store.set("one", SENDER, "A")
    assert store.rename("one", "A", "START") == 1
    store.set("one", SENDER, "A")
    set_clock(store, 2**51)
    assert store.purge(older_than=timedelta(0)) == 1
    with store.conversation(SENDER):
        store.set("one", SENDER, "A")
    with store.conversation(SENDER):
        store.set("one", SENDER, "START")
    assert not list(raw.scan_iter(match=store._keys.everything))


@pytest.mark.parametrize("prefix_", ["", "a{b", "a}", "\udcff", 7, None, b"x"])
def test_prefixes_that_cannot_be(server: RedisServer, prefix_: Any) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        RedisStorage(server.url(), prefix=prefix_)


def test_prefixes_do_not_meet(server: RedisServer, prefix: str, raw: Any) -> None:
    prefixes = [prefix, f"{prefix}:", f"{prefix}x", f"x{prefix}", prefix.upper(), f"{prefix}:a"]
    prefixes += [prefix.replace("*", "?"), prefix.replace("*", "**"), "*", "[a-z]*", "\\*", "é "]
    stores = [RedisStorage(server.url(), prefix=each) for each in prefixes]
    raw.set(f"{prefix}:other", "1")
    raw.hset(f"{prefix}:other2", "sender", "1")
    for number, store in enumerate(stores):
        store.set(MODULE, SENDER, f"S{number}")
    for number, store in enumerate(stores):
        assert contents(store) == {(MODULE, SENDER): f"S{number}"}
        assert store.rename(MODULE, f"S{number}", f"T{number}") == 1
    for number, store in enumerate(stores):
        store.clear()
        assert [len(each) for each in stores] == [int(n > number) for n in range(len(stores))]
    for store in stores:
        store.close()
    assert raw.get(f"{prefix}:other") == b"1"
    assert raw.exists(f"{prefix}:other2")


def test_databases_do_not_meet(server: RedisServer, prefix: str) -> None:
    with (
        RedisStorage(server.url(db=1), prefix=prefix) as one,
        RedisStorage(server.url(db=2), prefix=prefix) as two,
    ):
        one.set(MODULE, SENDER, "ONE")
        two.set(MODULE, SENDER, "TWO")
        one.clear()
        assert two.get(MODULE, SENDER) == "TWO"


# ---------------------------------------------------------------- what others have written

BAD_VALUES = [
    *(b"", b" ", b"POSTING", b"5", b"5 ", b" POSTING", b"5  POSTING", b"5 POST ING", b"- "),
    *(b"5 START", b"- START", b"five POSTING", b"5.0 POSTING", b"+5 POSTING", b"5 POSTING\n"),
    *(b"5 POSTING\0", b"5 \xc3\x89", b"\xff\xfe", b"5 \xff", "\u0665 POSTING".encode()),
    *(b"5 POST\\q", b"5 \\x50OSTING", b"5 \\x53TART", b"5 \\", b"5 \\N{BULLET}", b"-- POSTING"),
    *(b"999999999999999999999 POSTING", b"\x80\x04\x95", b'{"state": "POSTING"}', b"1", b"NULL"),
]


def attempts(store: RedisStorage) -> dict[str, Callable[[], object]]:
    def converse() -> None:
        with store.conversation(SENDER):
            pass

    def overtake() -> None:
        with store.conversation("ben@example.com"):
            store.set_all(SENDER, "BANNED")

    return {
        "get": lambda: store.get(MODULE, SENDER),
        "records": lambda: list(store),
        "records of": lambda: list(store.records(sender=SENDER)),
        "set_all": lambda: store.set_all(SENDER, "ASKING"),
        "rename": lambda: store.rename(MODULE, "POSTING", "ASKING"),
        "purge": lambda: store.purge(older_than=timedelta(0)),
        "compare_and_set": lambda: store.compare_and_set(MODULE, SENDER, "START", "ASKING"),
        "conversation": converse,
        "another's conversation": overtake,
    }


@pytest.mark.parametrize("value", BAD_VALUES, ids=ascii)
def test_a_damaged_value_is_an_error(
    store: RedisStorage, raw: Any, prefix: str, value: bytes
) -> None:
    store.set("other", SENDER, "FINE")
    raw.hset(key_of(prefix), FIELD.decode(), value)
    before = raw.hgetall(key_of(prefix))
    lenient = {"set_all", "compare_and_set", "another's conversation"}
    for name, attempt in attempts(store).items():
        if name in lenient and value in ESCAPED:
            continue  # the server compares what is written and decodes nothing
        with pytest.raises(StorageError) as caught:
            attempt()
        assert not isinstance(caught.value, StorageUnavailable), name
        assert MODULE in str(caught.value), name
        assert hashlib.sha256(b"'anna@example.com'").hexdigest() in str(caught.value), name
        assert raw.hgetall(key_of(prefix)) == before, name
    assert store.get("other", SENDER) == "FINE"
    store.set(MODULE, SENDER, "ASKING")
    assert store.get(MODULE, SENDER) == "ASKING"


ESCAPED = [
    *(b"5 START", b"- START", b"5 POST\\q", b"5 \\x50OSTING", b"5 \\x53TART", b"5 \\"),
    *(b"5 \\N{BULLET}", b"999999999999999999999 POSTING"),
]


@pytest.mark.parametrize(
    "field",
    [
        *(b"", b"app.handlers", b"'a", b"'a', 'b'", b'"app.handlers"', b"b'a'", b"['a']", b"7"),
        *(b"None", b"'\xff'", b"'\\x61'", b"\xff", b"Sender", b"'a'\n", b"'a' ", b"('a')"),
    ],
    ids=ascii,
)
def test_a_damaged_field_is_an_error(
    store: RedisStorage, raw: Any, prefix: str, field: bytes
) -> None:
    store.set(MODULE, SENDER, "POSTING")
    raw.execute_command("HSET", key_of(prefix), field, "5 POSTING")
    with pytest.raises(StorageError, match="damaged"):
        list(store)
    with pytest.raises(StorageError, match="damaged"), store.conversation(SENDER):
        pass
    assert store.get(MODULE, SENDER) == "POSTING"
    store.clear()
    assert contents(store) == {}


@pytest.mark.parametrize("text", [None, b"", b"nonsense", b"'ben@example.com'", b"\xff", b"None"])
def test_a_damaged_sender_is_an_error(
    store: RedisStorage, raw: Any, prefix: str, text: bytes | None
) -> None:
    store.set(MODULE, SENDER, "POSTING")
    if text is None:
        raw.hdel(key_of(prefix), "sender")
        with pytest.raises(StorageError, match="sender"):
            len(store)
    else:
        raw.execute_command("HSET", key_of(prefix), "sender", text)
    for read in (lambda: list(store), lambda: list(store.records(sender=SENDER))):
        with pytest.raises(StorageError, match="sender"):
            read()
    store.set(MODULE, SENDER, "ASKING")  # writes the sender as well
    assert contents(store) == {(MODULE, SENDER): "ASKING"}


@pytest.mark.parametrize("kind", ["string", "list", "set", "zset", "stream"])
def test_a_key_of_another_type_is_an_error(
    store: RedisStorage, raw: Any, prefix: str, kind: str
) -> None:
    key = key_of(prefix)
    make: dict[str, tuple[Any, ...]] = {
        "string": ("SET", key, "5 POSTING"),
        "list": ("RPUSH", key, "sender", "x"),
        "set": ("SADD", key, "sender"),
        "zset": ("ZADD", key, 1, "sender"),
        "stream": ("XADD", key, "*", "sender", "x"),
    }
    raw.execute_command(*make[kind])
    for name, attempt in {
        **attempts(store),
        "len": lambda: len(store),
        "set": lambda: store.set(MODULE, SENDER, "ASKING"),
        "remove": lambda: store.set(MODULE, SENDER, "START"),
    }.items():
        with pytest.raises(StorageError) as caught:
            attempt()
        assert not isinstance(caught.value, StorageUnavailable), name
        assert hashlib.sha256(b"'anna@example.com'").hexdigest() in str(caught.value), name
    assert raw.type(key) == kind.encode()
    assert raw.exists(key + b":lease") == 0
    store.clear()
    assert contents(store) == {}


def test_keys_of_others_under_the_prefix(store: RedisStorage, raw: Any, prefix: str) -> None:
    store.set(MODULE, SENDER, "POSTING")
    raw.hset(f"{prefix}:{{sessions}}", "user", "anna")
    for read in (lambda: list(store), lambda: len(store)):
        with pytest.raises(StorageError, match="sessions"):
            read()
    assert store.get(MODULE, SENDER) == "POSTING"


def test_a_lease_of_another_type(store: RedisStorage, raw: Any, prefix: str) -> None:
    raw.execute_command("HSET", key_of(prefix) + b":lease", "a", "b")
    with pytest.raises(StorageError, match="lease"), store.conversation(SENDER):
        pass


def test_times_before_1970_and_after_all_calendars(
    store: RedisStorage, raw: Any, prefix: str
) -> None:
    raw.execute_command("HSET", key_of(prefix), "sender", "'anna@example.com'", FIELD, "-5 OLD")
    (record,) = store
    assert record.updated_at is not None
    assert record.updated_at.year == 1969
    assert store.compare_and_set(MODULE, SENDER, "OLD", "NEW")
    raw.execute_command("HSET", key_of(prefix), FIELD, "999999999999999999 OLD")
    with pytest.raises(StorageError, match="damaged"):
        list(store)


def test_values_that_are_right() -> None:
    assert decode_value(b"5 POSTING") == (5, "POSTING")
    assert decode_value(b"- \\xc9") == (None, "É")


# ---------------------------------------------------------------- whatever the client decodes


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decode_responses": True},
        {"decode_responses": True, "encoding": "latin-1"},
        {"decode_responses": True, "encoding": "ascii", "encoding_errors": "ignore"},
        {"protocol": 2},
        {"protocol": 3, "decode_responses": True},
        {"single_connection_client": True},
    ],
    ids=ascii,
)
def test_clients_of_all_kinds(
    server: RedisServer, prefix: str, raw: Any, options: dict[str, Any]
) -> None:
    with server.client(**options) as client, RedisStorage(client=client, prefix=prefix) as store:
        use_everything(store)
        raw.execute_command("HSET", key_of(prefix), FIELD, b"5 \xff\xfe")
        for attempt in attempts(store).values():
            with pytest.raises(StorageError, match="damaged"):
                attempt()
        store.close()
        assert client.ping()  # it is not ours to close
    with pytest.raises(StorageUnavailable):
        store.get(MODULE, SENDER)


@pytest.mark.parametrize("decode", [False, True])
def test_clients_of_a_cluster(cluster: RedisCluster, prefix: str, decode: bool) -> None:
    with cluster.client(decode_responses=decode) as client:
        with RedisStorage(client=client, prefix=prefix) as store:
            use_everything(store)
        assert client.ping()


def use_everything(store: RedisStorage) -> None:
    set_clock(store, 2_000_000)
    store.set(MODULE, SENDER, "É")
    assert store.get(MODULE, SENDER) == "É"
    assert store.compare_and_set(MODULE, SENDER, "É", "A")
    assert store.set_all(SENDER, "B") == 1
    assert store.rename(MODULE, "B", "C") == 1
    fill(store, [(MODULE, f"é{number}@x", "D") for number in range(20)], updated_at=0)
    with store.conversation(SENDER):
        assert store.get(MODULE, SENDER) == "C"
        store.set(MODULE, SENDER, "E")
        store.set(MODULE, "é1@x", "E")
        store.set_all("é2@x", "F")
    assert contents(store, sender=SENDER) == {(MODULE, SENDER): "E"}
    assert contents(store, state="F") == {(MODULE, "é2@x"): "F"}
    assert store.purge(older_than=timedelta(seconds=1)) == 18
    assert len(store) == 3
    store.clear()
    store.set(MODULE, SENDER, "POSTING")
    assert contents(store) == {(MODULE, SENDER): "POSTING"}


# ---------------------------------------------------------------- time to live


@pytest.mark.parametrize("ttl", [100, 100.0, timedelta(seconds=100)])
def test_time_to_live(server: RedisServer, raw: Any, prefix: str, ttl: Any) -> None:
    key = key_of(prefix)
    left: Callable[[], Any] = lambda: raw.pttl(key)  # noqa: E731
    with RedisStorage(server.url(), prefix=prefix, ttl=ttl) as store:

        def refreshes(change: Callable[[], object]) -> bool:
            raw.pexpire(key, 50_000)
            change()
            assert 0 < left() <= 100_000
            return bool(left() > 50_000)

        store.set(MODULE, SENDER, "A")
        assert 90_000 < left() <= 100_000
        assert refreshes(lambda: store.set("other", SENDER, "A"))
        assert refreshes(lambda: store.set_all(SENDER, "B"))
        assert refreshes(lambda: store.compare_and_set(MODULE, SENDER, "B", "C"))
        assert not refreshes(lambda: store.get(MODULE, SENDER))
        assert not refreshes(lambda: store.rename(MODULE, "C", "D"))
        assert not refreshes(lambda: store.compare_and_set(MODULE, SENDER, "X", "Y"))
        assert not refreshes(lambda: store.set("other", SENDER, "START"))

        def converse() -> None:
            with store.conversation(SENDER):
                store.set(MODULE, SENDER, "E")

        assert refreshes(converse)
        raw.pexpire(key, 1)
        while raw.exists(key):
            pass
        assert store.get(MODULE, SENDER) == "START"
        assert contents(store) == {}


@pytest.mark.parametrize("ttl", [0, -1, "7", True, timedelta(0), timedelta(days=-1), float("nan")])
def test_times_to_live_that_cannot_be(server: RedisServer, ttl: Any) -> None:
    with pytest.raises(ConfigurationError, match="ttl"):
        RedisStorage(server.url(), ttl=ttl)


# ---------------------------------------------------------------- scans


def test_each_once_while_the_table_of_keys_shrinks(
    store: RedisStorage, raw: Any, prefix: str
) -> None:
    """Redis repeats keys when its table shrinks in the middle of a scan; `records` does not."""
    raw.config_set("activerehashing", "yes")
    fill(store, [(MODULE, f"{number}@x", "POSTING") for number in range(3_000)])
    others = [f"{prefix}-others-{number}" for number in range(60_000)]
    for start in range(0, len(others), 10_000):
        raw.mset(dict.fromkeys(others[start : start + 10_000], "x"))
    repeated: list[bytes] = []
    seen: list[str | None] = []
    scan = store._server.scan

    def watched(pool: Any, pattern: bytes) -> Any:
        for keys in scan(pool, pattern):
            repeated.extend(keys)
            yield keys

    store._server.scan = watched  # type: ignore[method-assign]
    try:
        for record in store:
            seen.append(record.sender)
            if len(seen) % 100 == 0 and others:
                doomed, others = others[:10_000], others[10_000:]
                raw.unlink(*doomed)
    finally:
        del store._server.scan
        if others:
            raw.unlink(*others)
    assert sorted(map(str, seen)) == sorted(f"{number}@x" for number in range(3_000))
    assert len(repeated) >= len(seen)


def test_repeated_keys(store: RedisStorage) -> None:
    fill(store, [(MODULE, f"{number}@x", "POSTING") for number in range(50)])
    scan = store._server.scan

    def stuttering(pool: Any, pattern: bytes) -> Any:
        for keys in scan(pool, pattern):
            yield keys + keys[:3]
            yield keys[::-1]

    store._server.scan = stuttering  # type: ignore[method-assign]
    assert len(contents(store)) == 50
    assert len(store) == 50
    assert store.rename(MODULE, "POSTING", "ASKING") == 50
    set_clock(store, 2**51)
    assert store.purge(older_than=timedelta(0)) == 50


def test_what_changes_between_finding_and_changing(store: RedisStorage) -> None:
    """Somebody sets the state again just before it is renamed or purged: that one stays."""
    fill(store, [(MODULE, SENDER, "OLD")], updated_at=0)
    set_clock(store, 10**9)
    commit = store._commit

    def slow(writes: Iterable[Write]) -> list[int]:
        store._commit = commit  # type: ignore[method-assign]
        store.set(MODULE, SENDER, "OLD")
        return commit(writes)

    store._commit = slow  # type: ignore[method-assign]
    assert store.purge(older_than=timedelta(seconds=1)) == 0
    assert store.get(MODULE, SENDER) == "OLD"
    store._commit = slow  # type: ignore[method-assign]
    assert store.rename(MODULE, "OLD", "NEW") == 1
    assert store.get(MODULE, SENDER) == "NEW"


def test_the_server_is_never_kept_busy(store: RedisStorage, raw: Any) -> None:
    fill(store, [(MODULE, f"{number}@x", "POSTING") for number in range(2_000)])
    raw.config_resetstat()
    assert len(store) == len(contents(store)) == 2_000
    store.rename(MODULE, "POSTING", "ASKING")
    store.clear()
    used = {name.removeprefix("cmdstat_") for name in raw.info("commandstats")}
    assert not used & {"keys", "flushdb", "flushall", "randomkey", "sort"}
    assert {"scan", "unlink"} <= used


def test_many_large_senders_are_read_a_few_at_a_time(url: str, prefix: str) -> None:
    store = RedisStorage(url, prefix=prefix)
    senders = [f"{number}" + "\0" * 400_000 for number in range(12)]
    for sender in senders:
        store.set(MODULE, sender, "POSTING")
    sizes: list[int] = []
    run_each = store._server.run_each

    def watched(pool: Any, script: Any, groups: Any, argv: Any) -> Any:
        replies = run_each(pool, script, groups, argv)
        sizes.append(sum(bool(found) for reply in replies for found in reply))
        return replies

    store._server.run_each = watched  # type: ignore[method-assign]
    assert {record.sender for record in store} == set(senders)
    assert max(sizes) <= 2
    store.close()


@pytest.mark.parametrize("count", [0, 700])
def test_a_page_looks_at_some_keys_however_few_of_them_match(
    store: RedisStorage, raw: Any, prefix: str, count: int
) -> None:
    """Of others' keys, too, of which there may be very many."""
    for number in range(count):
        store.set(MODULE, f"{number}@example.com", "POSTING")
    others = [f"other {prefix} {number}" for number in range(3000)]
    raw.mset(dict.fromkeys(others, "x"))
    try:
        raw.scan()  # a server counts what was asked once
        calls = raw.info("commandstats")["cmdstat_scan"]["calls"]
        pages = list(store._pages(Kind.STATE, Where(value="NOBODY")))
        assert not any(page.entries for page in pages)
        assert raw.info("commandstats")["cmdstat_scan"]["calls"] - calls == len(pages) - 1
        assert len(pages) > 3
    finally:
        raw.delete(*others)


def test_servers_that_do_not_know_a_script_are_told_it_once(
    cluster: RedisCluster, prefix: str
) -> None:
    """And not for each of the keys that are looked at together."""
    with RedisStorage(cluster.url(), prefix=prefix) as store:
        senders = {f"{number}@example.com" for number in range(60)}
        for sender in senders:
            store.set(MODULE, sender, "POSTING")
        with cluster.client() as client:
            client.script_flush()
        asked: list[object] = []
        run = store._server.run

        def watched(script: Any, keys: Any, argv: Any, *, again: bool = False) -> Any:
            asked.append(keys)
            return run(script, keys, argv, again=again)

        store._server.run = watched  # type: ignore[method-assign]
        assert {record.sender for record in store} == senders
        assert len(asked) <= len(store._server.pools())


def test_a_pattern_of_any_prefix() -> None:
    assert Keys("a*[b]?\\^-c").pattern(Kind.STATE) == rb"a\*\[b\]\?\\\^\-c:{*}"


def test_what_is_no_digest_is_never_taken_for_seen() -> None:
    """A key that is cut short is damage, which whoever reads it tells."""
    seen = pages._Seen()
    whole = b"0123456789abcdef" * 2
    assert [seen.add(whole), seen.add(whole)] == [True, False]
    assert all(seen.add(damaged) for damaged in (b"", b"01", b"0123", b"0123456789", b"x" * 32))
