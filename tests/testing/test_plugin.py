"""The pytest plugin, as an application's tests see it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from salmon_state import open_storage

PLUGIN = "salmon_state.testing.plugin"

SWAPPING = """
from salmon.routing import Router, route

@route("list@(host)", host=".+")
def START(message, host): pass

Router.defaults(host="example.com")
BEFORE = dict(vars(Router))
for name in ("REGISTERED", "ORDER", "DEFAULT_CAPTURES", "HANDLERS"):
    BEFORE[name] = BEFORE[name].copy()

def test_swapped(state_store):
    assert Router.STATE_STORE is state_store
    assert type(Router.deliver).__name__ == "Delivery"
    assert type(state_store).__name__ == "MemoryStorage"
    state_store.set("app", "anna@example.com", "CONFIRMING")
    Router.LOG_EXCEPTIONS = False
    Router.UNDELIVERABLE_QUEUE = object()
    Router.deliver = lambda message: None
    Router.defaults(host="changed.example.com")
    Router.clear_routes()
    test_swapped.store = state_store

def test_restored():
    assert dict(vars(Router)) == BEFORE
    assert test_swapped.store._closed

def test_fresh(state_store):
    assert state_store is not test_swapped.store
    assert len(state_store) == 0

def test_what_is_imported_stays(state_store):
    route("other@(host)", host=".+")(START)

def test_imported():
    assert list(Router.REGISTERED) == Router.ORDER
    assert len(Router.ORDER) == len(BEFORE["ORDER"]) + 1
    BEFORE.update(ORDER=[*Router.ORDER], REGISTERED={**Router.REGISTERED})

def test_broken(state_store):
    Router.RELOAD = True
    raise ZeroDivisionError("this test is to fail")

def test_restored_after_a_failure():
    assert dict(vars(Router)) == BEFORE
"""

OTHER_STORE = """
import pytest

@pytest.fixture
def state_store_url(tmp_path):
    return f"shelve:///{tmp_path}/states"

def test_other_store(state_store):
    assert type(state_store).__name__ == "ShelveStorage"
    state_store.set("app", "anna@example.com", "CONFIRMING")
    assert state_store.get("app", "anna@example.com") == "CONFIRMING"
"""

LEAKING = """
import pytest
from salmon_state import StorageError

@pytest.mark.parametrize("time", range(3))
def test_own(state_store, time):
    assert len(state_store) == 0
    state_store.set("app", "anna@example.com", "CONFIRMING")
    if time == 1:
        state_store.close()
    if time == 2:
        raise ZeroDivisionError("this test is to fail")
"""

INI = """
def test_ini(state_store, tmp_path, monkeypatch):
    assert type(state_store).__name__ == "ShelveStorage"
"""

ALONE = """
def test_alone():
    pass
"""


# Hypothesis's plugin imports Hypothesis, which takes longer than all else that happens here.
WITHOUT = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")


def run(directory: Path, test: str, *options: str) -> str:
    """Runs a test file in a project of its own; returns what pytest printed."""
    (directory / "test_it.py").write_text(test)
    installed = any(point.value == PLUGIN for point in entry_points(group="pytest11"))
    plugin = () if installed else ("-p", PLUGIN)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *WITHOUT, *plugin, *options],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.stdout + ended.stderr


def test_a_test_has_a_store_of_its_own(tmp_path: Path) -> None:
    output = run(tmp_path, SWAPPING)
    assert "6 passed" in output
    assert "1 failed" in output
    assert "this test is to fail" in output


def test_a_fixture_chooses_another_store(tmp_path: Path) -> None:
    assert "1 passed" in run(tmp_path, OTHER_STORE)


def test_an_ini_option_chooses_another_store(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nsalmon_state_url = shelve:///states\n")
    assert "1 passed" in run(tmp_path, INI)


@pytest.mark.parametrize("place", ["", "{tmp_path}/"])
@pytest.mark.parametrize("scheme", ["shelve", "sqlite"])
def test_no_test_finds_what_another_left(scheme: str, place: str, tmp_path: Path) -> None:
    """Neither of this run nor of the one before."""
    url = f"{scheme}:///{place}states"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nsalmon_state_url = {url}\n")
    for _ in range(2):
        output = run(tmp_path, LEAKING)
        assert "1 failed, 2 passed" in output
        assert "this test is to fail" in output
    assert bool([*tmp_path.glob("states*")]) == (not place)


def test_what_was_there_before_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/production.db"
    with open_storage(url) as store:
        store.set("app", "anna@example.com", "POSTING")
    output = run(tmp_path, LEAKING, "-o", f"salmon_state_url={url}")
    assert "3 errors" in output
    assert "is not empty (Record(module='app', sender='anna@example.com'" in output
    assert "clear() it if nobody needs that, or have {tmp_path} in its URL" in output
    with open_storage(url) as store:
        assert store.get("app", "anna@example.com") == "POSTING"


def test_a_wrong_url_says_what_can_work(tmp_path: Path) -> None:
    output = run(tmp_path, SWAPPING, "-o", "salmon_state_url=nonsense://")
    assert "unknown scheme 'nonsense'" in output
    assert "memory://" in output


def test_the_fixtures_explain_themselves(tmp_path: Path) -> None:
    output = run(tmp_path, ALONE, "--fixtures")
    assert "Attaches an empty store to Salmon's router for one test" in output
    assert "Returns the URL that `state_store` opens" in output


def test_whoever_does_not_use_it_does_not_pay() -> None:
    program = (
        "import sys, salmon_state, pytest; before = set(sys.modules); "
        f"import {PLUGIN}; print(*sorted(set(sys.modules) - before))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.split() == ["salmon_state.testing", PLUGIN]
