"""What a run of the kit says of the stores."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from salmon_state.testing import StoreSuite
from salmon_state.testing.abilities import ABILITIES
from salmon_state.testing.report import MARK, StoreReport
from tests.documentation import CHECKOUT
from tests.examples import test_file_store
from tests.stores import test_kit, test_kit_faults
from tests.testing.test_kit import run_kit, run_python

STORES = """
from functools import partial
import pytest
from salmon_state import MemoryStorage, ShelveStorage
from salmon_state.testing import ContractSuite, EntrySuite, SharedEntrySuite

class Lame(MemoryStorage):
    spans_senders = False
    def _ping(self): raise LookupError("no server")

class TestLame(ContractSuite, EntrySuite):
    memory = 100_000_000
    limits = {"memory": "it is in memory"}

    @pytest.fixture
    def open_store(self): return Lame

class TestNowhere(ContractSuite):
    @pytest.fixture
    def open_store(self): return partial(ShelveStorage, "/nowhere/states")

class Shelf:
    store_name = "Shelf"

    @pytest.fixture
    def open_store(self, tmp_path): return partial(ShelveStorage, tmp_path / "states")

class TestShelf(Shelf, ContractSuite):
    left_out = {"test_clear": "nobody clears"}

class TestTogether(Shelf, SharedEntrySuite):
    commits_killed = 2
"""
CHOSEN = "ping or test_clear or rename or senders_in_one or killed_taker or whole_after"


@pytest.mark.parametrize("place", ["nowhere/summary.md", "."])
def test_a_summary_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    """It is said before a run that takes minutes."""
    option = f"--salmon-state-summary={place}"
    ended = run_python("import pytest; pytest.main()", option, directory=tmp_path)
    assert ended.stderr == f"ERROR: {option}: expected a file in a directory that is there\n\n"


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "distributed"])
def test_a_run_says_what_it_found(tmp_path: Path, options: tuple[str, ...]) -> None:
    summary = tmp_path / "summary.json"
    written = f"--salmon-state-summary={summary}"
    lines = run_kit(tmp_path, STORES, "-k", CHOSEN, written, *options).splitlines()
    found = json.loads(summary.read_text())
    assert list(found) == ["Lame", "Nowhere", "Shelf"]
    assert found["Nowhere"]["abilities"]["ping, close, repr"] == "FAILED"
    lame, shelf = found["Lame"], found["Shelf"]
    assert set(lame["abilities"]) == {ability.name for ability in ABILITIES}
    asked = {name: verdict for name, verdict in lame["abilities"].items() if verdict != "not asked"}
    assert asked == {
        "ping, close, repr": "FAILED",
        "set_all, rename, purge, clear": "in part",
        "several senders in one commit": "no",
        "rows of handlers in its transaction": "no",
        "a sender's lock between processes": "no",
    }
    assert not any(lame["declared"].values())
    assert lame["limits"] == {"memory": "memory = 100,000,000: it is in memory"}
    assert shelf["left_out"] == {"test_clear": "nobody clears"}
    assert shelf["counts"]["processes"] == shelf["counts"]["killed"] == 4
    assert shelf["counts"]["tests"] > 5
    assert shelf["counts"]["entries"] > 250
    assert "  left out test_clear: nobody clears" in lines
    assert "  limit memory = 100,000,000: it is in memory" in lines
    assert "  FAILED: ping, close, repr" in lines


def test_all_reasons_are_given() -> None:
    """A test may be left out with each of its parameters, for another reason."""
    report = StoreReport()
    record: dict[str, Any] = {"ability": "other Pythons", "test": "test_it", "of": ["test_it"]}
    record |= {"limits": {}, "declared": {}, "tally": {}}
    for reason in ("no Python 3.10", "python3.12 has no lmdb", "no Python 3.10"):
        report.add({**record, "reason": reason}, "skipped")
    assert list(report.notes()) == ["left out test_it: no Python 3.10; python3.12 has no lmdb"]


def test_a_page_is_written_below_what_is_there(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Ours\n\n{MARK}\nold\n")
    run_kit(tmp_path, STORES, "-k", "TestShelf and ping", f"--salmon-state-summary={page}")
    text = page.read_text()
    assert text.startswith(f"# Ours\n\n{MARK}\n\n| | Shelf |\n|---|---|\n| get, set")
    assert "| ping, close, repr | in part |" in text
    assert "old" not in text


def test_whoever_writes_no_store_sees_nothing(tmp_path: Path) -> None:
    assert "the kit" not in run_kit(tmp_path, "def test_it(): pass", "-p", "no:xdist")


# ---------------------------------------------------------------- docs/stores.md


def test_the_page_is_of_these_stores() -> None:
    """What is written by hand here; ``make stores`` writes the rest."""
    text = (CHECKOUT / "docs" / "stores.md").read_text().partition(MARK)[2]
    rows = [re.split(r" ?\| ?", line)[1:-1] for line in text.splitlines() if line[:1] == "|"]
    (_, *stores), _, *rest = rows
    classes = [
        each
        for module in (test_kit, test_kit_faults, test_file_store)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, StoreSuite) and each.__name__[:4] == "Test"
    ]
    named = {each.store_name or each.__name__[4:]: each for each in classes}
    options = {name for name in named if name.endswith((" with a ttl", " with an index"))}
    assert set(stores) == set(named) - options, "make stores"
    assert [title for title, *_ in rest][: len(ABILITIES)] == [each.name for each in ABILITIES]
    assert not {"FAILED", "in part"} & {cell for row in rest for cell in row}
    for each in classes:
        for reason in (*each.limits.values(), *each.left_out.values()):
            assert reason in text, "make stores"
