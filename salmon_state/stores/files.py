"""Files that hold states: where they are, and that only their owner reads them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from salmon_state.errors import ConfigurationError

__all__ = ["create_private_file", "resolve_path"]

OWNER_ONLY = 0o600


def resolve_path(path: str | os.PathLike[str]) -> Path:
    """Returns the absolute path of a store, checking that its directory can hold one.

    It is resolved once, when the store is made, because a handler's later ``os.chdir`` must not
    open another store.

    Raises:
        ConfigurationError: The path is empty, is a directory or cannot exist, or its directory
            is missing or not writable; the message says which path and why.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ConfigurationError(f"a store needs the path of a file, got {text!r}")
    absolute = Path(os.path.abspath(text))
    directory = absolute.parent
    try:
        if absolute.is_dir():
            reason = "it is a directory; give the path of a file in it"
        elif not directory.exists():
            reason = f"the directory {str(directory)!r} does not exist; create it first"
        elif not directory.is_dir():
            reason = f"{str(directory)!r} is not a directory"
        elif not os.access(directory, os.W_OK | os.X_OK):
            reason = f"the directory {str(directory)!r} is not writable by {_whoami()}"
        elif absolute.exists() and not os.access(absolute, os.R_OK | os.W_OK):
            reason = f"the file is not readable and writable by {_whoami()}"
        else:
            return absolute
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise ConfigurationError(f"cannot keep states in {str(absolute)!r}: {reason}")


def create_private_file(path: Path) -> None:
    """Makes sure that a file exists; a new one is readable and writable by its owner only.

    The umask is not trusted: that of a Salmon daemon is 0. A file that root creates is given to
    the owner of its directory, so that a server which drops its privileges afterwards
    (``salmon start --uid``) can still write to it.

    Raises:
        ConfigurationError: It cannot be created; the message says which path and why.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY)
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigurationError(f"cannot create {str(path)!r}: {error.strerror}") from error
    try:
        os.fchmod(descriptor, OWNER_ONLY)
        if os.geteuid() == 0:
            directory = os.stat(path.parent)
            with contextlib.suppress(PermissionError):  # root of a container may not give away
                os.fchown(descriptor, directory.st_uid, directory.st_gid)
    finally:
        os.close(descriptor)


def _whoami() -> str:
    return f"user {os.geteuid()}"
