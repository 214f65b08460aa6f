"""Sockets to listen on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import Any

__all__ = ["BACKLOG", "listen_on_path", "listen_on_port", "place_of"]

BACKLOG = 511
"""Clients that may wait to be accepted: with the usual 5 the others wait for a second, then two,
four, eight and so on."""

_LONGEST_PATH = 103
"""Bytes of a Unix socket's path for which every system has room; Linux has 107."""


def listen_on_port(host: str, port: int) -> socket.socket:
    """Listens on a TCP port; 0 is one that is free.

    Raises:
        OSError: There is no such host here, or somebody listens there.
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError as error:  # such as 127.0.0..1
        raise OSError(errno.EADDRNOTAVAIL, "no such host", host) from error
    family, _, _, _, address = found[0]
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def listen_on_path(path: str, mode: int) -> socket.socket:
    """Listens on a Unix socket with some permissions; one that nobody listens on is replaced.

    Raises:
        OSError: It cannot be made, its path is too long, somebody listens there, or something else
            is there.
    """
    path = os.path.abspath(path)
    # Bound under another name, so that nobody connects before it has its permissions.
    hidden = f"{path}.{os.getpid()}"
    if len(os.fsencode(hidden)) > _LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, "too long for a Unix socket", path)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode) or _is_listened_on(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
        os.unlink(path)
    listening = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden)  # of one that was killed here, where the next has the same number
        listening.bind(hidden)
        os.chmod(hidden, mode)
        listening.listen(BACKLOG)
        os.rename(hidden, path)
    except BaseException:
        listening.close()
        raise
    return listening


def _is_listened_on(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def place_of(address: Any) -> str:
    """Returns the address of a socket for people."""
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"
