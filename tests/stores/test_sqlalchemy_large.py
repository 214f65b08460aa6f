"""Many conversations: what goes through all of them does so with bounded memory and in batches."""

from __future__ import annotations

import random
import resource
import time
import tracemalloc
from datetime import timedelta
from typing import Any

import pytest

from salmon_state import ConversationBusy, SQLAlchemyStorage, StorageError, StorageUnavailable
from salmon_state.entries import Kind, Write
from salmon_state.testing.endings import elsewhere
from salmon_state.testing.suite import contents
from tests.services import PASSWORD
from tests.stores.sqlalchemy_places import HANG, RIGHTS, Place

pytestmark = pytest.mark.slow

ROWS = 40_000
CHUNK = 20_000
MEMORY = 24 * 2**20
"""In bytes; all records at once would take more than this even in the smaller test."""

SOON = 10.0
"""In seconds: far more than is needed, and less than the stores' timeout where it is compared."""


def fill(store: SQLAlchemyStorage, rows: int) -> None:
    for start in range(0, rows, CHUNK):
        store._commit(
            Write(
                Kind.STATE,
                f"{number}@x",
                "app" if number % 2 else "other",
                f"S{number % 3}",
                number,
            )
            for number in range(start, start + CHUNK)
        )


def stream(store: SQLAlchemyStorage, rows: int) -> None:
    """Reads all records, with a ceiling on the memory that it takes."""
    records = store.records()
    next(records)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        count = 1 + sum(1 for _ in records)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == rows
    assert peak < MEMORY
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
    assert grown * 1024 < 4 * MEMORY


def sweep(place: Place, store: SQLAlchemyStorage, rows: int) -> None:
    """Renames, purges and clears, and looks at what is left each time."""
    third = len(range(1, rows, 6))  # odd and in S1: 1, 7, 13, ...
    assert store.rename("app", "S1", "RENAMED") == third
    assert store.rename("app", "S1", "RENAMED") == 0
    assert place.rows("SELECT count(*) FROM salmon_state WHERE state = 'RENAMED'") == [(third,)]
    assert store.rename("app", "RENAMED", "START") == third
    assert len(store) == rows - third
    store.set("app", "young@x", "S0")
    old = len(range(0, rows, 2))
    assert store.purge(older_than=timedelta(days=1), module="other") == old
    assert len(store) == rows - third - old + 1
    assert store.purge(older_than=timedelta(days=1)) == rows - third - old
    assert [record.sender for record in store] == ["young@x"]


def test_records_are_streamed_and_swept(place: Place, store: SQLAlchemyStorage) -> None:
    fill(store, ROWS)
    stream(store, ROWS)
    sweep(place, store, ROWS)


@pytest.mark.stress
def test_a_million_conversations(place: Place, store: SQLAlchemyStorage) -> None:
    fill(store, 1_000_000)
    stream(store, 1_000_000)
    sweep(place, store, 1_000_000)
    fill(store, 1_000_000)
    store.clear()
    assert len(store) == 0


