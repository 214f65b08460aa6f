"""What a run of the kit says of each store: as text, as Markdown and as JSON.

It is printed at the end of a run that has tests of the kit. The option ``--salmon-state-summary``
writes it to a file: as JSON if its name ends in ``.json``, else as Markdown, which replaces what
stands below the line `MARK` there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from salmon_state.testing.abilities import ABILITIES, Ability
from salmon_state.testing.asking import ability_in, asked, name_of_store
from salmon_state.testing.tally import TALLY

__all__ = ["MARK", "StoreReport"]

MARK = "<!-- what is below was written by the kit -->"

_COUNTED = {
    "tests": "tests passed",
    "processes": "processes that opened it",
    "killed": "of them killed",
    "entries": "entries compared",
}


@dataclass
class StoreReport:
    """What was found of one store."""

    passed: dict[str, set[str]] = field(default_factory=dict)
    """By ability, the tests that passed with some parameters."""
    failed: dict[str, set[str]] = field(default_factory=dict)
    """By ability, those that failed with some, or whose store could not be opened."""
    expected: dict[str, set[str]] = field(default_factory=dict)
    """By ability, the tests that the store's classes have."""
    skipped: dict[str, list[str]] = field(default_factory=dict)
    """Why, by the name of a test, whether or not it passed with other parameters."""
    limits: dict[str, str] = field(default_factory=dict)
    declared: dict[str, bool] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, record: dict[str, Any], outcome: str) -> None:
        """Adds what one test found."""
        ability, test = record["ability"], record["test"]
        self.expected.setdefault(ability, set()).update(record["of"])
        self.limits.update(record["limits"])
        self.declared.update(record["declared"])
        self.counts.update(record["tally"])
        if outcome == "skipped":
            reasons = self.skipped.setdefault(test, [])
            if record["reason"] not in reasons:
                reasons.append(record["reason"])
            return
        (self.passed if outcome == "passed" else self.failed).setdefault(ability, set()).add(test)
        self.counts["tests"] += outcome == "passed"

    def verdict(self, ability: Ability) -> str:
        """Returns whether the store has an ability, as far as this run can tell."""
        passed = self.passed.get(ability.name, set())
        if self.failed.get(ability.name):
            return "FAILED"
        if not self.declared.get(ability.declared, True):
            return "no"
        if not passed:
            return "not asked"
        return "in part" if self.expected[ability.name] - passed - set(self.skipped) else "yes"

    def left_out(self) -> dict[str, str]:
        """Returns why, by the name of a test that was asked with no parameter."""
        passed = set().union(*self.passed.values())
        return {test: "; ".join(why) for test, why in self.skipped.items() if test not in passed}

    def notes(self) -> Iterator[str]:
        """Yields what the store says of itself, its limits, and what was left out, and why."""
        yield from (f"it says {name} = False" for name, has in self.declared.items() if not has)
        yield from (f"limit {limit}" for limit in self.limits.values())
        for reason in dict.fromkeys(self.left_out().values()):
            tests = [test for test, why in self.left_out().items() if why == reason]
            yield f"left out {', '.join(sorted(tests))}: {reason}"

    def as_text(self, name: str) -> Iterator[str]:
        """Yields the lines for whoever ran the tests."""
        counts = ", ".join(f"{self.counts[each]:,} {title}" for each, title in _COUNTED.items())
        yield f"{name}: {counts}"
        found: dict[str, list[str]] = {}
        for ability in ABILITIES:
            found.setdefault(self.verdict(ability), []).append(ability.name)
        if len(found.get("not asked", ())) > len(ABILITIES) / 2:  # a few tests were chosen
            found["not asked"] = [f"{len(found['not asked'])} others"]
        yield from (f"  {verdict}: {'; '.join(names)}" for verdict, names in found.items())
        yield from (f"  {note}" for note in self.notes())

    def as_json(self) -> dict[str, Any]:
        """Returns it for whoever reads it by a program."""
        return {
            "abilities": {ability.name: self.verdict(ability) for ability in ABILITIES},
            "declared": self.declared,
            "limits": self.limits,
            "left_out": self.left_out(),
            "counts": {name: self.counts[name] for name in _COUNTED},
        }


