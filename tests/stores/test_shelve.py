from __future__ import annotations

import dbm.dumb
import fcntl
import hashlib
import logging
import os
import pickle
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from salmon_state import (
    ConfigurationError,
    ConversationBusy,
    ShelveStorage,
    StorageError,
    StorageUnavailable,
    open_storage,
)
from salmon_state.storage import Change, ascii_key
from salmon_state.testing import (
    ContractSuite,
    DurableSuite,
    HostileKeySuite,
    ModelSuite,
    RouterSuite,
    SharedSuite,
    ThreadSuite,
    VersionSuite,
    processes,
)
from salmon_state.testing.processes import store_processes
from salmon_state.testing.suite import OpenStore
from tests.stores import old_shelves
from tests.stores.old_shelves import call, python_with

MODULE = "app.handlers"
SENDER = "anna@example.com"
FLAVOURS = ["dbm.dumb", "dbm.ndbm", "dbm.gnu", "dbm.sqlite3"]
OLD_STATES = [
    (MODULE, SENDER, "CONFIRMING"),
    (MODULE, SENDER.upper(), "POSTING"),
    (MODULE, None, "NULL"),
    (MODULE, "", "EMPTY"),
    (MODULE, "None", "NONE"),
    ('it\'s [a] "module"', "o'neil@x", "QUOTED"),
    (MODULE, "é@x", "ACUTE"),
    (MODULE, "\udcff@x", "SURROGATE"),
    (MODULE, "\N{GRINNING FACE}@x", "EMOJI"),
    (MODULE, "\U0001fae8@x", "NEW_EMOJI"),
    (MODULE, "nul\0line\nend @x ", "CONTROL"),
    (MODULE, "', b'", "COMMA"),
]


class TestShelve(
    ContractSuite,
    HostileKeySuite,
    ModelSuite,
    RouterSuite,
    ThreadSuite,
    DurableSuite,
    SharedSuite,
    VersionSuite,
):
    kills = 25

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(ShelveStorage, str(tmp_path / "states"))