@pytest.fixture
def batches(store: SQLAlchemyStorage, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each transaction changed."""
    sizes: list[int] = []
    transaction = store._pool.transaction

    def counted(*arguments: Any, **options: Any) -> Any:
        result = transaction(*arguments, **options)
        sizes.append(result)
        return result

    monkeypatch.setattr(store._pool, "transaction", counted)
    return sizes


def test_records_of_long_senders(store: SQLAlchemyStorage) -> None:
    """A page of them would be gigabytes: they are read one at a time."""
    length, rows, most = 2**17, 60, MEMORY // 8
    senders = [random.Random(number).randbytes(length).decode("latin-1") for number in range(rows)]
    for number, sender in enumerate(senders):
        store.set("app", sender, f"S{number}")
    assert rows * length > 2 * most
    expected = {f"S{number}": hash(sender) for number, sender in enumerate(senders)}
    del senders
    tracemalloc.start()
    try:
        found = {record.state: hash(record.sender) for record in store.records()}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == expected
    assert peak < most


def test_a_long_sender_that_is_removed_meanwhile(
    store: SQLAlchemyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its row was found, and before what is long is read alone."""
    senders = [random.Random(number).randbytes(20_000).decode("latin-1") for number in range(4)]
    for sender in senders:
        store.set("app", sender, "POSTING")
    run = store._pool.run

    def forget() -> None:
        for sender in senders[1:]:
            store.set("app", sender, "START")

    def removed_meanwhile(*arguments: Any) -> Any:
        found = run(*arguments)
        if isinstance(found, (list, tuple)) and len(found) == len(senders):
            elsewhere(forget)
        return found

    monkeypatch.setattr(store._pool, "run", removed_meanwhile)
    assert [record.sender for record in store.records()] == senders[:1]


def test_more_than_the_server_takes(mariadb: Any) -> None:
    """It would close the connection without a word."""
    place = Place("mariadb", mariadb.fresh_database(), mariadb)
    before = place.rows("SELECT @@global.max_allowed_packet")[0][0]
    place.run("SET GLOBAL max_allowed_packet = 2097152")
    try:
        with SQLAlchemyStorage(place.url) as store:
            for value in (b"x" * 2_097_152, b"\0" * 1_048_576):
                with pytest.raises(StorageError, match=r"max_allowed_packet.*2,097,152") as refused:
                    store._call(store._commit, [Write(Kind.BODY, "a@x", "1", value, 1)])
                assert not isinstance(refused.value, StorageUnavailable)
                assert store._load("a@x", [(Kind.BODY, "1")]) == []
            store._commit([Write(Kind.BODY, "a@x", "1", b"x" * 1_000_000, 1)])
    finally:
        place.run(f"SET GLOBAL max_allowed_packet = {before}")


def test_batches_are_bounded(store: SQLAlchemyStorage, batches: list[int]) -> None:
    fill(store, CHUNK)
    batches.clear()
    assert store.rename("app", "NOWHERE", "RENAMED") == 0
    assert batches == [0] * (CHUNK // 5_000)  # however few match, so many rows are gone through
    batches.clear()
    assert store.rename("app", "S1", "RENAMED") == sum(batches)
    assert store.purge(older_than=timedelta(days=1)) == CHUNK
    assert len(batches) > 4
    assert max(batches) <= 5_000


def test_one_sender_with_more_modules_than_a_batch_holds(store: SQLAlchemyStorage) -> None:
    """The null sender, perhaps, with a state key generator."""
    store._commit(Write(Kind.STATE, "", f"app{number}", "S", 1) for number in range(12_000))
    store._commit(Write(Kind.STATE, f"{number}@x", "app", "S", 1) for number in range(3_000))
    assert len({record[:2] for record in store}) == 15_000
    assert len(list(store.records(sender=""))) == 12_000
    assert store.set_all("", "T") == 12_000
    assert store.rename("app7", "T", "U") == 1
    store._commit(Write(Kind.STATE, "", f"app{number}", "V", 1) for number in range(12_000))
    assert store.purge(older_than=timedelta(days=1), state="V") == 12_000
    assert len(store) == 3_000


def test_records_while_they_are_changed(store: SQLAlchemyStorage) -> None:
    fill(store, CHUNK)
    seen = set()
    for number, record in enumerate(store.records()):
        assert (record.module, record.sender) not in seen
        seen.add((record.module, record.sender))
        if number % 500 == 0:
            store.set(record.module, record.sender, "CHANGED")
            store.set("new", f"{number}@new", "NEW")
    assert len(seen) >= CHUNK


def test_clear_of_a_user_who_may_not_truncate(served: Place) -> None:
    with SQLAlchemyStorage(served.url) as store:
        fill(store, CHUNK)
    url = served.user(*RIGHTS)
    assert PASSWORD in url
    with SQLAlchemyStorage(url) as store:
        store.clear()
        assert len(store) == 0
        store.set("app", "a@x", "POSTING")
        assert store.get("app", "a@x") == "POSTING"


def test_clear_while_somebody_reads(served: Place) -> None:
    """A reader whose transaction is open keeps the table from being emptied in one go."""
    with SQLAlchemyStorage(served.url, timeout=HANG) as store:
        fill(store, CHUNK)
        with served.administrator() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT count(*) FROM salmon_state")
            started = time.monotonic()
            store.clear()
            assert time.monotonic() - started < SOON
            assert len(store) == 0
            cursor.execute("ROLLBACK")
        store.set("app", "a@x", "POSTING")
        store.clear()
        assert len(store) == 0


def test_clear_beside_open_conversations(served: Place) -> None:
    """Inside one and beside another, which has read the states of others as well."""
    with (
        SQLAlchemyStorage(served.url, timeout=HANG) as store,
        SQLAlchemyStorage(served.url, timeout=HANG) as other,
    ):
        for sender in ("a@x", "b@x"):
            store.set("app", sender, "POSTING")
        lost = other.conversation("a@x")
        lost.__enter__()
        assert other.get("app", "a@x") == "POSTING"
        other.set("app", "a@x", "LOST")
        with store.conversation("b@x") as conversation:
            assert conversation.connection is not None
            assert store.get("app", "a@x") == "POSTING"
            started = time.monotonic()
            store.clear()
            assert time.monotonic() - started < SOON
            store.set("app", "b@x", "AGAIN")
        with pytest.raises(ConversationBusy):  # it went by a state that is gone
            lost.__exit__(None, None, None)
        assert contents(store) == {("app", "b@x"): "AGAIN"}
        for each in (store, other):
            with each.conversation("a@x", timeout=0):
                each.set("app", "a@x", each.get("app", "a@x") + "ED")
        assert store.get("app", "a@x") == "STARTEDED"
