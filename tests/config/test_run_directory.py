"""What is written under run/ is for its owner only."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from config.environment import SettingsError
from config.logs import log_to_file
from config.run_directory import give_away, private_directory, private_maildir, private_secret


@pytest.fixture(autouse=True)
def umask_of_a_salmon_daemon() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_directories_are_for_their_owner_only(tmp_path: Path) -> None:
    maildir = private_maildir(str(tmp_path / "mail"))
    assert [mode(path) for path in (maildir, *maildir.iterdir())] == [0o700] * 4
    assert private_directory(str(maildir)) == maildir


def test_a_path_is_absolute_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert private_directory("mail") == tmp_path / "mail"


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="file: expected a directory, found a file"):
        private_directory(str(tmp_path / "file"))
    with pytest.raises(SettingsError, match="missing/mail: No such file or directory"):
        private_directory(str(tmp_path / "missing" / "mail"))


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    secret = private_secret(str(path))
    assert (len(secret), mode(path)) == (64, 0o600)
    assert private_secret(str(path)) == secret
    assert list(tmp_path.iterdir()) == [path]


def test_servers_that_start_together_agree(tmp_path: Path) -> None:
    path = str(tmp_path / "secret")
    with ThreadPoolExecutor(8) as servers:
        assert len(set(servers.map(private_secret, [path] * 50))) == 1


def test_a_secret_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    with pytest.raises(SettingsError, match="at least 32 characters"):
        private_secret(str(path))
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(SettingsError, match="expected ASCII text"):
        private_secret(str(path))
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        private_secret(str(path))
    with pytest.raises(SettingsError, match="No such file or directory"):
        private_secret(str(tmp_path / "missing" / "secret"))


def test_a_working_directory_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = tmp_path / "removed"
    removed.mkdir()
    monkeypatch.chdir(removed)
    removed.rmdir()
    for make in (private_directory, private_secret):
        with pytest.raises(SettingsError, match="run: No such file or directory"):
            make("run")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL], ids=errno.errorcode.get)
def test_a_directory_of_somebody_whom_the_container_does_not_know(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its root has no number for the owner of a directory that is mounted from outside."""

    def refuse(path: object, user: int, group: int, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", refuse)
    assert private_directory(str(tmp_path / "run")).is_dir()
    assert private_secret(str(tmp_path / "secret"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_belongs_to_whom_the_directory_belongs(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 54321)
    private_secret(str(tmp_path / "secret"))
    private_maildir(str(tmp_path / "mail"))
    for path in tmp_path.rglob("*"):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_log_that_root_opens_belongs_to_whom_the_directory_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``salmon start --uid`` the dispatcher, which is no longer root's, opens it as well."""
    os.chown(tmp_path, 12345, 54321)
    monkeypatch.chdir(tmp_path)
    private_directory("logs")
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        log_to_file()
        log = tmp_path / "logs" / "salmon.log"
        assert (log.stat().st_uid, log.stat().st_gid) == (12345, 54321)
    finally:
        for handler in root.handlers:
            if handler not in before:
                handler.close()
        root.handlers[:] = before
        root.setLevel(level)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_a_link_leads_to_is_not_given_away(tmp_path: Path) -> None:
    """Whoever owns the directory may put one in place of what root has just made there."""
    theirs, precious = tmp_path / "theirs", tmp_path / "precious"
    theirs.mkdir()
    os.chown(theirs, 12345, 54321)
    precious.touch()
    link = theirs / "run"
    link.symlink_to(precious)
    give_away(link)
    assert precious.stat().st_uid == 0
