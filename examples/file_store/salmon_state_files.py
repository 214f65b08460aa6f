"""FileStorage: the states of each sender in a file of their own.

The directory of a store holds

* ``<sha-256 of the sender>``: a JSON object of ``ascii([module, sender])`` → ``[state, time]``;
* ``<sha-256 of the sender>.new``: what is about to take its place;
* ``journal``: the files to replace, while a change of several senders is under way;
* ``locks``: an empty file, whose bytes are locked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from salmon_state.errors import (
    ConfigurationError,
    ConversationBusy,
    StorageError,
    StorageUnavailable,
)
from salmon_state.registry import path_of
from salmon_state.storage import (
    Change,
    Record,
    Sender,
    StateStorage,
    ascii_key,
    from_microseconds,
    parse_key,
)
from salmon_state.stores.encoding import decode_state, encode_state
from salmon_state.stores.files import create_private_file
from salmon_state.stores.locks import FileLocks

__all__ = ["FileStorage"]

Entries = dict[str, tuple[str, int | None]]
"""What is in a file: the state and the time by ``ascii([module, sender])``."""


class FileStorage(StateStorage):
    """Keeps the states of each sender in a file, for the processes of one machine.

    A state that a method wrote when it returns survives SIGKILL and power loss; a write cut short
    has not happened, also when it was of several senders. `get`, `set` and the conversation of a
    sender read one small file. Listing needs memory for the names of the files, a tenth of a
    kilobyte each, and `rename` and `purge` for what they change.

    Args:
        path: The directory, which must exist; relative to the working directory of this moment.
        protect: As for `StateStorage`.
        timeout: How many seconds to wait for other threads and processes that are writing before
            `StorageUnavailable` is raised.

    Raises:
        ConfigurationError: There is no such directory, or it is not writable; or a bad timeout.
    """

    _locks_processes = True

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
        self._here = threading.local()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> FileStorage:
        """Makes the store for ``files:///run/states`` or ``files:////var/lib/app/states``."""
        return cls(path_of(url), **options)

    # ---------------------------------------------------------------- what every store must have

    def _read(self, module: str, sender: Sender) -> str | None:
        self._finish_what_died()
        entry = self._load(_name(sender)).get(ascii_key(module, sender))
        return None if entry is None else entry[0]

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        self._finish_what_died()
        entries = self._load(_name(sender))
        return {parse_key(key)[0]: state for key, (state, _) in entries.items()}

    def _scan(self, module: str | None, sender: str | None, state: str | None) -> Iterator[Record]:
        self._finish_what_died()
        for name in self._names() if sender is None else [_name(sender)]:
            for key, (its_state, updated_at) in self._load(name).items():
                its_module, its_sender = parse_key(key)
                if module in (None, its_module) and state in (None, its_state):
                    yield Record(its_module, its_sender, its_state, from_microseconds(updated_at))

    def _write(self, changes: Iterable[Change]) -> None:
        with self._exclusive():
            files: dict[str, Entries] = {}
            for module, sender, state, updated_at in changes:
                name = _name(sender)
                entries = files[name] = files[name] if name in files else self._load(name)
                if state is None:
                    entries.pop(ascii_key(module, sender), None)
                else:
                    entries[ascii_key(module, sender)] = state, updated_at
            self._replace(files)

    def _wipe(self) -> None:
        with self._exclusive():
            for name in self._names():
                (self._path / name).unlink()
            _sync(self._path)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if getattr(self._here, "writing", False):  # the hooks inside call each other
            yield
            return
        try:
            # None is the null sender, whom no conversation ever locks.
            release = self._locks.acquire(None, self._timeout)
        except ConversationBusy:
            raise StorageUnavailable(
                f"{self._path}: others were writing for {self._timeout:g} s"
            ) from None
        try:
            self._here.writing = True
            self._apply_journal()
            yield
        finally:
            self._here.writing = False
            release()

    # ---------------------------------------------------------------- what this store has besides

    def _lock(self, sender: Sender, timeout: float) -> Callable[[], None]:
        return self._locks.acquire(sender, timeout)

    def _ping(self) -> None:
        self._check_directory()

    def _close(self) -> None:
        self._locks.close()

    def _place(self) -> str:
        return str(self._path)

    # ---------------------------------------------------------------- the files

    def _names(self) -> list[str]:
        """Returns the names of all senders' files, as they are at one moment."""
        self._check_directory()
        return [name for name in os.listdir(self._path) if re.fullmatch("[0-9a-f]{64}", name)]

    def _load(self, name: str) -> Entries:
        """Returns what is in a sender's file, all from one moment; nothing if there is none."""
        path = self._path / name
        try:
            text = path.read_text(encoding="ascii")
        except FileNotFoundError:
            self._check_directory()
            return {}
        except ValueError:
            text = "not ASCII"
        try:
            return {key: _checked(name, key, *entry) for key, entry in json.loads(text).items()}
        except (StorageError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise StorageError(f"damaged file {str(path)!r}: {error}") from None

    def _check_directory(self) -> None:
        """Raises if the directory was removed or unmounted: its states are not gone, but away."""
        if not self._mark.exists():
            raise StorageUnavailable(f"{self._mark} is missing: the directory was removed or moved")

    def _replace(self, files: Mapping[str, Entries]) -> None:
        """Makes these the files of some senders: all or none, and safe from power loss."""
        for name, entries in files.items():
            if entries:
                content = {key: (encode_state(state), at) for key, (state, at) in entries.items()}
                self._write_file(f"{name}.new", content)
        if len(files) == 1:
            self._put_in_place(files)
        elif files:
            self._write_file(
                "journal.new", {name: bool(entries) for name, entries in files.items()}
            )
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
            self._put_in_place(json.loads(self._journal.read_text(encoding="ascii")))
            self._journal.unlink()
            _sync(self._path)

    def _finish_what_died(self) -> None:
        if self._journal.exists():
            with self._exclusive():  # waits for whoever is at it, and ends it if nobody is
                pass

    def _write_file(self, name: str, content: object) -> None:
        path = self._path / name
        create_private_file(path)
        with open(path, "w", encoding="ascii") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())


def _name(sender: Sender) -> str:
    # A digest, because a sender may be "../a", longer than a name can be, or differ from another
    # one in what the file system does not tell apart.
    return hashlib.sha256(ascii(sender).encode("ascii")).hexdigest()


def _checked(name: str, key: str, text: str, updated_at: int | None) -> tuple[str, int | None]:
    """Returns the state and the time of an entry, if `_write` can have written it."""
    _, sender = parse_key(key)
    if _name(sender) != name:
        raise StorageError(f"{key[:200]!r} belongs into another file")
    if updated_at is not None and type(updated_at) is not int:
        raise StorageError(f"{updated_at!r:.200} is no time")
    return decode_state(text), updated_at


def _sync(directory: Path) -> None:
    """Makes sure that the names in a directory survive power loss."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
