"""What is special to SQLite: a file, its rights, and its place."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import ConfigurationError, SQLAlchemyStorage, StorageError, StorageUnavailable
from salmon_state.stores.locks import _FIRST_QUEUE, WRITERS, FileQueue
from salmon_state.testing.endings import elsewhere
from salmon_state.testing.mails import can_enter
from tests.stores.sqlalchemy_places import HANG, eventually
from tests.stores.sqlalchemy_workers import CONTEXT, processes, set_without_end


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "states.db"


@pytest.fixture
def umask_of_a_daemon() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask_of_a_daemon")
def test_files_are_their_owners_only(path: Path) -> None:
    with SQLAlchemyStorage(f"sqlite:///{path}") as store:
        store.set("app", "a@x", "POSTING")
        files = sorted(path.parent.iterdir())
        suffixes = [file.name.removeprefix("states.db") for file in files]
        assert suffixes == ["", "-shm", "-wal", ".conversations"]
        assert {mode(file) for file in files} == {0o600}
        with store.conversation("a@x"):
            store.set("app", "a@x", "LATER")
        assert {mode(file) for file in path.parent.iterdir()} == {0o600}


@pytest.mark.usefixtures("umask_of_a_daemon")
def test_files_that_come_back_after_all_were_closed(path: Path) -> None:
    for _ in range(2):
        with SQLAlchemyStorage(f"sqlite:///{path}") as store:
            store.set("app", "a@x", "POSTING")
            assert {mode(file) for file in path.parent.iterdir()} == {0o600}


def test_a_mail_that_changes_one_state_says_two_statements(path: Path) -> None:
    """What it read beside is asked for in the one that writes: it needs no transaction."""
    said: list[str] = []
    with SQLAlchemyStorage(f"sqlite:///{path}") as store:
        for state in ("POSTING", "CONFIRMING"):  # a new row, and one that is there
            said.clear()
            store._pool.run(lambda driver: driver.set_trace_callback(said.append))
            with store.conversation("a@x"):
                for module in ("app", "other", "third"):
                    store.get(module, "a@x")
                store.set("app", "a@x", state)
            assert store.get("app", "a@x") == state
            assert [text.split()[0] for text in said] == [
                "SELECT",
                "INSERT" if state == "POSTING" else "UPDATE",
                "SELECT",
            ]


def test_an_old_file_in_another_journal_mode(path: Path) -> None:
    sqlite3.connect(path).close()
    with SQLAlchemyStorage(f"sqlite:///{path}") as store:
        store.set("app", "a@x", "POSTING")
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    connection.close()
    with SQLAlchemyStorage(f"sqlite:///{path}") as store:
        assert store.get("app", "a@x") == "POSTING"


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:states?uri=true"]
)
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"memory://|file:"):
        SQLAlchemyStorage(url)


def test_a_path_that_is_no_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / os.fsdecode(b"\xff")
    directory.mkdir()
    monkeypatch.chdir(directory)
    with pytest.raises(ConfigurationError, match=r"udcff/states.db' is no UTF-8"):
        SQLAlchemyStorage("sqlite:///states.db")
    assert not list(directory.iterdir())


def test_a_missing_directory(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "states.db"
    with pytest.raises(ConfigurationError, match=r"nowhere.*does not exist"):
        SQLAlchemyStorage(f"sqlite:///{missing}")
    assert not missing.parent.exists()


def test_a_directory_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a directory"):
        SQLAlchemyStorage(f"sqlite:///{tmp_path}")


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 1000)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"not a database"):
        SQLAlchemyStorage(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_file_that_gets_damaged(path: Path) -> None:
    with SQLAlchemyStorage(f"sqlite:///{path}") as store:
        for number in range(200):
            store.set("app", f"{number}@x" + "y" * 500, "POSTING")
    page = 4096
    data = bytearray(path.read_bytes())
    for start in range(2 * page, len(data), page):
        data[start : start + page] = b"\xff" * page
    path.write_bytes(data)
    with pytest.raises(StorageError) as caught, SQLAlchemyStorage(f"sqlite:///{path}") as store:
        list(store)
    assert not isinstance(caught.value, StorageUnavailable)  # trying again cannot help


def test_a_relative_path_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    with SQLAlchemyStorage("sqlite:///states.db") as store:
        store.set("app", "a@x", "POSTING")
        monkeypatch.chdir(tmp_path / "two")
        store._pool.close_idle()
        assert store.get("app", "a@x") == "POSTING"
        with store.conversation("a@x"):
            store.set("app", "a@x", "LATER")
        assert list((tmp_path / "two").iterdir()) == []
        assert str(tmp_path / "one" / "states.db") in repr(store)


@pytest.mark.parametrize("name", ["100% ü?.db", "a b#c&d.db", "semi;colon.db", "'quote\".db"])
def test_any_file_name(tmp_path: Path, name: str) -> None:
    url = sa.URL.create("sqlite", database=str(tmp_path / name))
    with SQLAlchemyStorage(url) as store:
        store.set("app", "a@x", "POSTING")
    assert sorted(file.name for file in tmp_path.iterdir()) == [name, f"{name}.conversations"]
    with SQLAlchemyStorage(url) as store:
        assert store.get("app", "a@x") == "POSTING"


def linked(path: Path) -> Path:
    """Another way to a file that does not exist yet: its directory and its name are links."""
    there, here = path.parent / "there", path.parent / "here"
    there.mkdir()
    here.symlink_to(there)
    (there / path.name).touch()
    (there / "link.db").symlink_to(path.name)
    return here / "link.db"


ENGINES: dict[str, Callable[[Path], sa.Engine]] = {
    "url": lambda path: sa.create_engine(f"sqlite:///{path}"),
    "uri": lambda path: sa.create_engine(f"sqlite:///file:{path}?uri=true"),
    "creator": lambda path: sa.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(path, check_same_thread=False)
    ),
}


@pytest.mark.parametrize("name", ENGINES)
def test_a_symbolic_link_leads_to_the_same_locks(path: Path, name: str) -> None:
    link = linked(path)
    real = link.resolve()
    assert link != real
    engine = ENGINES[name](link)
    with (
        SQLAlchemyStorage(f"sqlite:///{real}") as one,
        SQLAlchemyStorage(f"sqlite:///{link}") as two,
        SQLAlchemyStorage(engine) as three,
    ):
        stores = (one, two, three)
        for holder in stores:
            with holder.conversation("a@x"):
                holder.set("app", "a@x", "POSTING")
                assert {tuple(elsewhere(can_enter, each, ["a@x"])) for each in stores} == {(False,)}
            assert {each.get("app", "a@x") for each in stores} == {"POSTING"}
        assert len(list(path.parent.rglob("*.conversations"))) == 1
    engine.dispose()


def test_an_attached_database_has_its_own_locks(path: Path) -> None:
    """An application keeps the states beside its own tables, in a file of their own."""
    engine = sa.create_engine(f"sqlite:///{path.parent}/application.db")

    @sa.event.listens_for(engine, "connect")
    def attach(driver: Any, _record: object) -> None:
        driver.execute("ATTACH ? AS states", (str(path),))

    with (
        SQLAlchemyStorage(engine, schema="states") as attached,
        SQLAlchemyStorage(f"sqlite:///{path}") as store,
        attached.conversation("a@x"),
    ):
        attached.set("app", "a@x", "POSTING")
        assert elsewhere(can_enter, store, ["a@x"]) == [False]
    engine.dispose()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_removed(path: Path, replaced: bool) -> None:
    """Nothing is acknowledged that goes into a file which nobody will find again."""
    with SQLAlchemyStorage(f"sqlite:///{path}", timeout=0.2) as store:
        store.set("app", "a@x", "POSTING")
        for file in path.parent.iterdir():
            file.unlink()
        if replaced:
            SQLAlchemyStorage(f"sqlite:///{path}").close()
        if replaced:
            store.set("app", "a@x", "LATER")
            with SQLAlchemyStorage(f"sqlite:///{path}") as other:
                assert other.get("app", "a@x") == "LATER"
        else:
            with pytest.raises(StorageUnavailable):
                store.set("app", "a@x", "LATER")
            assert not path.exists()


def read_state(store: SQLAlchemyStorage) -> str:
    return store.get("app", "a@x")


def read_record(store: SQLAlchemyStorage) -> str:
    return next(iter(store)).state


def read_inside(store: SQLAlchemyStorage) -> str:
    with store.conversation("a@x"):
        return store.get("app", "a@x")


@pytest.mark.parametrize("read", [read_state, read_record, read_inside])
def test_a_backup_that_is_moved_into_place_is_read(
    path: Path, tmp_path: Path, read: Callable[[SQLAlchemyStorage], str]
) -> None:
    """By a process that only reads, too."""
    backup = tmp_path / "backup.db"
    with SQLAlchemyStorage(f"sqlite:///{backup}") as store:
        store.set("app", "a@x", "RESTORED")
    with SQLAlchemyStorage(f"sqlite:///{path}") as writer:
        writer.set("app", "a@x", "LOST")
    with SQLAlchemyStorage(f"sqlite:///{path}", timeout=0.2) as store:
        assert read(store) == "LOST"
        backup.rename(path)
        eventually(lambda: read(store) == "RESTORED")
        path.unlink()
        eventually(lambda: refuses(read, store))


def refuses(read: Callable[[SQLAlchemyStorage], str], store: SQLAlchemyStorage) -> bool:
    try:
        read(store)
    except StorageUnavailable as error:
        return "put it back" in error.detail
    return False


def test_processes_that_write_without_end_all_get_their_turn(path: Path) -> None:
    """SQLite's own waiting would have some of them refused after the timeout."""
    url = f"sqlite:///{path}"
    SQLAlchemyStorage(url).close()
    begun, stop = CONTEXT.Semaphore(0), CONTEXT.Event()
    jobs = [(url, number, 2, begun, stop) for number in range(4)]
    with processes(set_without_end, jobs) as answers:
        assert all(begun.acquire(timeout=HANG) for _ in range(4 * 2))
        with SQLAlchemyStorage(url, timeout=HANG) as store:
            for number in range(50):
                store.set("app", "me@x", f"S{number}")
                assert store.get("app", "me@x") == f"S{number}"
        stop.set()
        for _ in range(4):
            for name, step in answers.next():
                with SQLAlchemyStorage(url) as store:
                    assert store.get("app", name) == f"S{step}"


