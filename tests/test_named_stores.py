from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from salmon_state import (
    ConfigurationError,
    MemoryStorage,
    MigrationPending,
    StorageUnavailable,
    close_all,
    configure,
    named,
    named_storage,
)
from tests.forking import fork

SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def _nothing_configured() -> Iterator[None]:
    configure({})
    yield
    configure({})


def refused(stores: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        configure(stores)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def is_closed(store: Any) -> bool:
    try:
        store.ping()
    except StorageUnavailable:
        return True
    return False


# ---------------------------------------------------------------- configuring


def test_every_form(tmp_path: Path) -> None:
    configure(
        {
            "main": f"sqlite:///{tmp_path}/states.db",
            "archive": {"url": "memory://", "options": {"protect": True}},
            "plain": {"url": "memory://"},
            "bounces": {"alias": "lists"},
            "lists": {"alias": "main"},
        }
    )
    assert not list(tmp_path.iterdir())  # nothing is opened before it is used
    named_storage("bounces").set("app", "anna@example.com", "POSTING")
    assert named_storage("main").get("app", "anna@example.com") == "POSTING"
    assert named_storage("main") is named_storage("lists") is named_storage("bounces")
    assert named_storage("archive") is not named_storage("plain")
    with pytest.raises(Exception, match="protect"):
        named_storage("archive").clear()


@pytest.mark.parametrize(
    ("stores", "words"),
    [
        ([], "mapping of names, got list"),
        ("memory://", "got str"),
        ({"": "memory://"}, "name"),
        ({7: "memory://"}, "name"),
        ({"main": 7}, "'main': expected a URL or a mapping, got int"),
        ({"main": None}, "got NoneType"),
        ({"main": {}}, "'main': expected a text as url"),
        ({"main": {"options": {}}}, "'main': expected a text as url"),
        ({"main": {"url": 7}}, "'main': expected a text as url"),
        ({"main": {"url": "memory://", "options": [1]}}, "mapping as options"),
        ({"main": {"url": "memory://", "alias": "a"}, "a": "memory://"}, "and nothing else"),
        ({"main": {"alias": "a", "options": {}}, "a": "memory://"}, "and nothing else"),
        ({"main": {"alias": None}}, "a text as alias"),
        ({"main": {"url": "memory://", "protect": True}}, "unknown key 'protect': known: url,"),
        ({"main": {"URL": "memory://"}}, "unknown key 'URL'"),
        ({"main": {"alias": "missing"}}, "'main' is an alias of 'missing', which is not"),
        ({"a": {"alias": "b"}, "b": {"alias": "c"}}, "'b' is an alias of 'c'"),
        ({"main": {"alias": f"redis://:{SECRET}@host"}}, "'main' is an alias of a URL"),
        ({"a": {"alias": "a"}}, "a → a"),
        ({"a": {"alias": "b"}, "b": {"alias": "c"}, "c": {"alias": "b"}}, "a → b → c → b"),
    ],
    ids=ascii,
)
def test_what_cannot_be_configured(stores: Any, words: str) -> None:
    configure({"before": "memory://"})
    before = named_storage("before")
    assert words in refused(stores)
    assert named_storage("before") is before
    assert not is_closed(before)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ConfigurationError, match="configure"):
        named_storage("main")
    configure({"main": "memory://", "bounces": {"alias": "main"}})
    with pytest.raises(ConfigurationError, match="'mian': known: bounces, main"):
        named_storage("mian")
    with pytest.raises(ConfigurationError) as caught:
        named_storage(f"redis://:{SECRET}@host")
    assert SECRET not in str(caught.value)


def test_what_cannot_be_opened_names_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    configure({"main": "memory://${NOT_SET}", "other": {"url": "memory://", "options": {"a": 1}}})
    with pytest.raises(ConfigurationError, match=r"'main': .*'NOT_SET'"):
        named_storage("main")
    with pytest.raises(ConfigurationError, match=r"'other': .*'a'"):
        named_storage("other")
    monkeypatch.setenv("NOT_SET", "")
    assert type(named_storage("main")) is MemoryStorage


