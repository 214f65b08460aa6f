"""How figures and tables are written, and how they get into a page that people write."""

# ruff: noqa: RUF001 - a dash is meant

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yields the lines of a table, and an empty one."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(str(each) for each in row)} |"
    yield ""


def µs(value: float | None) -> str:
    """Returns a time with as many digits as it is good for."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.2f}"
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def between_marks(text: str, name: str, lines: Iterable[str]) -> str:
    """Returns a page in which lines stand between two marks; what is around them stays."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    body = "\n".join((begin, *lines, end))
    return re.sub(f"{begin}.*?{end}", lambda _: body, text, flags=re.DOTALL)
