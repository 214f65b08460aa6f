"""What version 1 wrote is opened by this one, whoever else is at it, and goes on.

The files in ``version_1`` were written by version 1: one of SQLite's, and dumps of its tables in
PostgreSQL and MariaDB. In each are the hostile keys of the kit, keys that are so long that they are
compressed, in both forms, and times that are not known. What each state is follows from its key.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import ConfigurationError, SQLAlchemyStorage
from salmon_state.entries import Kind, Where, Write
from salmon_state.keys import Sender, ascii_key
from salmon_state.stores.encoding import encode_key, name_digest, sender_digest
from salmon_state.stores.sqlalchemy import SCHEMA_VERSION
from tests.stores.sqlalchemy_places import HANG, RIGHTS, Place
from tests.stores.sqlalchemy_workers import CONTEXT, open_and_set, processes

DUMPS = Path(__file__).parent / "version_1"
ROWS, WITHOUT_TIME = 226, 32
OUTGOING = Write(Kind.OUTGOING, "a@x", "1", b"to be sent", 1)


def state_of(module: str, sender: Sender) -> str:
    return "S" + hashlib.sha256(ascii_key(module, sender).encode()).hexdigest()[:12]


@pytest.fixture
def old(place: Place) -> Place:
    """A database as version 1 left it."""
    if place.kind == "sqlite":
        shutil.copy(DUMPS / "states.db", place.database)
        Path(place.database).chmod(0o600)
        return place
    dump = (DUMPS / f"{place.kind}.sql").read_text()
    # Keys and states are in ASCII, in which a line that ends is written as an escape.
    statements = re.split(r";\n", re.sub(r"^--.*\n", "", dump, flags=re.MULTILINE))
    place.run(*(each for each in statements if each.strip() and not each.isspace()))
    return place


def check(store: SQLAlchemyStorage, rows: int = ROWS) -> None:
    """Everything is there, as it was written."""
    assert len(store) == rows
    records = list(store.records())
    assert len({record[:2] for record in records}) == rows
    assert sum(record.updated_at is None for record in records) == WITHOUT_TIME
    for module, sender, state, _ in records:
        assert state == state_of(module, sender) == store.get(module, sender)
    with store.conversation("a@x"):
        store.set("new", "a@x", "POSTING")
    store.set("new", "a@x", "START")
    store._commit([OUTGOING])
    assert store._load("a@x", [(Kind.OUTGOING, "1")]) == [OUTGOING[:5]]
    assert store._page(Kind.OUTGOING, Where(), None).entries == [OUTGOING[:5]]


def test_what_version_1_wrote_is_complete(old: Place) -> None:
    with SQLAlchemyStorage(old.url) as store:
        check(store)
    assert versions(old) == [(SCHEMA_VERSION,)]
    assert indexes(old) == ["salmon_state_due"]
    with SQLAlchemyStorage(old.url, create=False) as store:
        check(store)


def test_a_process_of_version_1_goes_on(old: Place) -> None:
    """Which has the tables open, and says what it said."""
    with SQLAlchemyStorage(old.url) as store:
        mark = "?" if old.kind == "sqlite" else "%s"
        keys = sender_digest("late@x"), name_digest("app")
        row = (*keys, encode_key("app", "late@x"), state_of("app", "late@x"), 1)
        changed = "excluded.{0}" if old.kind != "mariadb" else "VALUES({0})"
        changes = ", ".join(f"{c} = {changed.format(c)}" for c in ("state", "updated_at"))
        conflict = (
            "ON DUPLICATE KEY UPDATE"
            if old.kind == "mariadb"
            else "ON CONFLICT (sender_digest, module_digest) DO UPDATE SET"
        )
        quoted = "`key`" if old.kind == "mariadb" else '"key"'
        columns = f"sender_digest, module_digest, {quoted}, state, updated_at"
        where = f"WHERE sender_digest = {mark} AND module_digest = {mark}"
        with old.administrator() as cursor:
            for _ in range(2):
                cursor.execute(
                    f"INSERT INTO salmon_state ({columns}) VALUES ({', '.join([mark] * 5)}) "
                    f"{conflict} {changes}",
                    row,
                )
            check(store, ROWS + 1)
            cursor.execute(f"UPDATE salmon_state SET state = 'MOVED' {where}", keys)
            assert store.get("app", "late@x") == "MOVED"
            cursor.execute(f"DELETE FROM salmon_state {where}", keys)
        check(store)


def test_many_processes_migrate_at_once(old: Place) -> None:
    barrier = CONTEXT.Barrier(12)
    with processes(open_and_set, [(old.url, number, barrier) for number in range(12)]) as answers:
        assert sorted(answers.next() for _ in range(12)) == list(range(12))
    assert versions(old) == [(SCHEMA_VERSION,)]
    assert indexes(old) == ["salmon_state_due"]
    with SQLAlchemyStorage(old.url, create=False) as store:
        assert len(store) == ROWS + 12


def test_whoever_is_killed_while_migrating(old: Place) -> None:
    """After each statement: the next one goes on from there."""
    for after in range(6):
        process = CONTEXT.Process(target=open_and_die, args=(old.url, after))
        process.start()
        process.join(HANG)
        assert process.exitcode == -signal.SIGKILL
        assert versions(old) in ([(1,)], [(SCHEMA_VERSION,)])
    with SQLAlchemyStorage(old.url) as store:
        check(store)
    assert versions(old) == [(SCHEMA_VERSION,)]
    assert indexes(old) == ["salmon_state_due"]


def test_without_the_right_to_it_says_what_to_run(old: Place) -> None:
    with pytest.raises(ConfigurationError, match="has version 1") as refused:
        SQLAlchemyStorage(old.url, create=False)
    assert versions(old) == [(1,)]
    assert indexes(old) == []
    if old.kind != "sqlite":
        limited = old.user(*(right for right in RIGHTS if "_entries" not in right))
        with pytest.raises(ConfigurationError, match="has version 1"):
            SQLAlchemyStorage(limited)
    text = str(refused.value)
    old.run(*re.findall(r"^(?:CREATE|UPDATE) .*?;$", text, re.DOTALL | re.MULTILINE))
    assert versions(old) == [(SCHEMA_VERSION,)]
    assert indexes(old) == ["salmon_state_due"]
    with SQLAlchemyStorage(old.url, create=False) as store:
        check(store)


def versions(place: Place) -> list[tuple[Any, ...]]:
    return place.rows("SELECT version FROM salmon_state_version")


def indexes(place: Place) -> list[str]:
    """Returns the names of the indexes beside the primary keys."""
    engine = sa.create_engine(place.url)
    inspector = sa.inspect(engine)
    names = [
        str(index["name"])
        for table in inspector.get_table_names()
        for index in inspector.get_indexes(table)
    ]
    engine.dispose()
    return names


def open_and_die(url: str, after: int) -> None:
    """Opens a store; is killed after some of the statements that change the tables."""
    left = [after]

    @sa.event.listens_for(sa.engine.Engine, "after_cursor_execute")
    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith(("CREATE", "UPDATE", "COMMIT")):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    SQLAlchemyStorage(url).close()
    os.kill(os.getpid(), signal.SIGKILL)
