"""Every link between the pages leads somewhere, on the site and in the checkout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documentation import CHECKOUT, PAGES


def text_of(path: Path) -> str:
    """Returns a page without its examples."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Returns the anchors of a page's headlines, as GitHub and MyST make them."""
    found = re.findall(r"^#+ (.+)$", text_of(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", headline.lower()).replace(" ", "-") for headline in found}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = CHECKOUT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        if re.match(r"https?://|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(there), f"{page}: {target}"


def test_every_page_is_on_the_site() -> None:
    """Sphinx says so as well; this needs no Sphinx."""
    listed = {CHECKOUT / "docs" / "index.md"}
    for page in (CHECKOUT / "docs").rglob("*.md"):
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.M | re.S):
            names = [line for line in tree.split() if not line.startswith(":") and line != "1"]
            listed |= {(page.parent / f"{name}.md").resolve() for name in names}
    assert listed == set((CHECKOUT / "docs").rglob("*.md"))
