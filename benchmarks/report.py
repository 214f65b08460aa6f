"""From the results to ``benchmarks/results/performance.md``: all tables, and the charts."""

# ruff: noqa: RUF001 - multiplication signs and dashes are meant

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.charts import Bar, bars, lines
from benchmarks.summary import summary
from benchmarks.tables import between_marks, table, µs
from benchmarks.targets import Results, behind, verdicts

Row = dict[str, Any]


def write_report(results: Path, summary_page: Path | None = None) -> None:
    """Writes ``performance.md`` and the charts beside the results, and the tables of another page.

    Only what stands between marks is written anew; what is outside them is written by people.

    Args:
        results: Where the figures are, each measurement in its file.
        summary_page: Where the few tables are that a person reads.
    """
    found: Results = {
        path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))
    }
    for name, chart in _charts(found):
        (results / f"performance-{name}.svg").write_text(chart)
    page = results / "performance.md"
    new = "# Measurements\n\n<!-- measured: begin -->\n<!-- measured: end -->\n"
    text = page.read_text() if page.exists() else new
    page.write_text(between_marks(text, "measured", _measured(found)))
    if summary_page is not None:
        text = summary_page.read_text()
        for name, lines in summary(found).items():
            text = between_marks(text, name, lines)
        summary_page.write_text(text)


def _measured(found: Results) -> Iterator[str]:
    if not found:
        return
    yield from _machine(found)
    yield from _summary(found)
    for name, section in (
        ("operations", _operations),
        ("conversation", _conversation),
        ("mail", _mail),
        ("outbox", _outbox),
        ("post", _post),
        ("server", _server),
        ("receiving", _receiving),
        ("growth", _growth),
        ("contention", _contention),
    ):
        if name in found:
            yield from section(found[name])


