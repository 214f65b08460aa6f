"""What was aimed at, and whether a run met it."""

# ruff: noqa: RUF001 - multiplication signs and dashes are meant

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.mail import DRIVERS
from benchmarks.rounds import Ratio

Results = dict[str, dict[str, Any]]


class Verdict(NamedTuple):
    """One target beside what was measured."""

    target: str
    limit: str
    measured: str
    met: bool


def verdicts(results: Results) -> Iterator[Verdict]:
    """Yields a verdict for each target of which there are figures."""
    if "operations" in results:
        yield from _operations(results["operations"]["comparisons"])
    if "conversation" in results:
        yield from _conversation(results["conversation"]["comparisons"])
    if "mail" in results:
        yield from _mail(results["mail"]["rows"])
    if "outbox" in results:
        yield from _outbox(results["outbox"]["rows"])
    if "post" in results:
        yield from _post(results["post"]["rows"])
    if "server" in results:
        yield from _server(results["server"]["rows"])
    if "receiving" in results:
        yield from _receiving(results["receiving"])
    if "growth" in results:
        yield from _growth(results["growth"]["slopes"])
    if "filters" in results:
        yield from _filters(results["filters"])


def _at_most(target: str, limit: float, ratio: dict[str, float]) -> Verdict:
    measured = f"{ratio['median']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return Verdict(target, f"≤ {limit:g}×", measured, ratio["median"] <= limit)


def _operations(comparisons: list[dict[str, Any]]) -> Iterator[Verdict]:
    by_key = {(each["group"], each["operation"]): each for each in comparisons}
    limits = {
        "memory": ("to_peer", {"get hit": 1.5}),
        "sqlite": ("to_floor", {"get hit": 1.5, "set new": 1.3, "set changed": 1.3}),
        **dict.fromkeys(
            ("postgresql", "mariadb"),
            ("to_floor", {"get hit": 1.15, "set new": 1.15, "set changed": 1.15}),
        ),
        "redis": ("to_floor", {"get hit": 1.1, "set new": 1.1, "set changed": 1.1}),
    }
    for group, (what, operations) in limits.items():
        for operation, limit in operations.items():
            if (found := by_key.get((group, operation))) is not None:
                other = found["best_peer" if what == "to_peer" else "floor"]
                yield _at_most(f"{group}: {operation} ÷ {other}", limit, found[what])
    for operation in ("get hit", "set new", "set changed"):
        if (found := by_key.get(("sqlite", operation))) is not None:
            name = f"sqlite: {operation} ÷ best peer as durable ({found['best_peer']})"
            yield _at_most(name, 1.0, found["to_peer"])


def _conversation(comparisons: list[dict[str, Any]]) -> Iterator[Verdict]:
    for each in comparisons:
        if each["group"] in ("sqlite", "postgresql"):
            name = f"{each['group']}: a conversation ÷ "
            yield _at_most(name + each["floor"], 1.25, each["to_floor"])
            if each["to_peer"]:
                yield _at_most(name + each["best_peer"], 1.0, each["to_peer"])


def _mail(rows: list[dict[str, Any]]) -> Iterator[Verdict]:
    by_key = {(row["group"], row["who"]): row for row in rows if row["situation"] == "8th state"}
    for group in ("sqlite", "postgresql", "mariadb"):
        naive = by_key.get((group, "SQLAlchemy ORM, naive"))
        ours = by_key.get((group, "salmon-state, attach"))
        if naive and ours:
            times = naive["p50"] / ours["p50"]
            name = f"{group}: a mail in the 8th state, naive ORM ÷ ours with attach"
            yield Verdict(name, "≥ 3×", f"{times:.1f}×", times >= 3)
    for group in ("sqlite", "postgresql", "mariadb", "redis"):
        without = by_key.get((group, "salmon-state, attach"))
        once = by_key.get((group, "salmon-state, attach, once_within"))
        if without and once:
            name = f"{group}: a mail in the 8th state with once_within ÷ without"
            verdict = _at_most(name, 1.15, Ratio.of(once, without)._asdict())
            bare = [by_key[group, who] for who in DRIVERS if (group, who) in by_key]
            if bare:
                own = f" ({DRIVERS[0]}: {Ratio.of(bare[1], bare[0]).median:.2f}×)"
                verdict = verdict._replace(measured=verdict.measured + own)
            yield verdict
    floor = by_key.get(("memory", "Salmon's MemoryStorage"))
    ours = by_key.get(("memory", "salmon-state, attach"))
    if floor and ours:
        more = ours["p50"] - floor["p50"]
        yield Verdict("memory: what attach adds to a mail", "≤ 60 µs", f"{more:.0f} µs", more <= 60)


