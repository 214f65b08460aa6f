"""copy: between all stores, killed anywhere, under load, and out of what others left."""

from __future__ import annotations

import importlib
import json
import shelve
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import (
    ConfigurationError,
    MemoryStorage,
    StateStorage,
    StorageUnavailable,
    open_storage,
)
from salmon_state.entries import Kind, Where, Write
from salmon_state.operate.copying import Copy
from salmon_state.operate.mirror import Digest, entries_of, size
from tests.faulty import FaultyStorage
from tests.operate.copying_processes import CONTEXT, copy_and_die, write_until
from tests.operate.typing_commands import ANNA, APP, BEN, rows, typed
from tests.redis_services import wait_until
from tests.services import fresh_url


def contents(store: StateStorage) -> set[object]:
    return {
        entry
        for kind in Kind
        if kind is not Kind.LEASE
        for page in store._pages(kind, Where())
        for entry in page.entries
    }


def fill(store: StateStorage) -> None:
    store.set(APP, ANNA, "POSTING")
    store.set("app.bounces", ANNA, "WATCHING")
    store.set(APP, "\x00\udcff\u202e'@x", "CONFIRMING")
    store._commit([Write(Kind.STATE, BEN, APP, "UNKNOWN_TIME", None)])
    store._commit([Write(Kind.OUTGOING, None, "mail", b"\0" * 100_000, 5)])


