"""Commits that fail: what is tried again and what is not, and that nothing stays locked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from salmon_state import SQLAlchemyStorage, StorageUnavailable
from salmon_state.entries import ABSENT, EVERY, Kind, Seen, Write
from salmon_state.errors import Overtaken
from salmon_state.testing.endings import elsewhere, refused
from salmon_state.testing.suite import contents
from tests.stores.sqlalchemy_places import HANG, Place, eventually

ANNA, BEN = "anna@example.com", "ben@example.com"
THERE = Seen()


def state(sender: str, value: str | None, expect: Any = THERE) -> Write:
    return Write(Kind.STATE, sender, "app", value, 1, expect)


def kill_others(place: Place) -> None:
    """Ends all connections to the database."""
    if place.kind == "postgresql":
        place.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    else:
        query = (
            "SELECT id FROM information_schema.processlist "
            f"WHERE db = '{place.database}' AND id <> connection_id()"
        )
        for (number,) in place.rows(query):
            place.run(f"KILL {number}")


@pytest.fixture
def made(served_store: SQLAlchemyStorage, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """An element for each time that the writes of a commit were made, to the last."""
    times: list[object] = []
    make = served_store._tables.make

    def counted(cursor: Any, writes: Any, **options: Any) -> Any:
        counts = make(cursor, writes, **options)
        times.append(counts)
        return counts

    monkeypatch.setattr(served_store._tables, "make", counted)
    return times


def test_what_expects_something_is_not_tried_again_when_its_commit_is_lost(
    served: Place,
    served_store: SQLAlchemyStorage,
    made: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second try would find what the first has done, and say that somebody else did it."""
    served_store.set("app", ANNA, "ONE")
    made.clear()
    commit = served_store._pool.commit

    def lost(*arguments: Any) -> None:
        kill_others(served)
        commit(*arguments)

    monkeypatch.setattr(served_store._pool, "commit", lost)
    with pytest.raises(StorageUnavailable) as caught:
        served_store.compare_and_set("app", ANNA, "ONE", "TWO")
    assert "not confirmed" in caught.value.detail
    assert len(made) == 1


def test_what_comes_but_once_is_not_tried_again(
    served: Place, served_store: SQLAlchemyStorage, made: list[object]
) -> None:
    served_store.set("app", ANNA, "ONE")
    made.clear()

    def writes() -> Iterator[Write]:
        yield state(ANNA, "TWO")
        kill_others(served)
        yield state(BEN, "TWO", ABSENT)

    with pytest.raises(StorageUnavailable):
        served_store._call(served_store._commit, writes())
    assert made == []
    assert contents(served_store) == {("app", ANNA): "ONE"}


def move_all(store: SQLAlchemyStorage) -> object:
    return store.set_all(ANNA, "MOVED")


def move_overtaken(store: SQLAlchemyStorage) -> object:
    with pytest.raises(Overtaken):
        store._commit([Write(Kind.STATE, BEN, EVERY, "MOVED", 1), state(ANNA, "X", ABSENT)])
    return None


def move_in_a_conversation(store: SQLAlchemyStorage) -> object:
    with store.conversation(BEN):
        store.set_all(ANNA, "MOVED")
    return None


def move_in_a_conversation_that_is_overtaken(store: SQLAlchemyStorage) -> object:
    with refused(store, BEN):
        store.set("app", BEN, "X")
        store.set_all(ANNA, "MOVED")
        elsewhere(store.set, "app", BEN, "OTHER")
    return None


@pytest.mark.parametrize(
    "move",
    [
        move_all,
        move_overtaken,
        move_in_a_conversation,
        move_in_a_conversation_that_is_overtaken,
    ],
)
def test_whoever_moves_all_keeps_nobody_from_it_afterwards(
    served: Place, served_store: SQLAlchemyStorage, move: Callable[[SQLAlchemyStorage], object]
) -> None:
    """Whatever became of it, another connection moves them at once."""
    served_store.set("app", ANNA, "ONE")
    move(served_store)
    if served.kind == "mariadb":
        names = "SELECT IS_FREE_LOCK('{}')"
        lock = served_store._tables.moving([Write(Kind.STATE, ANNA, EVERY, None)])
        assert served.rows(names.format(lock)) == [(1,)]
    with SQLAlchemyStorage(served.url, timeout=1) as other:
        other.set_all(ANNA, "AGAIN")
        assert other.get("app", ANNA) == "AGAIN"


