"""From the results to the tables of ``docs/performance.md``, which is read in three minutes."""

# ruff: noqa: RUF001 - multiplication signs and dashes are meant

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.tables import table, µs
from benchmarks.targets import Results

Row = dict[str, Any]

ATTACHED, NAIVE = "salmon-state, attach", "SQLAlchemy ORM, naive"


def summary(found: Results) -> dict[str, list[str]]:
    """Returns the lines of each table, by its name; those whose results are there."""
    sections: dict[str, Callable[[Row], Iterator[str]]] = {
        "mail": _mail,
        "operations": _operations,
        "outbox": _outbox,
        "post": _post,
        "server": _server,
        "growth": _growth,
        "filters": _filters,
    }
    tables = {name: list(make(found[name])) for name, make in sections.items() if name in found}
    if found:
        tables["machine"] = list(_machine(next(iter(found.values()))["machine"]))
    return tables


def _machine(about: Row) -> Iterator[str]:
    yield (
        f"Measured with salmon-state {about['versions']['salmon-state']} on {about['processor']}, "
        f"{about['cores']} cores, Python {about['python']}, everything on one machine over "
        "loopback; SQL with fsync at each commit, Redis with AOF every second."
    )
    yield ""


def _mail(found: Row) -> Iterator[str]:
    rows = {(row["group"], row["who"], row["situation"]): row for row in found["rows"]}
    groups = dict.fromkeys(group for group, who, _ in rows if who == ATTACHED)

    def cells(group: str) -> Iterator[str]:
        yield group
        for situation in ("1st state", "8th state"):
            yield µs(rows[group, ATTACHED, situation]["p50"])
        trips = rows[group, ATTACHED, "8th state"]["round_trips"]
        yield "–" if trips is None else f"{trips:.0f}"
        naive = rows.get((group, NAIVE, "8th state"))
        yield "–" if naive is None else µs(naive["p50"])

    head = (
        "store",
        "sender in the 1st state",
        "in the 8th",
        "round trips",
        "naive ORM, in the 8th",
    )
    yield from table(head, [list(cells(group)) for group in groups])


def _operations(found: Row) -> Iterator[str]:
    wanted = ("get hit", "set changed")
    compared = [each for each in found["comparisons"] if each["operation"] in wanted]

    def cells(each: Row) -> Iterator[str]:
        yield each["group"]
        yield each["operation"].split()[0]
        yield µs(each["p50"])
        yield f"{each['to_floor']['median']:.2f} × {each['floor']}"
        durable = each["to_peer"] and each["like_durability"]
        yield (
            f"{each['to_peer']['median']:.2f} × {each['best_peer']}" if durable else "no such peer"
        )

    head = ("store", "", "ours", "beside the driver's bare call", "beside the best peer as durable")
    yield from table(head, [list(cells(each)) for each in compared])


def _outbox(found: Row) -> Iterator[str]:
    def cells(row: Row) -> Iterator[str]:
        yield from (row["group"], row["senders"])
        yield f"{row['answered_ms']:,.0f}"
        yield f"{row['per_second']:,.0f}"
        yield f"{row['ratio']['median']:.1f} ×"
        yield from (f"{row['p99_ms'][when]:.1f}" for when in ("idle", "busy"))

    head = (
        *("store", "envelope senders", "recorded in, ms", "copies a second", "beside the relay"),
        *("others' p99 before, ms", "meanwhile"),
    )
    yield from table(head, [list(cells(row)) for row in found["rows"]])


def _post(found: Row) -> Iterator[str]:
    def cells(row: Row) -> Iterator[str]:
        yield row["group"]
        yield f"{row['answered_ms']:,.0f}"
        yield f"{row['per_second']:,.0f}"
        yield from (
            f"{row[p][when]:.1f}" for p in ("p50_ms", "p99_ms") for when in ("idle", "busy")
        )

    head = (
        *("store", "answered in, ms", "copies a second"),
        *("others' p50 before, ms", "meanwhile", "p99 before, ms", "meanwhile"),
    )
    yield from table(head, [list(cells(row)) for row in found["rows"]])


def _server(found: Row) -> Iterator[str]:
    rows = {
        (row["group"], row["who"]): 1e6 / row["p50"]
        for row in found["rows"]
        if (row["clients"], row["connection"]) == (16, "kept")
    }
    several = {(row["group"], row["processes"]): 1e6 / row["p50"] for row in found["processes"]}
    groups = dict.fromkeys(group for group, who in rows if who == ATTACHED)

    def cells(group: str) -> Iterator[str]:
        yield group
        yield f"{rows[group, ATTACHED]:,.0f}"
        for speed in (
            rows.get((group, "one read, one write")),
            rows.get((group, NAIVE)),
            several.get((group, 2)),
        ):
            yield "–" if speed is None else f"{speed:,.0f}"

    head = ("store", "one server", "the driver alone", "naive ORM", "two servers")
    yield from table(head, [list(cells(group)) for group in groups])


def _growth(found: Row) -> Iterator[str]:
    largest = found["plan"]["sizes"][-1]
    slopes = {(row["group"], row["who"], row["operation"]): row for row in found["slopes"]}
    sizes = {row["group"]: row for row in found["sizes"] if row["size"] == largest}
    floors = {row["group"]: row for row in found["slopes"] if row["role"] == "floor"}

    def cells(group: str) -> Iterator[str]:
        yield group
        for operation in ("get", "set"):
            yield f"{slopes[group, 'salmon-state', operation]['median']:.2f} ×"
        floor = floors.get(group)
        yield "–" if floor is None else f"{floor['median']:.2f} × ({floor['who']})"
        taken = sizes[group]["bytes"]
        yield "–" if taken is None else f"{taken / largest:,.0f}"

    head = ("store", "get", "set", "the bare get", "bytes a conversation")
    yield from table(head, [list(cells(group)) for group in sizes])


def _filters(found: Row) -> Iterator[str]:
    rows = {(row["asked"], row["group"], row["who"]): row["ms"] for row in found["rows"]}
    groups = dict.fromkeys(group for _, group, _ in rows)

    def cell(asked: str, group: str) -> str:
        without, indexed = (rows.get((asked, group, who)) for who in ("without", "indexes"))
        if without is None:
            return "–" if indexed is None else µs(indexed)
        return µs(without) if indexed is None else f"{µs(without)} → {µs(indexed)}"

    asked = dict.fromkeys(each for each, _, _ in rows)
    yield from table(
        ("ms", *groups), [[each, *(cell(each, group) for group in groups)] for each in asked]
    )
