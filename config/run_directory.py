"""What a server writes to run/: readable by its owner only, and writable after ``--uid``."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from config.environment import SettingsError

__all__ = ["give_away", "private_directory", "private_maildir", "private_secret"]


def private_directory(path: str) -> Path:
    """Makes sure that a directory exists; a new one is open to its owner only.

    Returns:
        Its absolute path, so that a handler's later ``os.chdir`` changes nothing.
    """
    try:
        absolute = Path(os.path.abspath(path))
        absolute.mkdir(mode=0o700)
        give_away(absolute)
    except FileExistsError:
        if not absolute.is_dir():
            raise SettingsError(f"{path}: expected a directory, found a file") from None
    except OSError as error:
        raise SettingsError(f"cannot make the directory {path}: {error.strerror}") from None
    return absolute


def private_maildir(path: str) -> Path:
    """Makes sure that a Maildir exists; a new one is open to its owner only."""
    absolute = private_directory(path)
    for name in ("tmp", "new", "cur"):
        private_directory(str(absolute / name))
    return absolute


def private_secret(path: str) -> bytes:
    """Returns the secret in a file, which is made with a random one if it does not exist.

    Two servers that start at the same moment agree on one: the file appears complete or not at
    all, and the first wins.
    """
    try:
        absolute = Path(os.path.abspath(path))
        if not absolute.exists():
            _make_secret(absolute)
        if absolute.stat().st_mode & 0o077:
            raise SettingsError(f"{path} can be read by others: chmod 600 it, or delete it")
        secret = absolute.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SettingsError(f"cannot use the secret in {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: expected ASCII text; delete it to get a new one") from None
    if len(secret) < 32:
        raise SettingsError(f"{path}: expected at least 32 characters; delete it to get a new one")
    return secret.encode("ascii")


def _make_secret(path: Path) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.") as file:
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
        give_away(Path(file.name))
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)


def give_away(path: Path) -> None:
    """Gives what root made to the owner of the directory around it.

    ``salmon start --uid`` boots as root and drops its privileges afterwards; what it made before
    would otherwise be closed to the server.
    """
    if os.geteuid() == 0:
        around = path.parent.stat()
        with contextlib.suppress(OSError):  # a container may not, or has no such user
            # Of a link that its owner has put in place of it, not what it leads to.
            os.chown(path, around.st_uid, around.st_gid, follow_symlinks=False)