@pytest.mark.stress
class TestManyKills(DurableSuite):
    kills = 200

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(ShelveStorage, str(tmp_path / "states"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "states"


@pytest.fixture
def store(path: Path) -> Iterator[ShelveStorage]:
    with ShelveStorage(path) as store:
        yield store


@pytest.fixture(params=[0o000, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture(params=FLAVOURS)
def salmons(request: pytest.FixtureRequest, path: Path) -> tuple[str, str]:
    """A shelf that Salmon wrote under a Python with this flavour of dbm: (Python, flavour)."""
    return written_by_salmon(path, request.param), request.param


def written_by_salmon(path: Path, flavour: str = "dbm.dumb") -> str:
    python = python_with(flavour) or pytest.skip(f"no Python on this machine has {flavour}")
    call(python, old_shelves.salmon_writes, str(path), flavour, OLD_STATES)
    return python


def contents(store: ShelveStorage) -> set[tuple[str, str | None, str]]:
    return {(record.module, record.sender, record.state) for record in store}


def modes(directory: Path) -> dict[str, str]:
    return {file.name: stat.filemode(file.stat().st_mode) for file in directory.iterdir()}


def digests(directory: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in directory.iterdir()
        if file.suffix != ".lock"
    }


def execute(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement, values)


# ---------------------------------------------------------------- the file


def test_a_new_shelf_is_that_of_python_3_13(path: Path) -> None:
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "CONFIRMING")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql > ''"
        ).fetchall() == [
            ("Dict", "CREATE TABLE Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)")
        ]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        (entry,) = connection.execute("SELECT * FROM Dict").fetchall()
    assert entry[0] == b"['app.handlers', 'anna@example.com']"
    moment, _, state = pickle.loads(entry[1]).partition(" ")
    assert moment.isdigit()
    assert state == "CONFIRMING"


def test_shelve_of_python_3_13_reads_it(store: ShelveStorage, path: Path) -> None:
    python = python_with("dbm.sqlite3") or pytest.skip("no Python on this machine has dbm.sqlite3")
    for module, sender, state in OLD_STATES:
        store.set(module, sender, state)
    found = call(python, old_shelves.shelve_reads, str(path))
    assert {key: value.partition(" ")[2] for key, value in found.items()} == {
        ascii_key(module, sender): state for module, sender, state in OLD_STATES
    }


def test_pinned_format(path: Path, store: ShelveStorage) -> None:
    store._write([Change(MODULE, "é\0\udcff", "A B\n\udcff", 5), Change(MODULE, None, "C", None)])
    with store._opened() as shelf:
        rows = dict(shelf.dict.items())
    assert rows == {
        b"['app.handlers', '\\xe9\\x00\\udcff']": pickle.dumps("5 A B\n\udcff", 4),
        b"['app.handlers', None]": pickle.dumps("- C", 4),
    }


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("length", [0, 255, 256, 70_000])
def test_strings_of_every_protocol(
    path: Path, store: ShelveStorage, protocol: int, length: int
) -> None:
    state = "S" + "é" * length
    insert(path, ascii_key(MODULE, SENDER), pickle.dumps(f"7 {state}", protocol))
    assert store.get(MODULE, SENDER) == state


def test_large_senders_are_paged(store: ShelveStorage) -> None:
    senders = {f"{number}{'x' * 700_000}@x" for number in range(5)}
    for sender in senders:
        store.set(MODULE, sender, "POSTING")
    with store._opened() as shelf:
        assert len(shelf.dict.page()) == 2
    assert sorted(record.sender or "" for record in store) == sorted(senders)


def test_from_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_storage("shelve:///states", timeout=1.0) as store:
        os.chdir("/")
        store.set(MODULE, SENDER, "POSTING")
        assert repr(store) == f"<ShelveStorage {tmp_path}/states>"
    with open_storage(f"shelve:///{tmp_path}/states") as store:
        assert store.get(MODULE, SENDER) == "POSTING"


@pytest.mark.parametrize("name", ["a b", "a?mode=memory", "a#b", "100%", "é", "'", "a\udcff"])
def test_odd_names_of_files(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        with ShelveStorage(tmp_path / name) as store:
            store.set(MODULE, SENDER, "POSTING")
    assert sorted(os.listdir(tmp_path)) == [name, f"{name}.lock"]


def test_symbolic_links_lead_to_one_lock(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "states")
    with ShelveStorage(link) as store:
        store.set(MODULE, SENDER, "POSTING")
    assert sorted(os.listdir(tmp_path)) == ["link", "states", "states.lock"]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, None, "5"])
def test_a_timeout_that_cannot_work(path: Path, timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout must be"):
        ShelveStorage(path, timeout=timeout)


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="missing"):
        ShelveStorage(tmp_path / "missing" / "states")


# ---------------------------------------------------------------- conversion


def test_salmons_shelf_is_taken_over(
    path: Path, salmons: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    python, flavour = salmons
    before = set(os.listdir(path.parent))
    if python_with(flavour) == sys.executable or flavour == "dbm.sqlite3":
        with caplog.at_level(logging.INFO, "salmon_state"):
            ShelveStorage(path).close()
        (message,) = caplog.messages
        assert all(part in message for part in (flavour, str(path), "12 states", "salmon-backup"))
    else:
        call(python, old_shelves.we_convert, str(path))
    with ShelveStorage(path) as store:
        assert contents(store) == set(OLD_STATES)
        assert {store.get(module, sender) == state for module, sender, state in OLD_STATES} == {
            True
        }
        assert {record.updated_at for record in store} == {None}
        assert store.purge(older_than=timedelta(0)) == 0
        store.set(MODULE, SENDER, "POSTING")
    left = set(os.listdir(path.parent))
    assert left - {"states", "states.lock"} == {
        name.replace("states", "states.salmon-backup", 1) for name in before
    }
    backup = call(python, old_shelves.salmon_reads, f"{path}.salmon-backup", OLD_STATES_KEYS)
    assert backup == [state for *_, state in OLD_STATES]


OLD_STATES_KEYS = [(module, sender) for module, sender, _ in OLD_STATES]


def test_conversion_happens_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written_by_salmon(path)
    ShelveStorage(path).close()
    before = digests(path.parent)
    caplog.clear()
    ShelveStorage(path).close()
    assert digests(path.parent) == before
    assert caplog.messages == []


def test_an_older_backup_is_kept(path: Path) -> None:
    Path(f"{path}.salmon-backup.dat").write_bytes(b"precious")
    written_by_salmon(path)
    ShelveStorage(path).close()
    assert Path(f"{path}.salmon-backup.dat").read_bytes() == b"precious"
    assert Path(f"{path}.salmon-backup-2.dat").exists()


def test_converting_many_states(path: Path) -> None:
    with closing(dbm.dumb.open(str(path), "c")) as old:
        for number in range(3000):
            old[repr([b"app", f"{number}@x"])] = pickle.dumps("POSTING")
    with ShelveStorage(path) as store:
        assert len(store) == 3000
    execute(
        path,
        "UPDATE Dict SET key = CAST('[b' || substr(key, 2) AS BLOB), value = ?",
        pickle.dumps("ASKING"),
    )
    with ShelveStorage(path) as store:
        assert len(store) == 3000
        assert {state for *_, state in contents(store)} == {"ASKING"}


def test_a_legacy_spelling_of_another_python(path: Path) -> None:
    usual, unusual = repr([b"app", "é@x"]), ascii([b"app", "é@x"])
    assert usual != unusual
    for first, second in ((usual, unusual), (unusual, usual)):
        with closing(dbm.dumb.open(str(path), "n")) as old:
            old[first.encode()] = pickle.dumps("USUAL" if first == usual else "UNUSUAL")
            old[second.encode()] = pickle.dumps("USUAL" if second == usual else "UNUSUAL")
        with ShelveStorage(path) as store:
            assert contents(store) == {("app", "é@x", "USUAL")}
        path.unlink()


@pytest.mark.parametrize("flavour", ["dbm.dumb", "dbm.gnu", "dbm.sqlite3"])
def test_killed_at_each_step(path: Path, tmp_path: Path, flavour: str) -> None:
    folder = tmp_path / "shelf"
    folder.mkdir()
    python = written_by_salmon(folder / "states", flavour)
    steps = call(
        python,
        old_shelves.crash_at_each_step,
        str(folder / "states"),
        flavour,
        str(tmp_path / "copy"),
    )
    assert steps > 10


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (repr([b"app", "a@x"]), b""),
        (repr([b"app", "a@x"]), pickle.dumps("POSTING")[:-3]),
        (repr([b"app", "a@x"]), pickle.dumps("POSTING") + b"."),
        (repr([b"app", "a@x"]), pickle.dumps(b"POSTING")),
        (repr([b"app", "a@x"]), pickle.dumps("")),
        (repr([b"app", "a@x"]), pickle.dumps(None)),
        (repr([b"app", "a@x"])[:-4], pickle.dumps("POSTING")),
        (repr(["app", "a@x"]), pickle.dumps("POSTING")),
        (repr([b"app\xff", "a@x"]), pickle.dumps("POSTING")),
        (repr([b"app", b"a@x"]), pickle.dumps("POSTING")),
        ("nonsense", pickle.dumps("POSTING")),
    ],
)
def test_a_damaged_old_entry_stops_the_conversion(path: Path, key: str, value: bytes) -> None:
    written_by_salmon(path)
    with closing(dbm.dumb.open(str(path), "c")) as old:
        old[key.encode()] = value
    before = digests(path.parent)
    with pytest.raises(StorageError) as caught:
        ShelveStorage(path)
    assert not isinstance(caught.value, StorageUnavailable)
    assert str(path) in str(caught.value)
    assert repr(key.encode())[2:-1] in str(caught.value)
    assert digests(path.parent) == before