def test_a_lock_that_cannot_be_given_back_after_the_commit(
    served: Place,
    served_store: SQLAlchemyStorage,
    made: list[object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is committed is not made again; the lock ends with the connection."""
    store = served_store
    if served.kind != "mariadb":
        pytest.skip("only there is a lock that outlives the transaction")
    store.set("app", ANNA, "ONE")
    made.clear()
    end_moving = store._database.end_moving

    def broken(cursor: Any, lock: str) -> None:
        kill_others(served)
        end_moving(cursor, lock)

    monkeypatch.setattr(store._database, "end_moving", broken)
    assert store.set_all(ANNA, "TWO") == 1
    assert len(made) == 1
    monkeypatch.undo()
    assert store.get("app", ANNA) == "TWO"
    assert store.set_all(ANNA, "THREE") == 1
    eventually(lambda: served.connections() == 1)
    assert "Traceback" not in caplog.text


def test_an_overtaken_commit_gives_its_connection_back(place: Place) -> None:
    """In order, with nothing locked, at once: the server would notice a closed one later."""
    with (
        SQLAlchemyStorage(place.url, pool_size=1) as store,
        SQLAlchemyStorage(place.url, timeout=1) as other,
    ):
        store.set("app", ANNA, "ONE")
        for writes in (
            [state(ANNA, "TWO", ABSENT)],
            [state(ANNA, "TWO"), state(BEN, "TWO", Seen("NOT"))],
        ):
            before = store._pool._idle[0]
            with pytest.raises(Overtaken):
                store._commit(writes)
            assert store._pool._idle == [before]
            other.set("app", ANNA, "ONE")
        assert contents(store) == {("app", ANNA): "ONE"}


@pytest.mark.parametrize("error", [ZeroDivisionError("a handler's"), KeyboardInterrupt()])
def test_sqlite_is_not_locked_by_who_failed(tmp_path: Path, error: BaseException) -> None:
    """Somebody may keep the error, and in its traceback the cursor that was being read."""
    url = f"sqlite:///{tmp_path}/states.db"

    def work(cursor: Any) -> None:
        cursor.execute("UPDATE salmon_state SET state = 'TWO'")
        cursor.execute("SELECT * FROM salmon_state")
        cursor.fetchone()
        raise error

    with SQLAlchemyStorage(url) as store, SQLAlchemyStorage(url, timeout=HANG) as other:
        for number in range(3):
            store.set("app", f"{number}@x", "ONE")
        with pytest.raises(type(error)) as caught:
            store._pool.transaction(work)
        other.set("app", ANNA, "ONE")
        assert caught.value is error
        assert set(contents(store).values()) == {"ONE"}


@pytest.mark.parametrize(("other", "apart"), [(ANNA, True), (BEN, False)])
def test_only_what_one_sender_has_is_written_at_once(
    served: Place,
    served_store: SQLAlchemyStorage,
    monkeypatch: pytest.MonkeyPatch,
    other: str,
    apart: bool,
) -> None:
    """The locks of several are won in the order of their keys, which one statement has not.

    On MariaDB there is a statement for each anyway.
    """
    said: list[Any] = []
    database = served_store._tables.database
    say_pair = database.say_pair

    def listened(cursor: Any, steps: Any) -> Any:
        said.append(steps)
        return say_pair(cursor, steps)

    monkeypatch.setattr(database, "say_pair", listened)
    mark = Write(Kind.HANDLED, other, "mail", b"", 1, ABSENT)
    with served_store.conversation(ANNA) as conversation:
        served_store.set("app", ANNA, "ONE")
        conversation.add(mark)
    assert bool(said) == (apart and served.kind == "postgresql")