def _outbox(rows: list[dict[str, Any]]) -> Iterator[Verdict]:
    for row in rows:
        name = f"{row['group']}: a post to {row['recipients']:,}, envelope senders {row['senders']}"
        answered = row["answered_ms"]
        yield Verdict(f"{name}: recorded", "≤ 1 s", f"{answered:.0f} ms", answered <= 1000)
        limit = 3 if row["senders"] == "one each" else 10
        ratio = row["ratio"]
        measured = f"{ratio['median']:.1f}× ({ratio['low']:.1f}–{ratio['high']:.1f})"
        met = ratio["median"] >= limit
        yield Verdict(f"{name}: rate ÷ that of Salmon's relay", f"≥ {limit}×", measured, met)
        more = row["p99_ms"]["busy"] / row["p99_ms"]["idle"]
        yield Verdict(
            f"{name}: others' conversations, p99 ÷ idle", "≤ 2×", f"{more:.1f}×", more <= 2
        )


def _post(rows: list[dict[str, Any]]) -> Iterator[Verdict]:
    for row in rows:
        name = f"{row['group']}: a post to {row['recipients']:,} on the running example"
        answered = row["answered_ms"]
        yield Verdict(f"{name}: answered", "≤ 1 s", f"{answered:.0f} ms", answered <= 1000)
        more = row["p99_ms"]["busy"] / row["p99_ms"]["idle"]
        yield Verdict(f"{name}: others' p99 ÷ idle", "≤ 2×", f"{more:.1f}×", more <= 2)


def _server(rows: list[dict[str, Any]]) -> Iterator[Verdict]:
    for row in rows:
        limit = {"sqlite": 0.85, "postgresql": 0.60}.get(row["group"])
        if limit is not None and row["role"] == "ours":
            name = (
                f"server: {row['group']} with attach as a share of memory without, "
                f"{row['clients']} clients, connection {row['connection']}"
            )
            share = row["share_of_memory"]
            floor = next(
                each["share_of_memory"]
                for each in rows
                if each["role"] == "floor"
                and all(each[name] == row[name] for name in ("group", "clients", "connection"))
            )
            measured = f"{share:.0%} (one read and one write of the driver: {floor:.0%})"
            yield Verdict(name, f"≥ {limit:.0%}", measured, share >= limit)


def _at_least(target: str, limit: float, ratio: dict[str, float]) -> Verdict:
    measured = f"{ratio['median']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return Verdict(target, f"≥ {limit:g}×", measured, ratio["median"] >= limit)


def _receiving(found: dict[str, Any]) -> Iterator[Verdict]:
    for row in found["rows"]:
        name = f"receiving: {row['group']}, a handler that {row['handler']}"
        if row["kind"] == "1":
            limit = {"memory": 0.8}.get(row["group"], 1.0)
            limit = 10.0 if row["handler"] == "waits 20 ms" else limit
            yield _at_least(f"{name}: rate ÷ that of Salmon's receiver", limit, row["to_salmon"])
        elif row["kind"] == "2":
            yield _at_least(f"{name}: two processes ÷ one", 1.3, row["to_one"])
    more = found["p99_ms"]["tenth"] / found["p99_ms"]["none"]
    yield Verdict(
        "receiving: others' p99 beside a sender who waits", "≤ 2×", f"{more:.1f}×", more <= 2
    )
    seconds = found["greeted_seconds"]
    name = f"receiving: {found['at_once']} clients at once are greeted within"
    yield Verdict(name, "≤ 1 s", f"{seconds:.2f} s", seconds <= 1)


def _growth(slopes: list[dict[str, Any]]) -> Iterator[Verdict]:
    floors = {slope["group"]: slope for slope in slopes if slope["role"] == "floor"}
    for slope in slopes:
        if slope["role"] == "floor":
            continue
        name = f"growth of {slope['operation']} on {slope['group']}"
        name += f", {slope['from']:,} to {slope['to']:,}"
        verdict = _at_most(name, 1.3, slope)
        if slope["operation"] == "get" and (floor := floors.get(slope["group"])):
            bare = f"; {floor['who']} alone {floor['median']:.2f}×"
            verdict = verdict._replace(measured=verdict.measured + bare)
        yield verdict


def _filters(found: dict[str, Any]) -> Iterator[Verdict]:
    limit = 50 if found["size"] <= 10**6 else 200
    for row in found["rows"]:
        indexed = row["who"] == ("without" if row["group"] == "memory" else "indexes")
        if indexed and row["asked"].startswith("`records`"):
            name = f"{row['asked']}: {row['group']}, of {found['size']:,}"
            yield Verdict(name, f"≤ {limit} ms", f"{row['ms']:.1f} ms", row["ms"] <= limit)


def behind(results: Results) -> Iterator[str]:
    """Yields what is slower than the best peer at like durability."""
    for name, what in (
        ("operations", "operation"),
        ("conversation", None),
        ("mail", "situation"),
        ("server", "clients"),
    ):
        for each in results.get(name, {}).get("comparisons", []):
            ratio = each["to_peer"]
            if ratio and each["like_durability"] and ratio["median"] > 1:
                detail = each[what] if what else "a conversation"
                detail = f"{detail} clients" if what == "clients" else detail
                yield (
                    f"{each['group']}, {detail}: {ratio['median']:.2f}× "
                    f"({ratio['low']:.2f}–{ratio['high']:.2f}) the time of {each['best_peer']}"
                    + (f" ({each['who']})" if name == "mail" else "")
                )