def test_a_damaged_legacy_entry_in_sqlite(path: Path) -> None:
    ShelveStorage(path).close()
    for number in range(600):
        insert(path, repr([b"app", f"{number}@x"]), pickle.dumps("POSTING"))
    insert(path, repr([b"app", "z@x"]), b"?")
    before = digests(path.parent)
    with pytest.raises(StorageError, match="z@x"):
        ShelveStorage(path)
    assert digests(path.parent) == before


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("module", "suffix", "start"),
    [("dbm.gnu", "", b"\xce\x9a\x57\x13"), ("dbm.ndbm", ".db", b"\0" * 12 + b"\x61\x15\x06\0")],
)
def test_a_flavour_that_this_python_lacks(
    path: Path, module: str, suffix: str, start: bytes
) -> None:
    try:
        __import__(module)
    except ImportError:
        pass
    else:
        pytest.skip(f"this Python has {module}")
    Path(f"{path}{suffix}").write_bytes(start + b"\0" * 4096)
    before = digests(path.parent)
    with pytest.raises(ConfigurationError) as caught:
        ShelveStorage(path)
    for part in (f"{path}{suffix}", module, "open it once with a Python that has it"):
        assert part in str(caught.value)
    assert digests(path.parent) == before


def test_a_damaged_gdbm_file(path: Path) -> None:
    python = python_with("dbm.gnu") or pytest.skip("no Python on this machine has dbm.gnu")
    path.write_bytes(b"\xce\x9a\x57\x13" + b"\0" * 4096)
    error = call(python, old_shelves.we_are_refused, str(path))
    assert str(path) in error
    assert "dbm.gnu" in error


