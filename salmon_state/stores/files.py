"""Files that hold states: where they are, and that only their owner reads them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from salmon_state.errors import ConfigurationError, StorageError, StorageUnavailable
from salmon_state.findings import Finding
from salmon_state.log import log

__all__ = [
    "absolute_path",
    "beside",
    "create_private_file",
    "diagnose_files",
    "make_private",
    "may_pass",
    "resolve_path",
]

OWNER_ONLY = 0o600
_EVERYBODY = 0o007

# What may be well a minute later; whatever else the system says, somebody has to mend.
_PASSING = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ENOMEM,
    errno.EINTR,
    errno.EAGAIN,
    errno.ESTALE,
)


def absolute_path(path: str) -> str:
    """Returns a path that stays the same when a handler changes the working directory.

    Raises:
        ConfigurationError: It is relative to a directory that was removed.
    """
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise ConfigurationError(
            f"{path!r} is relative, and the working directory cannot be found: {error.strerror}"
        ) from error


def beside(path: Path, suffix: str) -> Path:
    """Returns a path with something appended to its name."""
    return path.with_name(path.name + suffix)


def resolve_path(path: str | os.PathLike[str]) -> Path:
    """Returns the absolute path of a store, checking that its directory can hold one.

    It is resolved once, when the store is made, because a handler's later ``os.chdir`` must not
    open another store.

    Raises:
        ConfigurationError: The path is empty, is a directory or cannot exist, or its directory
            is missing or not writable; the message says which path and why.
        StorageUnavailable: The system cannot say so now.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ConfigurationError(f"a store needs the path of a file, got {text!r}")
    absolute = Path(absolute_path(text))
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
        raise _refused(f"cannot keep states in {str(absolute)!r}", error) from error
    raise ConfigurationError(f"cannot keep states in {str(absolute)!r}: {reason}")


def create_private_file(path: Path) -> None:
    """Makes sure that a file exists, and that it is not everybody's to read or write.

    A new one is readable and writable by its owner only, an existing one see `make_private`.

    The umask is not trusted: that of a Salmon daemon is 0. A file that root creates is given to
    the owner of its directory, so that a server which drops its privileges afterwards
    (``salmon start --uid``) can still write to it.

    Raises:
        ConfigurationError: It cannot be created; the message says which path and why.
        StorageUnavailable: It cannot be created now: no descriptors or no space are left.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY)
    except FileExistsError:
        make_private(path)
        return
    except OSError as error:
        raise _refused(f"cannot create {str(path)!r}", error) from error
    try:
        os.fchmod(descriptor, OWNER_ONLY)
        if os.geteuid() == 0:
            directory = os.stat(path.parent)
            with contextlib.suppress(OSError):  # a container may not, or has no such user
                os.fchown(descriptor, directory.st_uid, directory.st_gid)
    finally:
        os.close(descriptor)


def may_pass(error: Exception) -> bool:
    """Returns whether the system may be well a minute later: no descriptors, no space."""
    return isinstance(error, OSError) and error.errno in _PASSING


def make_private(path: Path) -> None:
    """Takes an existing file away from everybody but its owner, and says so in the log.

    Nobody wants that every user of the machine reads addresses or writes states; a daemon with
    Salmon's umask of 0, or a restored backup, makes such files. One that only the group may read
    or write is somebody's decision, and stays. A missing one is none of its business.

    Raises:
        ConfigurationError: It belongs to somebody else; the message says what to do.
    """
    try:
        mode = os.stat(path).st_mode & 0o777
        if not mode & _EVERYBODY:
            return
        os.chmod(path, OWNER_ONLY)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refused(
            f"{str(path)!r} can be read or written by every user of this machine, and {_whoami()} "
            "cannot change that (chmod 600 it)",
            error,
        ) from error
    log().warning("%s was open to every user of this machine: mode %o is now 600", path, mode)


def diagnose_files(path: Path) -> Iterator[Finding]:
    """Yields what there is to say of the owner and the mode of a store's files.

    Args:
        path: That of the database; those beside it have its name with something appended.
    """
    status = path.stat()
    owner = f"owner {status.st_uid}:{status.st_gid}, mode {status.st_mode & 0o777:o}"
    yield Finding("files", f"{path}: {owner}")
    for suffix in ("-wal", "-shm", ".lock", ".conversations"):
        file = beside(path, suffix)
        with contextlib.suppress(FileNotFoundError):
            its = file.stat()
            if _rights(its) != _rights(status):
                text = f"{file} is not open to the same users as {path.name}: some cannot write"
                advice = f"chown --reference={path} {file}; chmod --reference={path} {file}"
                yield Finding("files", text, advice)
    directory = path.parent.stat().st_mode
    if directory & stat.S_IWOTH and not directory & stat.S_ISVTX:
        text = f"every user of this machine may replace the files in {path.parent}"
        yield Finding("files", text, f"chmod o-w {path.parent}")


def _rights(status: os.stat_result) -> tuple[int, ...]:
    return status.st_uid, status.st_gid, status.st_mode & 0o777


def _refused(what: str, error: OSError) -> StorageError:
    text = f"{what}: {error.strerror or type(error).__name__}"
    return StorageUnavailable(text) if may_pass(error) else ConfigurationError(text)


def _whoami() -> str:
    return f"user {os.geteuid()}"
