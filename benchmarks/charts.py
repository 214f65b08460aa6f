"""Charts as SVG, drawn by hand: bars beside their names, and lines from size to size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

COLOURS = {"ours": "#1a7f5a", "floor": "#9aa5b1", "peer": "#c9773b"}
LINES = ("#1a7f5a", "#c9773b", "#3b6fc9", "#8a4fbf", "#b03060", "#555555")
_STYLE = "font-family='sans-serif' font-size='12'"


class Bar(NamedTuple):
    """One bar."""

    group: str
    name: str
    role: str
    value: float
    text: str


def bars(title: str, found: Sequence[Bar], *, logarithmic: bool = False) -> str:
    """Returns horizontal bars under the headings of their groups."""
    left, width, height = 310, 420, 18
    most = max(bar.value for bar in found)
    least = min(bar.value for bar in found) / 2 if logarithmic else 0.0
    parts: list[str] = []
    y, group = 44, ""
    for bar in found:
        if bar.group != group:
            group = bar.group
            y += 10
            parts.append(f"<text x='8' y='{y + 12}' font-weight='bold'>{escape(group)}</text>")
            y += height
        if logarithmic:
            length = math.log(bar.value / least) / math.log(most / least) * width
        else:
            length = bar.value / most * width
        parts.append(
            f"<text x='{left - 8}' y='{y + 12}' text-anchor='end'>{escape(bar.name)}</text>"
            f"<rect x='{left}' y='{y}' width='{max(1, length):.0f}' height='14' "
            f"fill='{COLOURS[bar.role]}'/>"
            f"<text x='{left + length + 6:.0f}' y='{y + 12}'>{escape(bar.text)}</text>"
        )
        y += height
    return _svg(title, left + width + 110, y + 12, parts)


def lines(
    title: str, sizes: Sequence[int], series: Mapping[str, Sequence[float]], unit: str
) -> str:
    """Returns a line for each series over sizes that grow tenfold; both axes are logarithmic."""
    left, top, width, height = 70, 50, 420, 260
    values = [value for each in series.values() for value in each]
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values)))

    def across(number: int) -> float:
        return left + width * number / max(1, len(sizes) - 1)

    def down(value: float) -> float:
        return top + height * (1 - math.log10(value / low) / math.log10(high / low))

    parts = [
        f"<text x='{across(n):.0f}' y='{top + height + 20}' text-anchor='middle'>{size:,}</text>"
        for n, size in enumerate(sizes)
    ]
    mark = low
    while mark <= high * 1.001:
        y = down(mark)
        parts.append(
            f"<line x1='{left}' y1='{y:.0f}' x2='{left + width}' y2='{y:.0f}' stroke='#dddddd'/>"
            f"<text x='{left - 8}' y='{y + 4:.0f}' text-anchor='end'>{mark:g}</text>"
        )
        mark *= 10
    parts.append(f"<text x='8' y='{top - 8}'>{escape(unit)}</text>")
    for colour, each in zip(LINES, series.values(), strict=False):
        points = " ".join(f"{across(n):.0f},{down(value):.0f}" for n, value in enumerate(each))
        parts.append(
            f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'/>"
        )
    parts += _legend(list(series), left + width + 20, top)
    return _svg(title, left + width + 140, top + height + 36, parts)


def _legend(names: Sequence[str], x: int, top: int) -> list[str]:
    return [
        f"<rect x='{x}' y='{top + 20 * n}' width='12' height='12' fill='{colour}'/>"
        f"<text x='{x + 18}' y='{top + 11 + 20 * n}'>{escape(name)}</text>"
        for n, (colour, name) in enumerate(zip(LINES, names, strict=False))
    ]


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    inside = "\n".join(parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' {_STYLE}>\n"
        f"<rect width='{width}' height='{height}' fill='white'/>\n"
        f"<text x='8' y='24' font-size='16' font-weight='bold'>{escape(title)}</text>\n"
        f"{inside}\n</svg>\n"
    )