def as_markdown(stores: dict[str, StoreReport]) -> Iterator[str]:
    """Yields the lines of a table of all stores, and of what is to be said of each."""
    yield f"| | {' | '.join(stores)} |"
    yield "|---" * (len(stores) + 1) + "|"
    for ability in ABILITIES:
        yield _row(ability.name, (store.verdict(ability) for store in stores.values()))
    for name, title in _COUNTED.items():
        yield _row(title, (f"{store.counts[name]:,}" for store in stores.values()))
    yield ""
    for name, store in stores.items():
        yield from (f"- {name}: {note}." for note in store.notes())


def _row(title: str, cells: Iterator[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


# ---------------------------------------------------------------- what pytest calls

_STORES = pytest.StashKey[dict[str, StoreReport]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option."""
    parser.addoption(
        "--salmon-state-summary",
        metavar="FILE",
        type=Path,
        help="write what the kit found of each store; as JSON if the name ends in .json",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begins with no store.

    Raises:
        pytest.UsageError: The summary could not be written in the end.
    """
    path = config.getoption("salmon_state_summary")
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise pytest.UsageError(
            f"--salmon-state-summary={path}: expected a file in a directory that is there"
        )
    config.stash[_STORES] = {}
    config.pluginmanager.register(_Collecting(config.stash[_STORES]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Has the report of a test of the kit say what it is about."""
    report = yield
    ability = asked(item)
    decided = call.when == "call" or (call.when == "setup" and not report.passed)
    if ability is not None and decided:
        # An attribute of the report itself, because that is what pytest-xdist takes along.
        report.salmon_state = _record(item, ability, report)  # type: ignore[attr-defined]
    return report


def _record(item: Any, ability: Ability, report: pytest.TestReport) -> dict[str, Any]:
    store, cls = item.funcargs.get("store"), item.cls
    names = [other.declared for other in ABILITIES if other.declared and store is not None]
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    record = {
        "store": name_of_store(cls),
        "ability": ability.name,
        "test": item.function.__name__,
        "of": _tests_of(cls, ability),
        "limits": {n: f"{n} = {getattr(cls, n, 0):,}: {why}" for n, why in cls.limits.items()},
        "declared": {name: bool(getattr(store, name)) for name in names},
        "reason": reason.removeprefix("Skipped: ").removeprefix("left out: "),
        "tally": dict(TALLY),
    }
    TALLY.clear()
    return record


@cache
def _tests_of(cls: type, ability: Ability) -> list[str]:
    tests = (name for name in dir(cls) if name.startswith("test_"))
    return [name for name in tests if ability_in(cls, name) == ability]


class _Collecting:
    def __init__(self, stores: dict[str, StoreReport]) -> None:
        self._stores = stores

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        record = getattr(report, "salmon_state", None)
        if record is not None:
            self._stores.setdefault(record["store"], StoreReport()).add(record, report.outcome)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the summary, and writes it if that was asked for."""
    config = terminalreporter.config
    stores = dict(sorted(config.stash[_STORES].items()))
    path = config.getoption("salmon_state_summary")
    if not stores:
        return
    terminalreporter.section("what the kit found")
    for name, store in stores.items():
        for line in store.as_text(name):
            terminalreporter.line(line)
    if path is not None:
        path.write_text(_document(path, stores), encoding="utf-8")


def _document(path: Path, stores: dict[str, StoreReport]) -> str:
    if path.suffix == ".json":
        return json.dumps({name: store.as_json() for name, store in stores.items()}, indent=2)
    before = path.read_text(encoding="utf-8").partition(MARK)[0] if path.exists() else ""
    return "\n".join((f"{before}{MARK}", "", *as_markdown(stores), ""))