@pytest.fixture
def other(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/other.db"


@pytest.mark.slow
def test_there_and_back(url: str, other: str) -> None:
    with open_storage(url) as old, open_storage(other) as new:
        fill(old)
        everything = contents(old)
        assert rows(url, "copy", url, other, "--dry-run")[0]["entries"] == 5
        assert size(new) == 0
        (done,) = rows(url, "copy", url, other)
        assert (done["written"], done["removed"], done["equal"]) == (5, 0, True)
        assert contents(new) == everything
        # Again: what changed only, and what is there no more.
        old.set(APP, ANNA, "START")
        new.set(APP, "only@there", "POSTING")
        (done,) = rows(url, "copy", url, other, "--yes")
        assert (done["written"] <= 1, done["removed"], done["equal"]) == (True, 2, True)
        assert contents(new) == contents(old) != everything
        old._wipe()
        assert rows(url, "copy", other, url)[0]["equal"]
        assert contents(new) == contents(old)
        assert rows(url, "copy", other, url, "--yes")[0]["written"] == 0


@pytest.mark.slow
def test_nobody_writes_meanwhile(url: str) -> None:
    """Who tries waits until it is over, or hears that the store is unavailable."""
    with open_storage(url) as store, open_storage(url) as other:
        writing = threading.Thread(target=other.set, args=(APP, ANNA, "POSTING"))
        with store.paused():
            writing.start()
            writing.join(0.3)
            assert writing.is_alive()
            assert store.get(APP, ANNA) == "START"  # reading goes on
        writing.join(60)
        assert other.get(APP, ANNA) == "POSTING"


@pytest.mark.slow
@pytest.mark.parametrize(
    "count", [1_000, pytest.param(1_000_000, marks=pytest.mark.stress)], ids=["few", "a_million"]
)
@pytest.mark.parametrize(
    ("kind", "to"),
    [("sqlite", "postgresql"), ("postgresql", "sqlite"), ("redis_server", "sqlite")],
)
def test_under_load(
    kind: str, to: str, count: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Two hundred mails a second: equal at one moment, and with a last run nothing is lost."""
    source, target = fresh_url(request, kind, tmp_path), fresh_url(request, to, tmp_path)
    with open_storage(source) as old:
        for start in range(0, count, 10_000):
            end = min(start + 10_000, count)
            old._commit([Write(Kind.STATE, f"{n}@x", APP, "POSTING", n) for n in range(start, end)])
        with writing(source) as written:
            wait_until(lambda: written() > 20, "the first mails")
            done = typed(source, "--json", "copy", source, target, "--pause", "30")
            more = written()
            wait_until(lambda: written() > more, "more mails")
        report = json.loads(done.stdout)
        assert report["equal"]
        assert report["paused"] == 0 or "went on after" in done.stderr
        assert rows(source, "copy", source, target, "--yes")[0]["equal"]
        with open_storage(target) as new:
            assert contents(new) == contents(old)
            last = written() - 1
            expected = f"S{last}" if last % 7 else "START"
            assert new.get("app", f"{last % 100}@live") in (expected, f"S{last + 1}")


@contextmanager
def writing(url: str) -> Iterator[Callable[[], int]]:
    stopped, written = CONTEXT.Event(), CONTEXT.Value("i", 0)
    process = CONTEXT.Process(target=write_until, args=(url, stopped, written, 200))
    process.start()
    try:
        yield lambda: int(written.value)
    finally:
        stopped.set()
        process.join(60)
        process.kill()


def killed(source: str, target: str, commits: int, *, after: bool) -> bool:
    """Returns whether it was killed, and had not finished before."""
    process = CONTEXT.Process(
        target=copy_and_die, args=(source, target, commits), kwargs={"after": after}
    )
    process.start()
    process.join(60)
    return bool(process.exitcode == -9)


_KINDS = [kind for kind in Kind if kind is not Kind.LEASE]


@pytest.mark.parametrize(
    ("points", "each"),
    [
        pytest.param([1, 2, 4], 400, id="some"),
        pytest.param([*range(1, 26)], 2_800, id="many", marks=pytest.mark.stress),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_killed(tmp_path: Path, points: list[int], each: int, after: bool) -> None:
    """At each of its commits; what the next one does is the rest, and both are equal."""
    source, target = f"sqlite:///{tmp_path}/old.db", f"sqlite:///{tmp_path}/new.db"
    total = each * len(_KINDS)
    with open_storage(source) as old:
        for kind in _KINDS:
            value = "POSTING" if kind is Kind.STATE else b"x"
            old._commit([Write(kind, f"{n:05}@x", APP, value, n) for n in range(each)])
        for commits in points:
            with open_storage(target) as new:
                new._wipe()
            assert killed(source, target, commits, after=after)
            with open_storage(target) as new:
                there = size(new)
                assert there == min(total, 1_000 * (commits if after else commits - 1))
                work = Copy(old, new)
                work.run()
                assert work.equal
                assert work.written >= total - there
                assert contents(new) == contents(old)


def test_what_changes_all_the_time() -> None:
    """It does not go on for ever, and says that they are not equal."""
    with MemoryStorage() as old, MemoryStorage() as new:
        fill(old)
        numbers = iter(range(10**9))

        def step() -> None:
            old.set(APP, ANNA, f"S{next(numbers)}")

        told: list[str] = []
        work = Copy(old, new, step=step, tell=told.append, pause=1)
        work.run()
        assert not work.equal
        assert "stop what writes" in told[-1]


def test_a_change_behind_where_it_is_read(file: str) -> None:
    """What is read of two changes is the second alone: nobody ever held that."""
    count = 5_000
    with open_storage(file) as old, MemoryStorage() as new:
        old._commit([Write(Kind.STATE, f"{n:05}@x", APP, "A", n) for n in range(count)])
        Copy(old, new).run()
        first, *_, last = (entry.sender for entry in entries_of(old))
        read = iter(range(10**9))

        def step() -> None:
            if next(read) == count + 1:  # the target is read first
                old.set(APP, first, "B")
                old.set(APP, last, "B")

        work = Copy(old, new, step=step)
        work.run()
        assert (work.equal, work.passes, work.written) == (False, 2, 2)
        work.run()
        assert work.equal
        assert contents(new) == contents(old)


def test_somebody_uses_the_target() -> None:
    """What they write is not removed, and the two are not called equal."""
    with MemoryStorage() as old, MemoryStorage() as new:
        numbers = iter(range(10**9))

        def use() -> None:
            new._commit([Write(Kind.STATE, BEN, APP, "POSTING", next(numbers))])

        use()
        old.set(APP, ANNA, "POSTING")
        work = Copy(old, new, step=use)
        work.run()
        assert (work.equal, work.removed) == (False, 0)


def test_nothing_at_all() -> None:
    with MemoryStorage() as old, MemoryStorage() as new:
        work = Copy(old, new)
        work.run()
        assert (work.equal, work.written) == (True, 0)


def test_a_pause_that_is_too_short(tmp_path: Path) -> None:
    with (
        open_storage(f"sqlite:///{tmp_path}/old.db") as old,
        open_storage(f"sqlite:///{tmp_path}/new.db") as new,
    ):
        fill(old)
        numbers = iter(range(10**9))
        told: list[str] = []

        def step() -> None:
            if not told:
                old.set(APP, ANNA, f"S{next(numbers)}")

        work = Copy(old, new, step=step, tell=told.append, pause=1e-9)
        work.run()
        assert not work.equal
        assert ["waits now" in told[0], "went on" in told[-1]] == [True, True]
        old.set(APP, ANNA, "FREE")


def test_a_store_that_fails_while_it_is_copied() -> None:
    """Its driver's error comes out as from every method: the command says it in one line."""

    with MemoryStorage() as well, FaultyStorage() as faulty:
        for store in (well, faulty):
            store.set(APP, ANNA, "POSTING")
        well.set(APP, BEN, "POSTING")
        faulty.set(APP, "only@there", "POSTING")
        for hook, source, target in (
            ("_page", faulty, well),
            ("_page", well, faulty),
            ("_commit", well, faulty),
        ):
            faulty.fail(hook, OSError("the disk is gone"))
            with pytest.raises(StorageUnavailable, match="451"):
                Copy(source, target).run()


def test_what_takes_too_long_is_not_paused_unasked() -> None:
    with MemoryStorage() as old, MemoryStorage() as new:
        told: list[str] = []
        work = Copy(old, new, tell=told.append, pause=None)
        work._reading = 21.0
        work._finish()
        assert "say --pause 32" in told[0]


def test_a_digest_is_of_all_that_was_added() -> None:
    one, other = Digest(), Digest()
    for number in (1 << 255, 2, 3):
        one.add(number)
    for number in (3, 1 << 255, 2):
        other.add(number)
    one.seal()
    assert one == other
    assert (2 in one, 1 << 255 in one, 4 in one) == (True, True, False)
    other.add(5)
    assert one != other


# ---------------------------------------------------------------- what others left


@pytest.mark.parametrize("flavour", ["dbm.dumb", "dbm.gnu", "dbm.ndbm", "dbm.sqlite3"])
def test_salmons_own_shelf(flavour: str, tmp_path: Path, other: str) -> None:
    dbm = pytest.importorskip(flavour)
    shelf: shelve.Shelf[str] = shelve.Shelf(dbm.open(str(tmp_path / "states"), "c"))
    with shelf:
        shelf[repr([APP.encode(), ANNA])] = "POSTING"
        shelf[repr([APP.encode(), BEN])] = "START"
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    told_apart = flavour != "dbm.sqlite3"  # which is the form of ours, too
    for scheme in ("salmon+shelve", "shelve")[: 1 + told_apart]:
        (done,) = rows(other, "copy", f"{scheme}:///{tmp_path}/states", other, "--yes")
        assert (done["entries"], done["equal"]) == (1, True)
    with open_storage(other) as store:
        assert [record[:3] for record in store.records()] == [(APP, ANNA, "POSTING")]
    if told_apart:
        looked = typed(f"shelve:///{tmp_path}/states", "list").exception
        assert isinstance(looked, ConfigurationError)
        assert "salmon-state copy" in str(looked)
    assert {file: file.read_bytes() for file in before} == before


def test_salmons_own_shelf_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it begins with: that of gdbm has the name of ours."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/states").write_bytes((0x13579ACE).to_bytes(4, "little") + bytes(60))
    looked = typed("shelve:///run/states", "list").exception
    assert isinstance(looked, ConfigurationError)
    assert "salmon-state copy" in str(looked)
    assert [file.name for file in Path("run").iterdir()] == ["states"]


@pytest.mark.parametrize("url", ["shelve:///${RUN}/states", "Shelve:///{}/states"])
def test_salmons_own_shelf_by_another_url(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it converted, under Salmon's hands."""
    monkeypatch.setenv("RUN", str(tmp_path))
    dumb: Any = importlib.import_module("dbm.dumb")
    with shelve.Shelf[str](dumb.open(str(tmp_path / "states"), "c")) as shelf:
        shelf[repr([APP.encode(), ANNA])] = "POSTING"
    before = sorted(tmp_path.iterdir())
    given = url.replace("{}", str(tmp_path))
    looked = typed(given, "list").exception
    assert isinstance(looked, ConfigurationError)
    for source in (given, "salmon+shelve:///${RUN}/states"):
        (done,) = rows(given, "copy", source, "memory://", "--yes")
        assert (done["entries"], done["equal"]) == (1, True)
    assert sorted(tmp_path.iterdir()) == before


def test_a_shelf_that_is_not_there(tmp_path: Path, other: str) -> None:
    done = typed(other, "copy", f"salmon+shelve:///{tmp_path}/nothing", other)
    assert "there is no shelf" in str(done.exception)


MADE = datetime(2010, 3, 1, 12, 30)


def test_librelists_table(tmp_path: Path, other: str) -> None:
    django = tmp_path / "django.db"
    with closing(sqlite3.connect(django)) as connection, connection:
        connection.execute(
            "CREATE TABLE librelist_userstate (id INTEGER PRIMARY KEY, created_on TIMESTAMP, "
            "state_key VARCHAR(512), from_address VARCHAR(75), state VARCHAR(200))"
        )
        insert = (
            "INSERT INTO librelist_userstate (created_on, state_key, from_address, state) "
            "VALUES (?, ?, ?, ?)"
        )
        made = str(MADE)
        for row in (
            (made, APP, ANNA, "POSTING"),
            ("2009-01-01 00:00:00", APP, BEN, "OLDER"),
            (made, APP, BEN, "NEWER"),
            (made, APP, "begins@anew", "START"),
            (None, APP, "no@time", "POSTING"),
        ):
            connection.execute(insert, row)
    before = django.read_bytes()
    source = f"librelist+sqlite:///{django}"
    (done,) = rows(other, "copy", source, other)
    assert (done["entries"], done["equal"]) == (3, True)
    assert rows(other, "copy", source, other, "--yes")[0]["written"] == 0
    at = MADE.replace(tzinfo=timezone.utc)
    with open_storage(other) as store:
        assert {*store.records()} == {
            (APP, ANNA, "POSTING", at),
            (APP, BEN, "NEWER", at),
            (APP, "no@time", "POSTING", None),
        }
    assert django.read_bytes() == before


@pytest.mark.parametrize(
    "rest",
    [
        "nothing",
        "sqlite:////not/there.db",
        "nosuch://anna:Geh3im@host/database",
        "oracle://anna:Geh3im@host/database",
    ],
)
def test_librelists_table_that_cannot_be_read(rest: str, other: str) -> None:
    refused = typed(other, "copy", f"librelist+{rest}", other).exception
    assert isinstance(refused, ConfigurationError)
    assert "Geh3im" not in str(refused)


@pytest.mark.slow
def test_librelists_table_on_a_server(
    request: pytest.FixtureRequest, other: str, tmp_path: Path
) -> None:
    url = fresh_url(request, "postgresql", tmp_path)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE states (created_on timestamptz, state_key text, from_address text, "
            "state text)"
        )
        connection.exec_driver_sql(
            "INSERT INTO states VALUES ('2010-03-01 12:30+00', 'app.handlers', %s, 'POSTING')",
            (ANNA,),
        )
    engine.dispose()
    url = url.replace("+psycopg", "")
    missing = typed(other, "copy", f"librelist+{url}", other)
    assert isinstance(missing.exception, ConfigurationError)
    assert "librelist_userstate" in str(missing.exception)
    assert rows(other, "copy", f"librelist+{url}?table=states", other)[0]["entries"] == 1
