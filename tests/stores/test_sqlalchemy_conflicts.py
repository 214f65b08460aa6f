"""Deadlocks and serialization failures: tried again, and an error in the end."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import SQLAlchemyStorage, StorageUnavailable
from salmon_state.entries import Kind, Write, in_order
from salmon_state.stores.encoding import name_digest, sender_digest
from tests.stores.sqlalchemy_places import HANG, Place, run_threads

UPDATE = "UPDATE salmon_state SET state = %s WHERE sender_digest = %s AND module_digest = %s"


def row(sender: str) -> tuple[bytes, bytes]:
    return sender_digest(sender), name_digest("app")


def test_a_deadlock_is_resolved(served: Place, served_store: SQLAlchemyStorage) -> None:
    """Two transactions wait for each other; the database ends one, and both happen."""
    store = served_store
    store.set("app", "a@x", "BEFORE")
    store.set("app", "b@x", "BEFORE")
    both_hold_one = threading.Barrier(2)
    tries = []

    def move(first: str, second: str, state: str) -> None:
        once = [both_hold_one]

        def work(cursor: Any) -> None:
            tries.append(state)
            cursor.execute(UPDATE, (state, *row(first)))
            if once:
                once.pop().wait(HANG)
            cursor.execute(UPDATE, (state, *row(second)))

        store._pool.transaction(work)

    orders = [("a@x", "b@x", "ONE"), ("b@x", "a@x", "TWO")]
    run_threads(lambda: move(*orders.pop()), 2)
    assert len(tries) > 2, "there was no deadlock"
    assert store.get("app", "a@x") == store.get("app", "b@x") in ("ONE", "TWO")


def test_writes_of_several_states_meet_in_any_order(served_store: SQLAlchemyStorage) -> None:
    """They are made in one order, so that they do not even deadlock."""
    store = served_store
    senders = [f"{number}@x" for number in range(20)]

    def write() -> None:
        for step in range(15):
            order = senders if (threading.get_ident() + step) % 2 else senders[::-1]
            writes = [Write(Kind.STATE, sender, "app", f"S{step}", 1) for sender in order]
            store._commit(in_order(writes))

    run_threads(write, 6)
    assert {record.state for record in store} == {"S14"}


@pytest.mark.parametrize("isolation", ["serializable", "repeatable read"])
def test_a_strict_default_isolation(served: Place, isolation: str) -> None:
    """Whatever the administrator made the default, calls that meet are tried again."""
    if served.kind == "postgresql":
        served.run(
            f"ALTER DATABASE {served.database} SET default_transaction_isolation = '{isolation}'"
        )
        before = None
    else:
        before = served.rows("SELECT @@global.tx_isolation")[0][0]
        served.run(f"SET GLOBAL TRANSACTION ISOLATION LEVEL {isolation}")
    try:
        with SQLAlchemyStorage(served.url) as store:
            hits = []

            def work() -> None:
                for _ in range(60):
                    state = store.get("app", "a@x")
                    following = f"S{int(state[1:]) + 1}" if state != "START" else "S1"
                    hits.append(store.compare_and_set("app", "a@x", state, following))
                    store.set("app", "b@x", following)
                    store.set_all("b@x", "MOVED")

            run_threads(work, 6)
            assert store.get("app", "a@x") == f"S{sum(hits)}"
    finally:
        if before is not None:
            served.run(f"SET GLOBAL tx_isolation = '{before}'")


def test_a_conflict_without_end_is_an_error(served: Place, served_store: SQLAlchemyStorage) -> None:
    calls = []

    def always(driver: Any) -> None:
        calls.append(1)
        cursor = driver.cursor()
        cursor.execute(
            "DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"
            if served.kind == "postgresql"
            else "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"
        )

    with pytest.raises(StorageUnavailable) as caught:
        served_store._call(served_store._pool.run, always)
    assert caught.value.__cause__ is not None
    assert 2 <= len(calls) <= 10
    served_store.set("app", "a@x", "POSTING")


def test_an_open_transaction_of_somebody_else_does_not_block_reading(
    served: Place, served_store: SQLAlchemyStorage
) -> None:
    served_store.set("app", "a@x", "POSTING")
    with served.administrator() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE salmon_state SET state = 'NEVER'")
        assert served_store.get("app", "a@x") == "POSTING"
        assert [record.state for record in served_store] == ["POSTING"]
        cursor.execute("ROLLBACK")


def test_the_store_reads_what_the_application_commits(
    served: Place, served_store: SQLAlchemyStorage
) -> None:
    served_store.set("app", "a@x", "POSTING")
    engine = sa.create_engine(served.url)
    with engine.begin() as connection:
        connection.execute(served_store.table.update().values(state="OTHER"))
    engine.dispose()
    assert served_store.get("app", "a@x") == "OTHER"
