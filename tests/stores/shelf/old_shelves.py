"""What the tests of the shelf have other Pythons and other processes do.

Run as ``python old_shelves.py FUNCTION ARGUMENTS...``, arguments and answer in JSON.
"""

from __future__ import annotations

import dbm
import importlib
import json
import os
import shelve
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.forking import fork

REPOSITORY = Path(__file__).parents[3]
PATIENCE = 120.0

# ---------------------------------------------------------------- in the test's process


@cache
def python_with(module: str) -> str | None:
    """Returns a Python of this machine that has a module and can import ours."""
    names = [f"python3.{minor}" for minor in range(10, 15)]
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = [sys.executable, *(f"{folder}/{name}" for folder in folders for name in names)]
    siblings = Path(sys.base_prefix).parent.glob("*/bin/python3.[0-9][0-9]")
    for candidate in [*found, *map(str, siblings)]:
        if not shutil.which(candidate):
            continue
        program = f"import {module}, salmon_state.stores.shelf"
        tried = subprocess.run(
            [candidate, "-c", program], env=environment(), capture_output=True, check=False
        )
        if tried.returncode == 0:
            return candidate
    return None


def environment() -> dict[str, str]:
    """What another Python needs in order to import ours and what ours imports."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *packages])}


def call(python: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of this module in a process of its own."""
    ended = subprocess.run(
        [python, __file__, function.__name__, json.dumps(arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


# ---------------------------------------------------------------- in the other


def salmon_writes(path: str, flavour: str, states: list[tuple[str, str | None, str]]) -> list[str]:
    """Sets states with Salmon's own store; returns the names of its files."""
    from salmon.routing import ShelveStorage

    before = set(os.listdir(os.path.dirname(path)))
    choose(flavour)
    store = ShelveStorage(path)
    for state in states:
        store.set(*state)
    return sorted(set(os.listdir(os.path.dirname(path))) - before)


def salmon_reads(path: str, keys: list[tuple[str, str | None]]) -> list[str]:
    """Gets states with Salmon's own store."""
    from salmon.routing import ShelveStorage

    dbm.open(f"{path}.any", "n").close()
    return [ShelveStorage(path).get(*key) for key in keys]


def shelve_reads(path: str) -> dict[str, str]:
    """Reads a whole shelf with Python's ``shelve``."""
    with shelve.open(path, "r") as shelf:
        return dict(shelf)


def shelve_writes(path: str, entries: dict[str, str], removed: list[str]) -> None:
    """Writes entries with Python's ``shelve`` and removes others."""
    with shelve.open(path, "c") as shelf:
        shelf.update(entries)
        for key in removed:
            del shelf[key]


def we_convert(path: str) -> list[tuple[str, str | None, str]]:
    """Opens a shelf with ours; returns the records."""
    from salmon_state import ShelveStorage

    with ShelveStorage(path) as store:
        return [(record.module, record.sender, record.state) for record in store]


def we_are_refused(path: str) -> str:
    """Opens a shelf with ours; returns the error."""
    from salmon_state import ConfigurationError, ShelveStorage

    try:
        ShelveStorage(path).close()
    except ConfigurationError as error:
        return str(error)
    return "not refused"


def crash_at_each_step(path: str, flavour: str, spare: str) -> int:
    """Converts copies of a shelf, each time killed one step later; checks what is left.

    A step is whatever Python reports to an audit hook: opening, renaming, linking, removing,
    changing the mode of a file. Returns how many steps there were.
    """
    expected = sorted(
        we_convert(shutil.copytree(os.path.dirname(path), spare) + "/states"), key=repr
    )
    shutil.rmtree(spare)
    keys = [key[:2] for key in expected]
    step = 0
    while True:
        step += 1
        copy = shutil.copytree(os.path.dirname(path), spare) + "/states"
        child = fork()
        if child == 0:
            try:
                die_at(step, spare)
                we_convert(copy)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9), f"step {step}: {status}"
        left = set(os.listdir(spare))
        if not any("backup" in name for name in left) and flavour != "dbm.sqlite3":
            states = salmon_reads(copy, keys)
            assert states == [state for *_, state in expected], f"step {step}: {states}"
        assert sorted(we_convert(copy), key=repr) == expected, f"step {step}: {left}"
        left = {name for name in os.listdir(spare) if "salmon-new" in name or "Moves" in name}
        assert not left, f"step {step}: {left}"
        shutil.rmtree(spare)
        if status == 0:
            return step


def die_at(step: int, directory: str) -> None:
    """Ends this process with status 9 as soon as it begins a step."""
    steps = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal steps
        if event in EVENTS and any(directory in str(argument) for argument in arguments):
            steps += 1
            if steps == step:
                os._exit(9)

    sys.addaudithook(count)


EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.chmod", "sqlite3.connect")


def fork_and_write(path: str, bare: bool) -> list[str]:
    """Lets a forked child write after its parent has closed; returns the states found in the end.

    With bare SQLite, as whoever does not close before the fork would do it, or with our store.
    """
    open_, set_, get_ = bare_sqlite(path) if bare else our_store(path)
    store = open_()
    set_(store, "parent")
    ready, go = os.pipe(), os.pipe()
    child = fork()
    if child == 0:
        try:
            inherited = store  # neither used nor closed
            store = open_() if bare else store
            set_(store, "child")
            os.write(ready[1], b".")
            os.read(go[0], 1)
            set_(store, "child, when the parent had closed")
            os._exit(0 if inherited else 1)
        finally:
            os._exit(1)
    os.close(ready[1])
    assert os.read(ready[0], 1) == b"."
    store.close()
    os.write(go[1], b".")
    assert os.waitpid(child, 0)[1] == 0
    store = open_()
    found: list[str] = get_(store)
    store.close()
    return found


def bare_sqlite(path: str) -> tuple[Any, Any, Any]:
    import sqlite3

    def open_() -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS Dict (value)")
        return connection

    def set_(connection: sqlite3.Connection, state: str) -> None:
        connection.execute("INSERT INTO Dict VALUES (?)", (state,))

    return open_, set_, lambda c: [row[0] for row in c.execute("SELECT value FROM Dict")]


def our_store(path: str) -> tuple[Any, Any, Any]:
    from salmon_state import ShelveStorage

    return (
        lambda: ShelveStorage(path),
        lambda store, state: store.set("app.handlers", state, state),
        lambda store: [record.state for record in store],
    )


def fork_among_writers(path: str) -> int:
    """Forks again and again while threads use the store; returns how many states there are."""
    import threading

    from salmon_state import ShelveStorage

    store, other = ShelveStorage(path), ShelveStorage(path)
    stop = threading.Event()

    def write(number: int) -> None:
        while not stop.is_set():
            (store, other)[number % 2].set("threads", f"{number}@x", "WRITING")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in range(10):
        child = fork()
        if child == 0:
            try:
                store.set("children", f"{number}@x", "WRITING")
                other.set("children", f"{number}@y", store.get("children", f"{number}@x"))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    return sum(1 for _ in store.records(module="children"))


def as_somebody(path: str, user: int) -> dict[str, int]:
    """Makes the store as root and uses it after dropping privileges; returns the files' owners."""
    from salmon_state import ShelveStorage

    store = ShelveStorage(path)
    os.setgid(user)
    os.setuid(user)
    store.set("app.handlers", "a@x", "FIRST")
    with ShelveStorage(path) as again:
        again.set("app.handlers", "b@x", again.get("app.handlers", "a@x"))
        directory = os.path.dirname(path)
        return {name: os.stat(f"{directory}/{name}").st_uid for name in os.listdir(directory)}


def choose(flavour: str) -> None:
    """Makes ``shelve.open`` create new shelves of one flavour."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        dbm.open(f"{directory}/any", "n").close()  # makes dbm look for its flavours
    dbm._defaultmod = importlib.import_module(flavour)  # type: ignore[attr-defined]


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.argv[2]))))  # noqa: T201
