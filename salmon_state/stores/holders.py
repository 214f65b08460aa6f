"""Who holds the locks in a file, as Linux tells in ``/proc``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from salmon_state.findings import Finding
from salmon_state.stores.locks import is_place

__all__ = ["diagnose_locks"]


def diagnose_locks(path: Path) -> Iterator[Finding]:
    """Yields who is in a conversation, and who waits for one.

    Only of processes that this user may look at, as everybody may at his own and root at all.

    Args:
        path: The file of a `FileLocks`.
    """
    for process in sorted((entry for entry in os.listdir("/proc") if entry.isdigit()), key=int):
        held = _held(Path("/proc", process), path)
        if not held:
            continue
        text = f"process {process} ({_command(process)}) holds conversations: {held[False]}"
        text += f", waits for others: {held[True]}"
        stopped = held[False] and _is_stopped(process)
        if stopped:
            text += ", and is stopped"
        advice = f"kill -CONT {process}, or kill -KILL {process} to free them" if stopped else ""
        yield Finding("locks", text, advice)


def _held(process: Path, path: Path) -> Counter[bool]:
    """Returns how many bytes of a file a process has locked, by whether they are places."""
    held: Counter[bool] = Counter()
    try:
        links = os.listdir(process / "fd")
    except OSError:  # it has ended, or is somebody else's
        return held
    for link in links:
        with suppress(OSError):  # it was closed meanwhile
            if os.readlink(process / "fd" / link) == str(path):
                for line in (process / "fdinfo" / link).read_text().splitlines():
                    if line.startswith("lock:"):
                        held[is_place(int(line.split()[-2]))] += 1
    return held


def _command(process: str) -> str:
    try:
        words = Path("/proc", process, "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "ended"
    return b" ".join(words).decode("ascii", "backslashreplace").strip()[:80]


def _is_stopped(process: str) -> bool:
    try:
        status = Path("/proc", process, "stat").read_bytes()  # a name in it may be no text
    except OSError:
        return False
    return status.rpartition(b")")[2].split()[0] in (b"T", b"t")