def cut_off(path: Path) -> None:
    written_by_salmon(path)
    index = Path(f"{path}.dir").read_bytes()
    Path(f"{path}.dir").write_bytes(index[: len(index) // 2])


def empty_index(path: Path) -> None:
    written_by_salmon(path)
    Path(f"{path}.dir").write_bytes(b"")


def no_index(path: Path) -> None:
    written_by_salmon(path)
    Path(f"{path}.dir").unlink()


def two_shelves(path: Path) -> None:
    written_by_salmon(path)
    Path(f"{path}.pag").touch()


def old_beside_new(path: Path) -> None:
    ShelveStorage(path).close()
    with closing(dbm.dumb.open(str(path), "c")) as old:
        old[repr([b"app", "a@x"])] = pickle.dumps("POSTING")


def another_database(path: Path) -> None:
    execute(path, "CREATE TABLE states (state)")


def damaged_database(path: Path) -> None:
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "POSTING")
    path.write_bytes(path.read_bytes()[:16] + b"\xff" * 5000)


def damaged_page(path: Path) -> None:
    with ShelveStorage(path) as store:
        store._write(Change(MODULE, f"{number}@x", "POSTING", 1) for number in range(2000))
    damage(path)


def damage(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 20)


def text(path: Path) -> None:
    path.write_text("states = {}\n")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (cut_off, "cannot read .*dbm.dumb"),
        (empty_index, "12 entries"),
        (no_index, "12 entries"),
        (two_shelves, "several shelves"),
        (old_beside_new, "several shelves"),
        (another_database, "sqlite:///"),
        (damaged_database, "no shelf|damaged"),
        (text, "no shelf"),
        (damaged_page, "dbm.sqlite3.*damaged"),
    ],
)
def test_what_is_refused_is_left_alone(
    path: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(path)
    before = digests(path.parent)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        ShelveStorage(path)
    assert str(path) in str(caught.value)
    assert digests(path.parent) == before


def test_the_last_entry_of_a_dumb_shelf_may_have_been_deleted(path: Path) -> None:
    with closing(dbm.dumb.open(str(path), "c")) as old:
        old[repr([b"app", "a@x"])] = pickle.dumps("POSTING")
    with closing(dbm.dumb.open(str(path), "c")) as old:
        del old[repr([b"app", "a@x"])]
    with ShelveStorage(path) as store:
        assert len(store) == 0


def test_a_database_beside_is_no_shelf(path: Path) -> None:
    beside = path.with_name("states.db")
    execute(beside, "CREATE TABLE states (state)")
    with closing(sqlite3.connect(beside, isolation_level=None)) as user:
        user.execute("BEGIN EXCLUSIVE")
        with ShelveStorage(path) as store:
            store.set(MODULE, SENDER, "POSTING")
        with pytest.raises(StorageUnavailable):
            ShelveStorage(beside, timeout=0.05)


# ---------------------------------------------------------------- tampering


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def insert(path: Path, key: object, value: object) -> None:
    execute(
        path,
        "REPLACE INTO Dict VALUES (?, ?)",
        key.encode("ascii") if isinstance(key, str) else key,
        value,
    )


BAD_VALUES = [
    b"",
    b".",
    b"POSTING",
    pickle.dumps(7),
    pickle.dumps(None),
    pickle.dumps(b"5 POSTING"),
    pickle.dumps(["5 POSTING"]),
    pickle.dumps("5 POSTING")[:-1],
    pickle.dumps("5 POSTING") + b"x",
    pickle.dumps("5 POSTING").replace(b"POSTING", b"POST\xffNG"),
    b"\x80\x04\x8d" + b"\xff" * 8 + b"5 POSTING\x94.",
    b"\x80\x04r\xff\xff\xff\x7f.",  # makes an Unpickler fill gigabytes
    pickle.dumps(""),
    pickle.dumps("5"),
    pickle.dumps("5 "),
    pickle.dumps(" POSTING"),
    pickle.dumps("POSTING"),
    pickle.dumps("five POSTING"),
    pickle.dumps("\u0665 POSTING"),
    "5 POSTING",
    5,
]


@pytest.mark.parametrize("value", BAD_VALUES, ids=range(len(BAD_VALUES)))
def test_a_damaged_value_is_an_error(path: Path, store: ShelveStorage, value: object) -> None:
    insert(path, ascii_key(MODULE, SENDER), value)
    attempts: list[Callable[[], object]] = [
        lambda: store.get(MODULE, SENDER),
        lambda: list(store),
        lambda: store.set_all(SENDER, "ASKING"),
        lambda: store.rename(MODULE, "POSTING", "ASKING"),
        lambda: store.compare_and_set(MODULE, SENDER, "START", "ASKING"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError) as caught:
            attempt()
        assert not isinstance(caught.value, StorageUnavailable)
        assert str(path) in str(caught.value)
        assert SENDER in str(caught.value)
    store.set(MODULE, SENDER, "ASKING")
    assert store.get(MODULE, SENDER) == "ASKING"


def test_a_shelf_cannot_run_code(path: Path, store: ShelveStorage, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    value = pickle.dumps(Malicious(trace))
    insert(path, ascii_key(MODULE, SENDER), value)
    with pytest.raises(StorageError):
        store.get(MODULE, SENDER)
    with pytest.raises(StorageError):
        list(store)
    with closing(dbm.dumb.open(str(tmp_path / "old"), "c")) as old:
        old[repr([b"app", "a@x"])] = value
    with pytest.raises(StorageError):
        ShelveStorage(tmp_path / "old")
    assert not trace.exists()
    pickle.loads(value)
    assert trace.exists(), "the attack itself does not work"


@pytest.mark.parametrize(
    "key", ["", "nonsense", "['a']", "[b'a', 'b']", "['a', 7]", b"\xff", "x" * 9999]
)
def test_a_damaged_key_is_an_error(path: Path, store: ShelveStorage, key: object) -> None:
    store.set(MODULE, SENDER, "POSTING")
    insert(path, key, pickle.dumps("5 POSTING"))
    with pytest.raises(StorageError) as caught:
        list(store)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert store.get(MODULE, SENDER) == "POSTING"


@pytest.mark.parametrize("key", ["['a', 'b']", 7, 7.5])
def test_a_key_that_is_no_blob_shows_up(path: Path, store: ShelveStorage, key: object) -> None:
    execute(path, "INSERT INTO Dict VALUES (?, ?)", key, pickle.dumps("5 POSTING"))
    with pytest.raises(StorageError, match="damaged"):
        list(store)


def test_a_time_that_no_calendar_has(path: Path, store: ShelveStorage) -> None:
    insert(path, ascii_key(MODULE, SENDER), pickle.dumps("999999999999999999 POSTING"))
    with pytest.raises(StorageError, match="damaged"):
        list(store)


def test_pages_overwritten_under_it(path: Path) -> None:
    with ShelveStorage(path) as store:
        store._write(Change(MODULE, f"{number}@x", "POSTING", 1) for number in range(2000))
        store._let_go()  # so that the pages are read again
        damage(path)
        with pytest.raises(StorageError, match=r"states.*damaged"):
            list(store)


# ---------------------------------------------------------------- all or nothing


def test_a_write_happens_wholly_or_not(store: ShelveStorage) -> None:
    def changes() -> Iterator[Change]:
        yield Change(MODULE, SENDER, "POSTING", 1)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        store._write(changes())
    assert len(store) == 0
    store.set(MODULE, SENDER, "ASKING")


def test_renaming_and_purging_happen_wholly_or_not(path: Path, store: ShelveStorage) -> None:
    store._write(Change(MODULE, f"{number}@x", "POSTING", 1) for number in range(1200))
    insert(path, "[damaged", pickle.dumps("5 POSTING"))
    with pytest.raises(StorageError):
        store.rename(MODULE, "POSTING", "ASKING")
    with pytest.raises(StorageError):
        store.purge(older_than=timedelta(0))
    execute(path, "DELETE FROM Dict WHERE key = ?", b"[damaged")
    assert {record.state for record in store} == {"POSTING"}
    assert store.rename(MODULE, "POSTING", "ASKING") == 1200
    assert store.purge(older_than=timedelta(0)) == 1200


def test_a_slow_reader_keeps_nobody_waiting(path: Path, store: ShelveStorage) -> None:
    store._write(Change(MODULE, f"{number}@x", "POSTING", 1) for number in range(1200))
    records = iter(store)
    next(records)
    with ShelveStorage(path) as other:
        other.set(MODULE, "0@x", "ASKING")
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    assert os.stat(f"{path}-wal").st_size == 0
    assert sum(1 for _ in records) == 1199


# ---------------------------------------------------------------- locks


def test_two_processes_lose_none(path: Path) -> None:
    open_store = partial(ShelveStorage, path)
    jobs = [[(MODULE, f"{who}{number}@x", f"S{number}") for number in range(2000)] for who in "ab"]
    with store_processes(open_store, 2) as writers:
        for writer, job in zip(writers, jobs, strict=True):
            writer.start(processes.set_many, job)
        for writer in writers:
            writer.result()
    with open_store() as store:
        assert contents(store) == {entry for job in jobs for entry in job}


def test_a_lock_held_too_long(path: Path) -> None:
    with ShelveStorage(path, timeout=0.05) as store, open(f"{path}.lock", "rb") as lock:
        store.set(MODULE, SENDER, "POSTING")
        fcntl.flock(lock, fcntl.LOCK_EX)
        for attempt in (
            lambda: store.set(MODULE, SENDER, "ASKING"),
            lambda: store.compare_and_set(MODULE, SENDER, "POSTING", "ASKING"),
            lambda: ShelveStorage(path, timeout=0.05),
        ):
            with pytest.raises(StorageUnavailable) as caught:
                attempt()
            assert str(path) in caught.value.detail
        assert store.get(MODULE, SENDER) == "POSTING"
        fcntl.flock(lock, fcntl.LOCK_UN)
        store.set(MODULE, SENDER, "ASKING")


def test_a_database_held_too_long(path: Path) -> None:
    with ShelveStorage(path, timeout=0.05) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageUnavailable) as caught:
                store.set(MODULE, SENDER, "ASKING")
            assert "locked" in caught.value.detail
        store.set(MODULE, SENDER, "ASKING")


def test_other_threads_wait_for_a_bounded_time(path: Path) -> None:
    store = ShelveStorage(path, timeout=0.05)
    with store, ThreadPoolExecutor(1) as another, store._exclusive():
        for waiting in (
            another.submit(store.get, MODULE, SENDER),
            another.submit(store.set, MODULE, SENDER, "POSTING"),
        ):
            with pytest.raises(StorageUnavailable) as caught:
                waiting.result()
            assert "other threads" in caught.value.detail


def test_closed_while_another_thread_waits(path: Path) -> None:
    store = ShelveStorage(path)
    with ThreadPoolExecutor(1) as another:
        with store._using:
            waiting = another.submit(store.set, MODULE, SENDER, "POSTING")
            store.close()
        with pytest.raises(StorageUnavailable):
            waiting.result()
    with ShelveStorage(path) as store:
        assert len(store) == 0


def test_two_stores_share_the_lock_of_a_sender(path: Path, store: ShelveStorage) -> None:
    with ShelveStorage(path) as other, store.conversation(SENDER):
        store.set(MODULE, SENDER, "POSTING")
        with pytest.raises(ConversationBusy), other.conversation(SENDER, timeout=0.0):
            pass
        with other.conversation("ben@example.com", timeout=0.0):
            other.set(MODULE, "ben@example.com", "ASKING")
    assert contents(store) == {(MODULE, SENDER, "POSTING"), (MODULE, "ben@example.com", "ASKING")}


def test_another_store_in_the_process_drops_no_lock(path: Path, store: ShelveStorage) -> None:
    """Closing any other descriptor of the file would drop SQLite's locks of this process."""
    store.set(MODULE, "before@x", "POSTING")
    ShelveStorage(path).close()
    call(sys.executable, old_shelves.we_convert, str(path))  # opens and closes: the last, it thinks
    store.set(MODULE, "after@x", "POSTING")
    found = call(sys.executable, old_shelves.we_convert, str(path))
    assert sorted(sender for _, sender, _ in found) == ["after@x", "before@x"]


# ---------------------------------------------------------------- fork


def test_bare_sqlite_loses_what_a_child_commits(path: Path) -> None:
    """Why salmon_state.stores.fork exists; should SQLite mend it, that module may go."""
    found = call(sys.executable, old_shelves.fork_and_write, str(path), True)
    assert found == ["parent", "child"]


def test_a_child_loses_nothing(path: Path) -> None:
    found = call(sys.executable, old_shelves.fork_and_write, str(path), False)
    assert found == ["child", "child, when the parent had closed", "parent"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_parent_goes_on(path: Path, store: ShelveStorage) -> None:
    with ShelveStorage(path) as other:
        store.set(MODULE, SENDER, "POSTING")
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert other.get(MODULE, SENDER) == "POSTING"
        other.set(MODULE, SENDER, "ASKING")
        assert store.get(MODULE, SENDER) == "ASKING"


def test_forking_among_threads(path: Path) -> None:
    assert call(sys.executable, old_shelves.fork_among_writers, str(path)) == 20


# ---------------------------------------------------------------- files


def test_files_are_their_owners_only(path: Path, umask: int) -> None:
    written_by_salmon(path)
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "POSTING")
        found = modes(path.parent)
    assert {"states", "states-wal", "states-shm", "states.lock"} < set(found)
    assert any("backup" in name for name in found)
    assert set(found.values()) == {"-rw-------"}


def test_a_shelf_of_sqlite_becomes_its_owners_only(path: Path, umask: int) -> None:
    written_by_salmon(path, "dbm.sqlite3")
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "POSTING")
        assert set(modes(path.parent).values()) == {"-rw-------"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop privileges")
@pytest.mark.parametrize("old", [False, True])
def test_made_by_root_and_used_by_somebody(tmp_path: Path, old: bool) -> None:
    somebody = 65534
    folder = tmp_path
    while folder != Path(tempfile.gettempdir()):
        folder.chmod(0o755)
        folder = folder.parent
    run = tmp_path / "run"
    run.mkdir()
    if old:
        written_by_salmon(run / "states")
    os.chown(run, somebody, somebody)
    owners = call(sys.executable, old_shelves.as_somebody, str(run / "states"), somebody)
    assert {name for name, owner in owners.items() if owner != somebody} == (
        {f"states.salmon-backup.{end}" for end in ("dat", "dir", "bak")} if old else set()
    )


def test_a_file_removed_under_it(path: Path, store: ShelveStorage) -> None:
    store.set(MODULE, SENDER, "POSTING")
    aside = path.with_name("aside")
    path.rename(aside)
    for replaced in (False, True):
        for attempt in (
            lambda: store.get(MODULE, SENDER),
            lambda: store.set(MODULE, SENDER, "ASKING"),
            lambda: list(store),
            lambda: store.clear(),
            store.ping,
        ):
            with pytest.raises(StorageUnavailable) as caught:
                attempt()
            assert "removed or replaced" in caught.value.detail
        if not replaced:
            path.touch()
    aside.rename(path)
    assert store.get(MODULE, SENDER) == "POSTING"


def test_nothing_is_left_of_it_but_the_shelf(path: Path) -> None:
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "POSTING")
    assert sorted(os.listdir(path.parent)) == ["states", "states.lock"]


def test_a_crash_before_the_table_was_made(path: Path) -> None:
    path.touch(0o600)
    with ShelveStorage(path) as store:
        store.set(MODULE, SENDER, "POSTING")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE Dict")
    with ShelveStorage(path) as store:
        assert len(store) == 0
