from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import salmon_state
from salmon_state import (
    ConfigurationError,
    MemoryStorage,
    ShelveStorage,
    SQLAlchemyStorage,
    StateStorage,
    StorageError,
    open_storage,
)

SECRET = "s3cr3t"


@pytest.mark.parametrize("url", ["memory://", "memory:", "MEMORY://"])
def test_memory(url: str) -> None:
    with open_storage(url) as store:
        assert type(store) is MemoryStorage


@pytest.mark.parametrize(
    ("scheme", "kind"), [("shelve", ShelveStorage), ("sqlite", SQLAlchemyStorage)]
)
def test_files(scheme: str, kind: type[StateStorage], tmp_path: Path) -> None:
    with open_storage(f"{scheme}:///{tmp_path}/states") as store:
        assert type(store) is kind
        store.set("app", "anna@example.com", "CONFIRMING")
    assert any(tmp_path.iterdir())
    with open_storage(f"{scheme.upper()}:///{tmp_path}/states") as store:
        assert store.get("app", "anna@example.com") == "CONFIRMING"


@pytest.mark.parametrize("scheme", ["shelve", "sqlite"])
def test_a_relative_path_is_resolved_once(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler's chdir does not open another store."""
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with open_storage(f"{scheme}:///run/states") as store:
        os.chdir(tmp_path / "elsewhere")
        store.set("app", "anna@example.com", "CONFIRMING")
    assert not list((tmp_path / "elsewhere" / "run").iterdir())
    with open_storage(f"{scheme}:///{tmp_path}/run/states") as store:
        assert store.get("app", "anna@example.com") == "CONFIRMING"


@pytest.mark.parametrize("scheme", ["shelve", "sqlite"])
def test_a_missing_directory_is_named(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="missing"):
        open_storage(f"{scheme}:///{tmp_path}/missing/states")
    assert not (tmp_path / "missing").exists()


def test_an_unknown_scheme_lists_the_known() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_storage(f"mysqlite://anna:{SECRET}@db/states")
    text = str(caught.value)
    assert "'mysqlite'" in text
    for known in ("memory://", "shelve://", "sqlite://"):
        assert known in text
    assert SECRET not in text


@pytest.mark.parametrize(
    "url",
    ["", "states.db", f"//anna:{SECRET}@db/states", "://", "1a://x", None, 7, b"memory://"],
    ids=ascii,
)
def test_what_is_no_url(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="opened by a URL such as") as caught:
        open_storage(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"memory://anna:{SECRET}@db/states",
        f"shelve://anna:{SECRET}@host/states",
        f"shelve:///states?password={SECRET}",
        f"sqlite://anna:{SECRET}@host/states.db",
    ],
)
def test_no_error_shows_a_password(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError) as caught:
        open_storage(url)
    assert SECRET not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["shelve:", "shelve://", "shelve:///", "shelve://states"])
def test_a_path_needs_three_slashes(url: str) -> None:
    with pytest.raises(ConfigurationError, match="three slashes"):
        open_storage(url)


@pytest.mark.parametrize("url", ["memory://", "shelve:///states", "sqlite:///states.db"])
def test_an_unknown_option_lists_the_known(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        open_storage(url, protected=True)
    assert "'protected'" in str(caught.value)
    assert "protect" in str(caught.value).partition("known:")[2]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["memory://", "shelve:///states", "sqlite:///states.db"])
def test_options_reach_the_store(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_storage(url, protect=True) as store, pytest.raises(StorageError, match="protect"):
        store.clear()


def loaded_by(program: str, *names: str) -> list[str]:
    program += f"\nimport sys\nprint(*[name for name in {names!r} if name in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return ended.stdout.split()


def test_a_backend_is_imported_when_it_is_used(tmp_path: Path) -> None:
    heavy = ("sqlalchemy", "filelock", "dbm", "salmon_state.stores.shelf")
    assert loaded_by("import salmon_state", *heavy) == []
    assert loaded_by("import salmon_state; salmon_state.open_storage('memory://')", *heavy) == []
    opened = f"import salmon_state; salmon_state.open_storage('sqlite:///{tmp_path}/states.db')"
    assert loaded_by(opened, "sqlalchemy") == ["sqlalchemy"]
    named = "from salmon_state import SQLAlchemyStorage"
    assert loaded_by(named, "sqlalchemy") == ["sqlalchemy"]


def test_public_names() -> None:
    for name in salmon_state.__all__:
        assert getattr(salmon_state, name) is not None
        assert name in dir(salmon_state)
    assert not hasattr(salmon_state, "RetroStorage")
