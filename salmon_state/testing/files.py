"""FileSuite: a store that keeps files of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from salmon_state.errors import StorageError, StorageUnavailable
from salmon_state.storage import StateStorage
from salmon_state.testing import tasks
from salmon_state.testing.keys import MODULE, SENDER
from salmon_state.testing.mails import can_enter
from salmon_state.testing.suite import StoreSuite

__all__ = ["FileSuite"]


class FileSuite(StoreSuite):
    """A store that keeps files of its own: where they are, and who may read them.

    Whether they survive the power being cut, no test of this kind can tell.
    """

    @pytest.fixture
    def open_at(self) -> Callable[[str], StateStorage]:
        """Returns what opens the store at a path, of a file or a directory as it likes.

        The path may be relative, and nothing need be there.
        """
        raise NotImplementedError(f"{type(self).__name__} must override the fixture open_at")

    @pytest.fixture
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Makes a fresh directory the working directory, of a name that means more in a URL.

        It is overridden for a store whose paths cannot have such characters.
        """
        here = tmp_path / "here #1? 50%41"
        here.mkdir()
        monkeypatch.chdir(here)
        return here

    @pytest.fixture
    def salmons_umask(self) -> Iterator[None]:
        """Sets the umask of a Salmon daemon, which is 0: it protects nothing."""
        usual = os.umask(0)
        yield
        os.umask(usual)

    @pytest.mark.usefixtures("salmons_umask")
    def test_nobody_else_reads_its_files(
        self, open_at: Callable[[str], StateStorage], here: Path
    ) -> None:
        """What senders there are is not for every user of the machine, whatever file it is in."""
        with open_at("states") as store:
            with store.conversation(SENDER):
                store.set(MODULE, SENDER, "ONE")
                store.set(MODULE, "ben@example.com", "ONE")
            _check_modes(here)
            tasks.churn(store, "ONE")
            _check_modes(here)
        _check_modes(here)

    def test_a_link_leads_to_the_same_place(
        self, open_at: Callable[[str], StateStorage], here: Path
    ) -> None:
        """By whichever name it was opened, a store has the same states and the same locks."""
        with open_at("states") as one:
            one.set(MODULE, SENDER, "ONE")
        if not (here / "states").exists():
            pytest.skip("left out: it makes no file of the name that it is given")
        (here / "link").symlink_to("states")
        with open_at("states") as one, open_at("link") as two:
            for each, other, word in ((one, two, "TWO"), (two, one, "THREE")):
                assert other.get(MODULE, SENDER) == "ONE"
                with each.conversation(SENDER):
                    kept_out = can_enter(other, [SENDER]) == [False]
                assert kept_out or not each.locks_processes, "a link has locks of its own"
                last = tasks.churn(each, word)
                assert other.get(*tasks.CHURNED[0]) == last

    def test_files_that_somebody_replaced(
        self, open_at: Callable[[str], StateStorage], here: Path
    ) -> None:
        """What is in them is no store: a plain `StorageError`, as somebody has to mend it."""
        with open_at("states") as store:
            store.set(MODULE, SENDER, "ONE")
        for path in [path for path in here.rglob("*") if path.is_file() and path.stat().st_size]:
            path.write_bytes(b"rubbish\n" * 1000)
        with pytest.raises(StorageError) as caught, open_at("states") as store:
            store.get(MODULE, SENDER)
        assert not isinstance(caught.value, StorageUnavailable), "nobody mends it by trying again"

    def test_a_backup_moved_into_place(
        self, open_at: Callable[[str], StateStorage], here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever has the place open writes to what is there now, or says that it cannot."""
        with open_at("states") as store:
            store.set(MODULE, SENDER, "ONE")
        if not (here / "states").exists():
            pytest.skip("left out: it makes no file of the name that it is given")
        backup = here.rename(here.with_name("backup"))
        shutil.copytree(backup, here)
        monkeypatch.chdir(here)
        with open_at("states") as store:
            store.set(MODULE, SENDER, "TWO")
            shutil.rmtree(here)
            backup.rename(here)
            acknowledged = True
            try:
                store.set(MODULE, "ben@example.com", "ONE")
            except StorageUnavailable:
                acknowledged = False
        monkeypatch.chdir(here)
        with open_at("states") as store:
            assert store.get(MODULE, SENDER) == "ONE"
            written = store.get(MODULE, "ben@example.com")
        assert written == ("ONE" if acknowledged else "START"), "it was lost with the old file"

    def test_two_places_are_two_stores(
        self, open_at: Callable[[str], StateStorage], here: Path
    ) -> None:
        """Neither a state nor a lock of one is the other's, though they are in one directory."""
        with open_at("one") as one, open_at("two") as two:
            with one.conversation(SENDER), two.conversation(SENDER, timeout=0):
                one.set(MODULE, SENDER, "ONE")
            assert (one.get(MODULE, SENDER), two.get(MODULE, SENDER)) == ("ONE", "START")

    def test_the_working_directory_may_change(
        self, open_at: Callable[[str], StateStorage], here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A relative path is that of the moment at which the store was made."""
        elsewhere = here.with_name("elsewhere")
        elsewhere.mkdir()
        before = set(here.parent.iterdir())
        with open_at("states") as store:
            monkeypatch.chdir(elsewhere)
            with store.conversation(SENDER):
                store.set(MODULE, SENDER, "ONE")
            assert list(elsewhere.iterdir()) == [], "it followed the working directory"
        monkeypatch.chdir(here)
        assert set(here.parent.iterdir()) == before, "it wrote beside its directory"
        with open_at("states") as store:
            assert store.get(MODULE, SENDER) == "ONE"


def _all_may_enter(directory: Path, top: Path) -> bool:
    while directory != top:
        if not directory.stat().st_mode & 0o001:
            return False
        directory = directory.parent
    return True


def _check_modes(here: Path) -> None:
    for path in here.rglob("*"):
        mode = path.stat().st_mode & 0o777
        if path.is_file() and _all_may_enter(path.parent, here):
            assert not mode & 0o007, f"{path.name} is open to every user: {mode:o}"
