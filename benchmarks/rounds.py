"""How everything is timed: in turns, so that whatever else the machine does hits all alike.

A *round* consists of *turns*; in each turn every contender does the same few calls, and the order
rotates from turn to turn. A contender's figure for a round is the median of its samples in it, a
ratio is formed within each round, and what is reported is the median over the rounds and the
smallest and largest of them. No sample is left out.
"""

# ruff: noqa: RUF001 - multiplication signs and dashes are meant

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]
Call = Callable[..., Any]

OURS, FLOOR, PEER = "ours", "floor", "peer"


class Plan(NamedTuple):
    """How much is measured."""

    quick: bool
    rounds: int
    turns: int
    calls: int
    """How many samples each contender gives in a turn."""
    conversations: int
    sizes: tuple[int, ...]
    """What `growth` grows to."""
    mails: int
    """How many mails a server gets in a turn."""
    seconds: float
    """How long processes contend for a lock."""

    @classmethod
    def full(cls, *, largest: int = 10**6) -> Plan:
        sizes = tuple(10**n for n in range(4, 8) if 10**n <= largest)
        return cls(False, 7, 12, 10, 10_000, sizes, 250, 1.0)

    @classmethod
    def short(cls) -> Plan:
        return cls(True, 3, 3, 6, 10_000, (10**4, 10**5), 60, 0.5)


class Samples:
    """The samples of every contender, by round."""

    def __init__(self) -> None:
        self._rounds: dict[Any, list[list[float]]] = {}

    def add(self, key: Any, number: int, samples: Iterable[float]) -> None:
        """Adds samples in seconds to a round of a contender."""
        rounds = self._rounds.setdefault(key, [])
        while len(rounds) <= number:
            rounds.append([])
        rounds[number].extend(samples)

    def row(self, key: Any) -> Row:
        """Returns the figures of a contender, in microseconds."""
        rounds = [samples for samples in self._rounds[key] if samples]
        everything = sorted(sample for samples in rounds for sample in samples)
        return {
            "p50": statistics.median(everything) * 1e6,
            "p99": percentile(everything, 0.99) * 1e6,
            "per_second": len(everything) / sum(everything),
            "samples": len(everything),
            "rounds": [statistics.median(samples) * 1e6 for samples in rounds],
        }

    def __iter__(self) -> Any:
        return iter(self._rounds)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns the sample below which a share of all lies."""
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def rotated(items: Sequence[Any], by: int) -> list[Any]:
    """Returns the items, beginning with another one each time."""
    by %= len(items)
    return [*items[by:], *items[:by]]


LIMIT = 0.1
"""Seconds after which a contender's part of a turn ends early."""


def timed(call: Call, calls: Sequence[tuple[Any, ...]], together: int = 1) -> list[float]:
    """Returns seconds a call: a sample for every `together` calls; ends early after `LIMIT`."""
    samples = []
    clock = time.perf_counter
    end = clock() + LIMIT
    for first in range(0, len(calls), together):
        some = calls[first : first + together]
        began = clock()
        for arguments in some:
            call(*arguments)
        now = clock()
        samples.append((now - began) / len(some))
        if now > end:
            break
    return samples


def timed_in_loop(
    loop: asyncio.AbstractEventLoop, call: Any, calls: Sequence[tuple[Any, ...]]
) -> list[float]:
    """Does what `timed` does, for a coroutine function."""

    async def run() -> list[float]:
        samples: list[float] = []
        clock = time.perf_counter
        end = clock() + LIMIT
        for arguments in calls:
            began = clock()
            await call(*arguments)
            now = clock()
            samples.append(now - began)
            if now > end:
                break
        return samples

    return loop.run_until_complete(run())


class Ratio(NamedTuple):
    """Ours ÷ another's: the median over the rounds, the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Row, other: Row) -> Ratio:
        """Compares two rows round by round."""
        each = [one / two for one, two in zip(ours["rounds"], other["rounds"], strict=False)]
        return cls(statistics.median(each), min(each), max(each))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


_STRENGTH = {"": 0, "memory": 0, "no fsync": 1, "fsync each second": 2, "fsync": 3}


def compare(rows: Sequence[Row], by: Sequence[str]) -> list[Row]:
    """Returns one comparison for each row of ours with the floor and with the best peer.

    The best peer is the fastest of those that are at least as durable as ours; where there is
    none, the fastest of the others, and its durability says so.

    Args:
        rows: All rows of a measurement.
        by: What must be the same to be compared, such as the operation.
    """
    compared = []
    for ours in rows:
        if ours["role"] != OURS:
            continue
        same = [row for row in rows if all(row[name] == ours[name] for name in by)]
        floor = next((row for row in same if row["role"] == FLOOR), None)
        best = _best_peer(ours, [row for row in same if row["role"] == PEER])
        compared.append(
            {
                **{name: ours[name] for name in (*by, "who", "durability")},
                "p50": ours["p50"],
                "floor": floor["who"] if floor else None,
                "to_floor": Ratio.of(ours, floor)._asdict() if floor else None,
                "best_peer": best["who"] if best else None,
                "peer_durability": best["durability"] if best else None,
                "to_peer": Ratio.of(ours, best)._asdict() if best else None,
                "like_durability": best is not None and _strength(best) >= _strength(ours),
            }
        )
    return compared


def _best_peer(ours: Row, peers: Sequence[Row]) -> Row | None:
    like = [row for row in peers if _strength(row) >= _strength(ours)]
    return min(like or peers, key=lambda row: float(row["p50"]), default=None)


def _strength(row: Row) -> int:
    return _STRENGTH[row["durability"]]
