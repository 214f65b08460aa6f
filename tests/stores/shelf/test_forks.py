"""A process that forks with its shelf open."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from salmon_state import ShelveStorage
from tests.forking import fork
from tests.stores.shelf import old_shelves
from tests.stores.shelf.old_shelves import call
from tests.stores.shelf.shelves import MODULE, SENDER


def test_bare_sqlite_loses_what_a_child_commits(path: Path) -> None:
    """Why a shelf is closed before a fork; should SQLite mend it, that need not be."""
    found = call(sys.executable, old_shelves.fork_and_write, str(path), True)
    assert found == ["parent", "child"]


def test_a_child_loses_nothing(path: Path) -> None:
    found = call(sys.executable, old_shelves.fork_and_write, str(path), False)
    assert found == ["child", "child, when the parent had closed", "parent"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_parent_goes_on(path: Path, store: ShelveStorage) -> None:
    with ShelveStorage(path) as other:
        store.set(MODULE, SENDER, "POSTING")
        child = fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert other.get(MODULE, SENDER) == "POSTING"
        other.set(MODULE, SENDER, "ASKING")
        assert store.get(MODULE, SENDER) == "ASKING"


def test_forking_among_threads(path: Path) -> None:
    assert call(sys.executable, old_shelves.fork_among_writers, str(path)) == 20