def test_tables_that_are_to_be_migrated(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/states.db"
    configure({"main": {"url": url, "options": {"create": False}}})
    with pytest.raises(MigrationPending, match="store 'main': the table") as raised:
        named_storage("main")
    assert "CREATE TABLE" in raised.value.statements[0]


def test_reconfiguring_closes_what_changed() -> None:
    first: dict[str, Any] = {
        "same": {"url": "memory://", "options": {}},
        "options": "memory://",
        "url": "memory://",
        "gone": "memory://",
        "alias": {"alias": "same"},
        "becomes alias": "memory://",
    }
    configure(first)
    stores = {name: named_storage(name) for name in first}
    configure(
        {
            "alias": {"alias": "options"},
            "same": "memory://",
            "options": {"url": "memory://", "options": {"protect": True}},
            "url": "memory:",
            "becomes alias": {"alias": "same"},
        }
    )
    closed = {name for name, store in stores.items() if is_closed(store)}
    assert closed == {"options", "url", "gone", "becomes alias"}
    assert named_storage("same") is stores["same"] is named_storage("becomes alias")
    assert named_storage("alias") is named_storage("options") is not stores["options"]


def test_an_alias_becomes_a_store_of_its_own() -> None:
    configure({"main": "memory://", "bounces": {"alias": "main"}})
    main = named_storage("main")
    configure({"main": "memory://", "bounces": "memory://"})
    assert named_storage("main") is main is not named_storage("bounces")


def test_changing_the_mapping_later_changes_nothing() -> None:
    options = {"protect": False}
    configure({"main": {"url": "memory://", "options": options}})
    options["protect"] = True
    named_storage("main").clear()


# ---------------------------------------------------------------- closing


def test_close_all() -> None:
    configure({"main": "memory://", "bounces": {"alias": "main"}, "unused": "memory://"})
    first = named_storage("main")
    close_all()
    close_all()
    assert is_closed(first)
    assert not is_closed(named_storage("main"))
    assert named_storage("main") is named_storage("bounces")


def test_a_store_that_somebody_closed_is_opened_again() -> None:
    configure({"main": "memory://"})
    with named_storage("main") as first:
        pass
    assert named_storage("main") is not first
    assert not is_closed(named_storage("main"))


def test_one_that_cannot_be_closed_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    configure({"one": "memory://", "two": "memory://"})
    one, two = named_storage("one"), named_storage("two")

    def fail() -> None:
        raise LookupError(f"driver://:{SECRET}@host")

    monkeypatch.setattr(one, "_close", fail)
    with caplog.at_level(logging.WARNING, "salmon_state"):
        close_all()
    assert "<MemoryStorage> could not be closed: LookupError" in caplog.text
    assert SECRET not in caplog.text
    assert is_closed(two)


def run(program: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split()


REPORTING = """
import os
from salmon_state import MemoryStorage, close_all, configure, named_storage
MemoryStorage._close = lambda self: os.write(1, b"closed\\n")
configure({"main": "memory://", "unused": "memory://"})
"""


def test_they_are_closed_at_exit() -> None:
    assert run(REPORTING + "named_storage('main')") == ["closed"]
    assert run(REPORTING + "named_storage('main'); close_all()") == ["closed"]
    assert run(REPORTING) == []


# ---------------------------------------------------------------- threads and processes


class Slow(MemoryStorage):
    made = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        Slow.made += 1
        time.sleep(0.05)


def test_threads_get_the_same_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salmon_state.stores.memory.MemoryStorage", Slow)
    monkeypatch.setattr(Slow, "made", 0)
    configure({"main": "memory://", "bounces": {"alias": "main"}})
    barrier = threading.Barrier(8)
    found: list[Any] = []

    def work(name: str) -> None:
        barrier.wait(30)
        found.append(named_storage(name))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("main", "bounces") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert set(map(id, found)) == {id(named_storage("main"))}
    assert Slow.made == 1


def test_configuring_while_a_store_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a thread gets, nothing stays open that is not configured."""
    monkeypatch.setattr("salmon_state.stores.memory.MemoryStorage", Slow)
    opened: list[Any] = []
    configure({"main": "memory://"})
    thread = threading.Thread(target=lambda: opened.append(named_storage("main")))
    thread.start()
    time.sleep(0.02)
    configure({"main": "memory:"})
    thread.join(30)
    assert opened == [named_storage("main")] or is_closed(opened[0])


# Python 3.12 and later warn of forking beside other threads, which is what is tried here.
forking = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def in_child(work: Any) -> bytes:
    """Runs something in a forked child; returns what it returned."""
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        try:
            os.write(writing, work())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@forking
def test_a_forked_child_has_stores_of_its_own(tmp_path: Path) -> None:
    configure({"main": f"sqlite:///{tmp_path}/states.db", "lists": {"alias": "main"}})
    before = named_storage("main")
    before.set("app", "anna@example.com", "CONFIRMING")

    def work() -> bytes:
        store = named_storage("main")
        assert store is not before
        assert store is named_storage("lists")
        gc.collect()
        store.set("app", "ben@example.com", "POSTING")
        found = store.get("app", "anna@example.com")
        close_all()
        return found.encode()

    assert in_child(work) == b"CONFIRMING"
    assert named_storage("main") is before
    assert not is_closed(before)
    assert before.get("app", "ben@example.com") == "POSTING"


def test_a_child_closes_at_exit_what_it_opened() -> None:
    program = """
named_storage("main")
child = os.fork()
if child == 0:
    MemoryStorage._close = lambda self: os.write(1, b"child\\n")
    named_storage("unused")
else:
    os.waitpid(child, 0)
"""
    assert run(REPORTING + program) == ["child", "closed"]


@forking
def test_forking_while_another_thread_opens() -> None:
    configure({"main": "memory://"})
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with named._lock:
            holding.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait(30)
    try:
        assert in_child(lambda: type(named_storage("main")).__name__.encode()) == b"MemoryStorage"
    finally:
        done.set()
        thread.join(30)