def _ratio(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return "–"
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


def _machine(found: Results) -> Iterator[str]:
    about = next(iter(found.values()))["machine"]
    yield "## The machine"
    yield ""
    yield (
        f"{about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB, "
        f"{about['system']}, Python {about['python']}. Bringing 4 KiB to the disk (fdatasync) took "
        f"{about['fdatasync_us']} µs in the median. Everything is on this one machine, over "
        "loopback."
    )
    yield ""
    yield from table(
        ("measurement", "seconds", "load average before", "after"),
        (
            (
                name, each["seconds"], each["machine"]["load_average_at_start"],
                each["machine"].get("load_average_at_end", "–"),
            )
            for name, each in found.items()
        ),
    )  # fmt: skip
    yield ", ".join(f"{name} {version}" for name, version in about["versions"].items()) + "."
    yield ""
    yield from table(("store", "durability"), about["durability"].items())


def _summary(found: Results) -> Iterator[str]:
    yield "## Targets"
    yield ""
    rows = [(each.target, each.limit, each.measured, _met(each.met)) for each in verdicts(found)]
    yield from table(("target", "limit", "measured", ""), rows)
    yield "## Where we are behind"
    yield ""
    yield "Slower than the fastest peer that is at least as durable:"
    yield ""
    places = list(behind(found))
    yield from [f"- {each}" for each in places] or ["- nowhere"]
    yield ""


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def _operations(found: Row) -> Iterator[str]:
    yield "## One operation"
    yield ""
    yield "At 10,000 conversations; in microseconds. *Floor* is the bare call of the driver."
    yield ""
    yield "![One get](performance-get.svg)"
    yield ""
    yield "![One set](performance-set.svg)"
    yield ""
    yield from table(
        ("store", "operation", "ours", "ours ÷ floor", "floor", "ours ÷ best peer", "best peer"),
        (
            (
                each["group"], each["operation"], µs(each["p50"]), _ratio(each["to_floor"]),
                each["floor"], _ratio(each["to_peer"]), _peer(each),
            )
            for each in found["comparisons"]
        ),
    )  # fmt: skip
    yield "<details><summary>Everybody</summary>"
    yield ""
    yield from table(
        ("store", "operation", "who", "durability", "p50", "p99", "a second"),
        (
            (
                row["group"], row["operation"], row["who"], row["durability"], µs(row["p50"]),
                µs(row["p99"]), f"{row['per_second']:,.0f}",
            )
            for row in found["rows"]
        ),
    )  # fmt: skip
    yield "</details>"
    yield ""


def _peer(each: Row) -> str:
    if each["best_peer"] is None:
        return "–"
    less = "" if each["like_durability"] else f", {each['peer_durability']}"
    return f"{each['best_peer']}{less}"


def _conversation(found: Row) -> Iterator[str]:
    yield "## One conversation"
    yield ""
    yield (
        "Enter, `get`, `set`, leave; in microseconds. *Floor* is the driver's own transaction that "
        "locks the sender, reads and writes. LangGraph's savers read and write one checkpoint, at "
        "the same durability; DBOS runs a workflow of one step."
    )
    yield ""
    yield from table(
        ("store", "ours", "ours ÷ floor", "ours ÷ peer", "peer"),
        (
            (
                each["group"], µs(each["p50"]), _ratio(each["to_floor"]), _ratio(each["to_peer"]),
                _peer(each),
            )
            for each in found["comparisons"]
        ),
    )  # fmt: skip
    yield from table(
        ("store", "who", "p50", "p99"),
        ((row["group"], row["who"], µs(row["p50"]), µs(row["p99"])) for row in found["rows"]),
    )


def _mail(found: Row) -> Iterator[str]:
    yield "## One mail"
    yield ""
    yield (
        "`Router.deliver` with a handler that does nothing but return the next state; in "
        "microseconds. Round trips are what a proxy between the store and the server counts."
    )
    yield ""
    yield "![One mail in the 8th state](performance-mail.svg)"
    yield ""
    yield from table(
        ("store", "who", "sender in", "p50", "p99", "round trips"),
        (
            (
                row["group"], row["who"], row["situation"], µs(row["p50"]), µs(row["p99"]),
                "–" if row["round_trips"] is None else f"{row['round_trips']:.0f}",
            )
            for row in found["rows"]
        ),
    )  # fmt: skip
    yield from table(
        ("store", "sender in", "who", "ours ÷ floor", "ours ÷ naive ORM"),
        (
            (
                each["group"], each["situation"], each["who"], _ratio(each["to_floor"]),
                _ratio(each["to_peer"]),
            )
            for each in found["comparisons"]
            if each["to_floor"] or each["to_peer"]
        ),
    )  # fmt: skip


def _receiving(found: Row) -> Iterator[str]:
    yield "## Receivers"
    yield ""
    yield (
        "Sixteen clients of different senders that keep their connections, mails of 2.5 KB, the "
        "same store with `attach` and the same handlers behind Salmon's `SMTPReceiver` and ours, "
        "in turns. The clients are one process: what share of a processor it took is beside each "
        "rate. The handler that waits is marked with `@nolocking`."
    )
    yield ""
    who = {"salmon": "Salmon's", "1": "ours", "2": "ours, two processes"}
    yield from table(
        ("store", "handler", "receiver", "mails a second", "client's share", "÷ Salmon's",
         "÷ one process"),
        (
            (
                row["group"], row["handler"], who[row["kind"]], f"{row['per_second']:,.0f}",
                f"{row['client_share']:.0%}", _ratio(row["to_salmon"]), _ratio(row["to_one"]),
            )
            for row in found["rows"]
        ),
    )  # fmt: skip
    p99 = found["p99_ms"]
    yield (
        f"With a handler that waits 50 ms for one sender in ten, the others' p99 is "
        f"{p99['tenth']:.1f} ms, and {p99['none']:.1f} ms with one that does not. "
        f"{found['at_once']} clients that connect at once are all greeted within "
        f"{found['greeted_seconds']:.2f} s, and then served. What speaks with a client is made in "
        f"{found['client_us']['ours']:.0f} µs, aiosmtpd's own in "
        f"{found['client_us']['aiosmtpd']:.0f} µs."
    )
    yield ""


def _outbox(found: Row) -> Iterator[str]:
    yield "## A post to many"
    yield ""
    yield (
        "Recorded in one conversation, and sent by a dispatcher in a process of its own over eight "
        "connections, beside Salmon's relay, which sends to one after the other from the handler. "
        "The envelope sender is one each (VERP) or one for all; the sink on the other side "
        "offers PIPELINING, as mail servers do, and has the same two cores. *Others* are mails "
        "that somebody else sends before and meanwhile, one conversation with one `set` each."
    )
    yield ""
    yield from table(
        ("store", "envelope senders", "recipients", "recorded in, ms", "copies a second",
         "Salmon's relay", "ours ÷ Salmon's", "others' p99 idle, ms", "meanwhile", "of"),
        (
            (
                row["group"], row["senders"], f"{row['recipients']:,}",
                f"{row['answered_ms']:,.0f}", f"{row['per_second']:,.0f}",
                f"{row['todays_per_second']:,.0f}", _ratio(row["ratio"]),
                f"{row['p99_ms']['idle']:.1f}", f"{row['p99_ms']['busy']:.1f}", row["others"],
            )
            for row in found["rows"]
        ),
    )  # fmt: skip


def _post(found: Row) -> Iterator[str]:
    yield "## A post on the example"
    yield ""
    yield (
        "The mailing list of `examples/`, as `make run` runs it: its SMTP receiver, and its "
        "dispatcher in a process of its own. *Others* are mails of strangers who want to "
        "subscribe, by SMTP, before the post and until its last copy has left; each is answered "
        "with a mail."
    )
    yield ""
    yield from table(
        ("store", "subscribers", "answered in, ms", "copies a second",
         "others' p50 idle, ms", "meanwhile", "p99 idle, ms", "meanwhile", "of"),
        (
            (
                row["group"], f"{row['recipients']:,}", f"{row['answered_ms']:,.0f}",
                f"{row['per_second']:,.0f}",
                *(f"{row[p][when]:.1f}" for p in ("p50_ms", "p99_ms") for when in ("idle", "busy")),
                row["others"],
            )
            for row in found["rows"]
        ),
    )  # fmt: skip


def _server(found: Row) -> Iterator[str]:
    yield "## The server"
    yield ""
    yield (
        "`salmon start` and SMTP. The handlers do nothing, and a client keeps its connection for "
        "all its mails or makes one for each. *Share* is the mails a second as a share of those on "
        "`MemoryStorage` without `attach`. *One read, one write* is what any durable store needs "
        "at least: one bare statement of the driver before the handler and one after it, without "
        "a lock, a transaction or anything else that ours do."
    )
    yield ""
    yield "![Mails a second](performance-server.svg)"
    yield ""
    yield from table(
        ("store", "who", "clients", "connection", "mails a second", "share", "451s"),
        (
            (
                row["group"], row["who"], row["clients"], row["connection"],
                f"{1e6 / row['p50']:,.0f} ({1e6 / max(row['rounds']):,.0f}–"
                f"{1e6 / min(row['rounds']):,.0f})",
                f"{row['share_of_memory']:.0%}", row["refused"],
            )
            for row in found["rows"]
        ),
    )  # fmt: skip
    yield "Several servers on one database, 16 clients; the clients and the database have the same"
    yield "two cores:"
    yield ""
    yield from table(
        ("store", "servers", "mails a second", "451s"),
        (
            (
                row["group"], row["processes"],
                f"{1e6 / row['p50']:,.0f} ({1e6 / max(row['rounds']):,.0f}–"
                f"{1e6 / min(row['rounds']):,.0f})",
                row["refused"],
            )
            for row in found["processes"]
        ),
    )  # fmt: skip


def _growth(found: Row) -> Iterator[str]:
    sizes = found["plan"]["sizes"]
    yield "## Growth"
    yield ""
    yield (
        "In microseconds; the first page is the first 100 of `records()`. What is not ours is the "
        "bare call of the driver for the same rows of the same store: its slope is that of the "
        "database itself and of the processor's caches."
    )
    yield ""
    yield "![get as a store grows](performance-growth.svg)"
    yield ""
    key = ("group", "who", "operation")
    by_key = {(*(row[each] for each in key), row["size"]): row["p50"] for row in found["rows"]}
    yield from table(
        ("store", "who", "operation", *(f"{size:,}" for size in sizes), "slope"),
        (
            (
                *(slope[each] for each in key),
                *(µs(by_key[(*(slope[each] for each in key), size)]) for size in sizes),
                _ratio(slope),
            )
            for slope in found["slopes"]
        ),
    )  # fmt: skip
    yield "The memory of a process that reads a thousand states and a first page, and what the"
    yield "store takes (on disk; in Redis, of its memory):"
    yield ""
    yield from table(
        ("store", "conversations", "process, MiB", "store, MiB", "bytes a conversation"),
        (
            (
                row["group"], f"{row['size']:,}", row["process_mib"],
                "–" if row["bytes"] is None else f"{row['bytes'] / 2**20:,.1f}",
                "–" if row["bytes"] is None else f"{row['bytes'] / row['size']:,.0f}",
            )
            for row in found["sizes"]
        ),
    )  # fmt: skip


def _contention(found: Row) -> Iterator[str]:
    yield "## Contention"
    yield ""
    yield (
        "Each process opens conversations without a pause, every second one with the same hot "
        "sender, the others with one of a thousand, and each reads and commits a state. The locks "
        "of others are only taken and given back. *Hot* and *cool* are the microseconds until "
        "entering, *fairness* is how often the unluckiest process won the hot sender ÷ the "
        "luckiest in each round, *451s* are conversations not won within 2 s."
    )
    yield ""
    yield from table(
        ("store", "who", "processes", "hot p50", "hot p99", "hot max", "cool p50", "won",
         "fairness", "451s"),
        (
            (
                row["group"], row["who"], row["processes"], µs(row["hot_p50"]),
                µs(row["hot_p99"]), µs(row["hot_max"]), µs(row["cool_p50"]), f"{row['won']:,}",
                ", ".join(f"{each:.2f}" for each in row["fairness"]), row["busy"],
            )
            for row in found["rows"]
        ),
    )  # fmt: skip


def _charts(found: Results) -> Iterator[tuple[str, str]]:
    if "operations" in found:
        for name, operation in (("get", "get hit"), ("set", "set changed")):
            rows = [row for row in found["operations"]["rows"] if row["operation"] == operation]
            title = f"{operation}, microseconds (logarithmic)"
            yield name, bars(title, [_bar(row) for row in _ordered(rows)], logarithmic=True)
    if "mail" in found:
        rows = [row for row in found["mail"]["rows"] if row["situation"] == "8th state"]
        title = "One mail in the 8th state, microseconds (logarithmic)"
        yield "mail", bars(title, [_bar(row) for row in _ordered(rows)], logarithmic=True)
    if "server" in found:
        rows = [
            row
            for row in found["server"]["rows"]
            if (row["clients"], row["connection"]) == (4, "kept")
        ]
        speeds = [
            Bar(row["group"], row["who"], row["role"], 1e6 / row["p50"], f"{1e6 / row['p50']:,.0f}")
            for row in rows
        ]
        yield "server", bars("Mails a second, 4 clients", speeds)
    if "growth" in found:
        sizes = found["growth"]["plan"]["sizes"]
        series: dict[str, list[float]] = {}
        for row in found["growth"]["rows"]:
            if row["operation"] == "get" and row["role"] == "ours":
                series.setdefault(row["group"], []).append(row["p50"])
        yield "growth", lines("get as a store grows", sizes, series, "microseconds")


def _ordered(rows: list[Row]) -> list[Row]:
    groups = list(dict.fromkeys(row["group"] for row in rows))
    return sorted(rows, key=lambda row: (groups.index(row["group"]), row["p50"]))


def _bar(row: Row) -> Bar:
    durability = "" if row["durability"] in ("memory", "") else f" [{row['durability']}]"
    name = f"{row['who']}{durability}"
    return Bar(row["group"], name, row["role"], row["p50"], µs(row["p50"]))
