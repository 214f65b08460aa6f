"""The benchmarks run: a few calls, the figures in JSON, the tables and the charts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import conversation, outbox, post, receiving
from benchmarks.__main__ import save
from benchmarks.growth import filters
from benchmarks.machine import describe
from benchmarks.operations import OPERATIONS, measure
from benchmarks.places import Places
from benchmarks.report import write_report
from benchmarks.rounds import Plan, Ratio, compare
from benchmarks.summary import summary
from benchmarks.tables import between_marks
from benchmarks.targets import behind, verdicts
from tests.documentation import CHECKOUT

TINY = Plan(
    quick=True,
    rounds=2,
    turns=1,
    calls=2,
    conversations=100,
    sizes=(100,),
    mails=1,
    seconds=0.1,
)


def test_a_tiny_run_writes_figures_tables_and_charts(tmp_path: Path) -> None:
    with Places() as places:
        found = measure(places, TINY, ("memory",))
        about = describe(places.directory)
        left_behind = places.directory
    assert not left_behind.exists()
    about_it = {"plan": TINY._asdict(), "machine": about, "seconds": 1}
    save(tmp_path / "operations.json", {**about_it, **found})
    written = json.loads((tmp_path / "operations.json").read_text())
    assert {row["operation"] for row in written["rows"]} == set(OPERATIONS)
    assert {row["role"] for row in written["rows"]} == {"ours", "floor", "peer"}
    assert all(len(row["rounds"]) == TINY.rounds for row in written["rows"])

    page, short = tmp_path / "performance.md", tmp_path / "short.md"
    page.write_text("# Title\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nby hand\n")
    short.write_text("<!-- operations: begin -->\nold\n<!-- operations: end -->\nby hand\n")
    write_report(tmp_path, short)
    text = page.read_text()
    assert text.startswith("# Title\n")
    assert text.endswith("\nby hand\n")
    assert "memory: get hit" in text
    assert "old" not in text
    assert re.search(r"\| memory \| get \| .* dict \|", short.read_text())
    assert short.read_text().endswith("\nby hand\n")
    assert "old" not in short.read_text()
    assert "<svg" in (tmp_path / "performance-get.svg").read_text()


def test_what_is_asked_of_many_is_measured(tmp_path: Path) -> None:
    with Places() as places:
        found = filters.measure(places, TINY, ("memory", "sqlite"))
        about = describe(places.directory)
    sides = {(row["group"], row["who"]) for row in found["rows"]}
    assert sides == {("memory", "without"), ("sqlite", "without"), ("sqlite", "indexes")}
    save(tmp_path / "filters.json", {"plan": {}, "machine": about, "seconds": 1, **found})
    page = tmp_path / "short.md"
    page.write_text("<!-- filters: begin -->\n<!-- filters: end -->\n")
    write_report(tmp_path, page)
    assert "| making them | " in page.read_text()
    assert "sqlite, of 100" in (tmp_path / "performance.md").read_text()


@pytest.mark.slow
def test_a_conversation_is_measured_beside_a_transaction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Places() as places:
        found = conversation.measure(places, TINY, ("redis",))
        about = describe(places.directory)
    if not found["rows"]:
        pytest.skip(capsys.readouterr().err)
    assert [row["role"] for row in found["rows"]] == ["ours", "floor"]
    assert "times the driver's transaction" in capsys.readouterr().out
    about_it = {"plan": TINY._asdict(), "machine": about, "seconds": 1}
    save(tmp_path / "conversation.json", {**about_it, **found})
    write_report(tmp_path)
    assert "## One conversation" in (tmp_path / "performance.md").read_text()


@pytest.mark.slow
def test_a_post_is_measured_beside_one_by_one(tmp_path: Path) -> None:
    with Places() as places:
        found = outbox.measure(places, TINY._replace(rounds=1), ("sqlite",), count=100)
        about = describe(places.directory)
    assert [row["senders"] for row in found["rows"]] == ["one each", "one for all"]
    assert len(list(verdicts({"outbox": found}))) == 6
    save(tmp_path / "outbox.json", {"plan": {}, "machine": about, "seconds": 1, **found})
    write_report(tmp_path)
    assert "## A post to many" in (tmp_path / "performance.md").read_text()


@pytest.mark.slow
def test_a_post_on_the_example_is_measured(tmp_path: Path) -> None:
    with Places() as places:
        found = post.measure(places, TINY._replace(rounds=1), ("sqlite",), count=50)
        about = describe(places.directory)
    assert len(list(verdicts({"post": found}))) == 2
    save(tmp_path / "post.json", {"plan": {}, "machine": about, "seconds": 1, **found})
    write_report(tmp_path)
    assert "## A post on the example" in (tmp_path / "performance.md").read_text()


def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    results = CHECKOUT / "benchmarks" / "results"
    found = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    page = (CHECKOUT / "docs" / "performance.md").read_text()
    tables = summary({name: found[name] for name in sorted(found)})
    assert {"machine", "mail", "operations", "server", "growth"} <= set(tables)
    for name, lines in tables.items():
        assert between_marks(page, name, lines) == page, f"{name}: make bench BENCH_ARGS=--report"
        assert f"<!-- {name}: begin -->" in page


def row(who: str, role: str, durability: str, *rounds: float) -> dict[str, object]:
    return {
        "group": "sqlite",
        "operation": "get hit",
        "who": who,
        "role": role,
        "durability": durability,
        "p50": rounds[0],
        "rounds": list(rounds),
    }


def test_ours_is_compared_with_what_is_as_durable() -> None:
    rows = [
        row("salmon-state", "ours", "fsync", 30.0, 20.0, 10.0),
        row("sqlite3", "floor", "fsync", 10.0, 10.0, 10.0),
        row("careful", "peer", "fsync", 20.0, 10.0, 10.0),
        row("careless", "peer", "no fsync", 1.0, 1.0, 1.0),
    ]
    (compared,) = compare(rows, ("group", "operation"))
    assert compared["to_floor"] == Ratio(2.0, 1.0, 3.0)._asdict()
    assert compared["best_peer"] == "careful"
    assert compared["to_peer"] == Ratio(1.5, 1.0, 2.0)._asdict()

    results = {"operations": {"comparisons": [compared]}}
    assert [each.met for each in verdicts(results)] == [False, False]
    assert len(list(behind(results))) == 1


def test_without_any_peer_as_durable_the_fastest_one_is_shown_as_what_it_is() -> None:
    rows = [
        row("salmon-state", "ours", "fsync", 30.0),
        row("careless", "peer", "no fsync", 1.0),
    ]
    (compared,) = compare(rows, ("group", "operation"))
    assert (compared["best_peer"], compared["like_durability"]) == ("careless", False)
    assert list(behind({"operations": {"comparisons": [compared]}})) == []


@pytest.mark.stress  # it starts a dozen servers
def test_our_receiver_is_measured_beside_salmons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "AT_ONCE", 20)
    with Places() as places:
        found = receiving.measure(places, TINY._replace(rounds=1, mails=20), ("sqlite",))
        about = describe(places.directory)
    assert [row["kind"] for row in found["rows"]] == ["salmon", "1", "2", "salmon", "1"]
    assert len(list(verdicts({"receiving": found}))) == 5
    save(tmp_path / "receiving.json", {"plan": {}, "machine": about, "seconds": 1, **found})
    write_report(tmp_path, tmp_path / "performance.md")
    assert "## Receivers" in (tmp_path / "performance.md").read_text()
