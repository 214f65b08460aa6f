"""What the operating system does to the stores that keep their states in files."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import closing, suppress
from pathlib import Path

import pytest
from salmon.routing import RoutingBase

from salmon_state import (
    ConfigurationError,
    SQLAlchemyStorage,
    StateStorage,
    StorageUnavailable,
    attach,
    open_storage,
)
from tests.descriptors import descriptors_left

ANNA = "anna@example.com"


@pytest.fixture(params=["sqlite", "shelve"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}:///{tmp_path}/states"


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("left", range(8))
def test_opening_without_descriptors(url: str, existing: bool, left: int) -> None:
    """It is the moment's trouble and not the configuration's; afterwards all is well."""
    if existing:
        with open_storage(url) as store:
            store.set("app", ANNA, "POSTING")
    with descriptors_left(left):
        try:
            opened: StateStorage | None = open_storage(url)
        except StorageUnavailable:
            opened = None
    assert opened is None or left > 0
    if opened is not None:
        opened.close()
    with open_storage(url) as store:
        assert store.get("app", ANNA) == ("POSTING" if existing else "START")


@pytest.mark.parametrize("left", range(4))
def test_working_without_descriptors(url: str, left: int) -> None:
    with open_storage(url) as store, closing(open_storage(url)) as used:
        used.set("app", ANNA, "POSTING")
        with descriptors_left(left):
            for which in (store, used):
                try:
                    with which.conversation(ANNA):
                        assert which.get("app", ANNA) == "POSTING"
                    which.set("app", ANNA, "POSTING")
                except StorageUnavailable:
                    pass
        for which in (store, used):
            with which.conversation(ANNA):
                which.set("app", ANNA, "POSTING")


def test_a_handler_asks_again_for_its_connection(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/states.db"
    with SQLAlchemyStorage(url, pool_size=2) as store, store.conversation(ANNA) as conversation:
        store._pool.close_idle()
        with descriptors_left(0):
            for _ in range(2):
                with pytest.raises(StorageUnavailable) as raised:
                    _ = conversation.connection
                assert "cannot be opened now" in raised.value.detail
        assert conversation.connection.exec_driver_sql("SELECT 1").scalar() == 1


@pytest.mark.parametrize("mode", [0o666, 0o777, 0o644, 0o602])
def test_files_that_are_open_to_everybody(
    url: str, mode: int, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """They are made their owner's, and the log says so."""
    with open_storage(url) as store, store.conversation(ANNA):
        store.set("app", ANNA, "POSTING")
    (tmp_path / "states-wal").touch()
    for file in tmp_path.iterdir():
        file.chmod(mode)
    with open_storage(url) as store, store.conversation(ANNA):
        assert store.get("app", ANNA) == "POSTING"
        store.set("app", ANNA, "LATER")
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    warnings = [text for text in caplog.messages if "every user" in text]
    assert any(f"{tmp_path}/states was open" in text for text in warnings)
    assert f"mode {mode:o} is now 600" in warnings[0]


def test_files_that_only_the_group_may_use(url: str, tmp_path: Path) -> None:
    """That is somebody's decision."""
    open_storage(url).close()
    (tmp_path / "states").chmod(0o660)
    open_storage(url).close()
    assert stat.S_IMODE((tmp_path / "states").stat().st_mode) == 0o660


def test_files_of_somebody_else(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_storage(url).close()
    (tmp_path / "states").chmod(0o666)

    def refuse(path: object, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)  # root, which runs the tests in CI, may do anything
    with pytest.raises(ConfigurationError, match="chmod 600"):
        open_storage(url)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL], ids=errno.errorcode.get)
def test_a_directory_of_somebody_whom_the_container_does_not_know(
    url: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its root has no number for the owner of a directory that is mounted from outside."""

    def refuse(descriptor: int, user: int, group: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", refuse)
    with open_storage(url) as store, store.conversation(ANNA):
        store.set("app", ANNA, "POSTING")


def test_a_schema_that_sqlite_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nosuch"):
        open_storage(f"sqlite:///{tmp_path}/states", schema="nosuch")


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_flip_in_the_schema(url: str, tmp_path: Path, bit: int) -> None:
    """Whatever becomes of the text of the schema: it opens, or says that it cannot."""
    with open_storage(url) as store:
        store.set("app", ANNA, "POSTING")
    path = tmp_path / "states"
    whole = path.read_bytes()
    start = whole.index(b"CREATE ")
    for place in range(start, start + 150, 3):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        with suppress(ConfigurationError):
            open_storage(url).close()


@pytest.mark.parametrize(
    "url", ["sqlite:///states", "shelve:///states", "rediss://h?ssl_ca_certs=ca.pem"]
)
def test_a_working_directory_that_was_removed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths lead nowhere, and absolute ones where they always do."""
    removed = tmp_path / "removed"
    removed.mkdir()
    monkeypatch.chdir(removed)
    removed.rmdir()
    with pytest.raises(ConfigurationError, match="working directory cannot be found"):
        open_storage(url)
    with pytest.raises(ConfigurationError, match="working directory cannot be found"):
        attach(RoutingBase())
    open_storage(f"sqlite:///{tmp_path}/states").close()
