"""FileStorage: all entries of a sender in a file of their own.

The directory of a store holds

* ``<sha-256 of the sender>``: a line for each entry, and at last a digest of the lines;
* ``<sha-256 of the sender>.new``: what is about to take its place;
* ``journal``: the files to replace, while a change of several senders is under way;
* ``locks``: an empty file, whose bytes are locked.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from salmon_state import (
    ConfigurationError,
    ConversationBusy,
    StateStorage,
    StorageError,
    StorageUnavailable,
)
from salmon_state.backend import Lock
from salmon_state.entries import EVERY, Entry, Kind, Page, Place, Want, Where, Write, change
from salmon_state.keys import Sender, ascii_key, parse_key
from salmon_state.options import path_of
from salmon_state.stores.encoding import decode_state, encode_state
from salmon_state.stores.files import create_private_file
from salmon_state.stores.locks import FileLocks

__all__ = ["FileStorage"]

Entries = dict[Place, Entry]
"""What is in a file, by kind, sender and name."""

_PAGE = 100
"""How many files a page looks at; or how many entries it has, where it must look at all files."""


class FileStorage(StateStorage):
    """Keeps what each sender has in a file, for the processes of one machine.

    What a method wrote when it returns survives SIGKILL and power loss; a write cut short has not
    happened, also when it was of several senders. What one sender has is found in one file; but
    all files are read to find what is due. Writing needs memory for the files that it changes, and
    listing for the names of all files, a tenth of a kilobyte each.

    Args:
        path: The directory, which must exist; relative to the working directory of this moment.
        protect: As for `StateStorage`.
        timeout: How many seconds to wait for other threads and processes that are writing before
            `StorageUnavailable` is raised.

    Raises:
        ConfigurationError: There is no such directory, or it is not writable; or a bad timeout.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, protect: bool = False, timeout: float = 5.0
    ) -> None:
        super().__init__(protect=protect)
        self._path = Path(os.path.abspath(path))
        if not self._path.is_dir() or not os.access(self._path, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigurationError(f"{str(self._path)!r} is no directory to write to")
        if type(timeout) not in (int, float) or not timeout > 0:
            raise ConfigurationError(f"timeout must be seconds above 0, got {timeout!r}")
        self._timeout = timeout
        self._journal = self._path / "journal"
        self._mark = self._path / "locks"
        create_private_file(self._mark)
        self._locks = FileLocks(self._mark)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> FileStorage:
        """Makes the store for ``files:///run/states`` or ``files:////var/lib/app/states``."""
        return cls(path_of(url), **options)

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        self._finish_what_died()
        entries = self._read(_name(sender)).values()
        return [e for e in entries if (e.kind, e.name) in wants or (e.kind, EVERY) in wants]

    def _page(self, kind: Kind, where: Where, after: Any) -> Page:
        self._finish_what_died()
        if kind.due and where.before is not None:
            found = self._matching(self._names(), kind, where)
            later = (entry for entry in found if after is None or _due(entry) > after)
            first = heapq.nsmallest(_PAGE, later, key=_due)
            return Page(first, _due(first[-1]) if len(first) == _PAGE else None)
        names = after or (self._names() if where.sender is EVERY else [_name(where.sender)])
        return Page([*self._matching(names[:_PAGE], kind, where)], names[_PAGE:] or None)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        files: dict[str, Entries] = {}
        counts, changed = [], set()
        with self._writing():
            for write in writes:
                name = _name(write.sender)
                entries = files[name] = files[name] if name in files else self._read(name)
                counts.append(change(entries, write))
                if counts[-1]:
                    changed.add(name)
            self._replace({name: files[name] for name in changed})
        return counts

    def _wipe(self) -> None:
        with self._writing():
            self._replace({name: {} for name in self._names()})

    def _lock(self, sender: Sender, timeout: float) -> Lock:
        return Lock(self._locks.acquire(sender, timeout))

    def _close(self) -> None:
        self._locks.close()

    def _place(self) -> str:
        return str(self._path)

    def _names(self) -> list[str]:
        """Returns the names of all senders' files, as they are at one moment."""
        self._check_directory()
        return [name for name in os.listdir(self._path) if re.fullmatch("[0-9a-f]{64}", name)]

    def _matching(self, names: Iterable[str], kind: Kind, where: Where) -> Iterator[Entry]:
        for name in names:
            for entry in self._read(name).values():
                if entry.kind is kind and where.matches(entry):
                    yield entry

    def _read(self, name: str) -> Entries:
        """Returns what is in a sender's file, all from one moment; nothing if there is none."""
        path = self._path / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            self._check_directory()
            return {}
        lines = content.splitlines(keepends=True)
        if not lines or lines.pop() != _digest(name, lines):
            raise StorageError(f"damaged file {str(path)!r}: it is not as it was written")
        return {entry[:3]: entry for entry in map(_decoded, lines)}

    def _check_directory(self) -> None:
        """Raises if the directory was removed or unmounted: its states are not gone, but away."""
        if not self._mark.exists():
            raise StorageUnavailable(f"{self._mark} is missing: the directory was removed or moved")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keeps out all others who write, in all processes."""
        try:
            # None is the null sender, whom no conversation ever locks.
            release = self._locks.acquire(None, self._timeout)
        except ConversationBusy:
            raise StorageUnavailable(
                f"{self._path}: others were writing for {self._timeout:g} s"
            ) from None
        try:
            self._apply_journal()
            yield
        finally:
            release()

    def _replace(self, files: Mapping[str, Entries]) -> None:
        """Makes these the files of some senders: all or none, and safe from power loss."""
        for name, entries in files.items():
            if entries:
                lines = [_encoded(entry) for entry in entries.values()]
                self._write_file(f"{name}.new", [*lines, _digest(name, lines)])
        if len(files) == 1:
            self._put_in_place(files)
        elif files:
            filled = {name: bool(entries) for name, entries in files.items()}
            self._write_file("journal.new", [json.dumps(filled).encode()])
            _sync(self._path)
            os.rename(self._path / "journal.new", self._journal)
            _sync(self._path)  # from here on the change has happened
            with suppress(OSError):  # who comes next will try again, and report it
                self._apply_journal()

    def _put_in_place(self, files: Mapping[str, object]) -> None:
        for name, filled in files.items():
            path = self._path / name
            with suppress(FileNotFoundError):  # it was done before the process died
                if filled:
                    os.rename(f"{path}.new", path)
                else:
                    path.unlink()
        _sync(self._path)

    def _apply_journal(self) -> None:
        """Ends a change of several senders; for whoever may write."""
        with suppress(FileNotFoundError):
            self._put_in_place(json.loads(self._journal.read_bytes()))
            self._journal.unlink()
            _sync(self._path)

    def _finish_what_died(self) -> None:
        if self._journal.exists():
            with self._writing():  # waits for whoever is at it, and ends it if nobody is
                pass

    def _write_file(self, name: str, lines: Iterable[bytes]) -> None:
        path = self._path / name
        create_private_file(path)
        with open(path, "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())


def _name(sender: Sender) -> str:
    # A digest, because a sender may be "../a", longer than a name can be, or differ from another
    # one in what the file system does not tell apart.
    return hashlib.sha256(ascii(sender).encode("ascii")).hexdigest()


def _encoded(entry: Entry) -> bytes:
    kind, sender, name, value, at = entry
    text = encode_state(value) if isinstance(value, str) else base64.b64encode(value).decode()
    return json.dumps([kind, ascii_key(name, sender), text, at]).encode("ascii") + b"\n"


def _decoded(line: bytes) -> Entry:
    number, key, text, at = json.loads(line)
    name, sender = parse_key(key)
    kind = Kind(number)
    value = decode_state(text) if kind is Kind.STATE else base64.b64decode(text)
    return Entry(kind, sender, name, value, at)


def _digest(name: str, lines: Iterable[bytes]) -> bytes:
    """Returns what tells that a file is as it was written, and is where it was written."""
    digest = hashlib.sha256(name.encode("ascii"))
    for line in lines:
        digest.update(line)
    return digest.hexdigest().encode("ascii")


def _due(entry: Entry) -> tuple[int, str]:
    return entry.at or 0, ascii_key(entry.name, entry.sender)


def _sync(directory: Path) -> None:
    """Makes sure that the names in a directory survive power loss."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
