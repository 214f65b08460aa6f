"""What a release is said to bring: its section of CHANGELOG.md."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Section", "section"]


class Section(NamedTuple):
    """What the changelog says about one version."""

    released: str
    """When, as it stands in its headline: a date, or ``unreleased``."""
    text: str


def section(changelog: str, version: str) -> Section | None:
    """Returns what a changelog says about a version, or ``None``."""
    headline = rf"^## {re.escape(version)}(?: \(?(?P<released>[^)\n]*)\)?)?\n"
    found = re.search(headline + r"(?P<text>.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None:
        return None
    return Section(found["released"] or "", found["text"].strip() + "\n")