def test_threads_take_turns_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits in the file looks at it in pauses, in which nobody may be writing."""
    waited: list[int] = []
    in_turn = FileQueue._place

    def noting(self: FileQueue, first: int) -> Any:
        waited.append(first)
        return in_turn(self, first)

    monkeypatch.setattr(FileQueue, "_place", noting)

    def write(name: str) -> None:
        for step in range(20):
            with store.conversation(name):
                store.set("app", name, f"S{step}")
                store.set("other", name, f"S{step}")  # with two states there is a transaction
            store.set("third", name, f"S{step}")

    with SQLAlchemyStorage(f"sqlite:///{path}", timeout=HANG) as store:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(write, [f"a{number}@x" for number in range(8)]))
        assert len(store) == 3 * 8
    assert _FIRST_QUEUE + WRITERS not in waited


def test_no_file_stays_open_in_a_child_that_executes(path: Path) -> None:
    with SQLAlchemyStorage(f"sqlite:///{path}") as store:
        store.set("app", "a@x", "POSTING")
        inheritable = []
        for name in os.listdir("/dev/fd"):
            try:
                target = os.readlink(f"/dev/fd/{name}")
            except OSError:
                continue
            if target.startswith(str(path)) and os.get_inheritable(int(name)):
                inheritable.append(target)
        assert inheritable == []
