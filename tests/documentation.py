"""The examples in the documentation, as they are written there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parents[1]

PAGES = sorted(
    str(path.relative_to(CHECKOUT))
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md")
    for path in CHECKOUT.glob(pattern)
)


def blocks(file: str, language: str = "python") -> list[str]:
    """Returns the examples of one language in a file, in their order."""
    text = (CHECKOUT / file).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def files(file: str) -> dict[str, str]:
    """Returns the examples whose first line says what file they are, by that."""
    named: dict[str, str] = {}
    for language in ("python", "ini", "toml"):
        for block in blocks(file, language):
            match = re.match(r"# ([\w./]+\.\w+)\n", block)
            if match:
                named[match[1]] = block
    return named


def write(directory: Path, examples: dict[str, str]) -> None:
    """Writes examples to where they belong in a directory."""
    for name, text in examples.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


class Step(NamedTuple):
    """A block of a page that somebody goes through from top to bottom."""

    language: str
    text: str

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """What is typed, each with the lines that are to appear in their order."""
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        return [(first, rest) for first, *rest in (part.splitlines() for part in parts)]

    @property
    def headline(self) -> str:
        """What the first line of a file says about it."""
        return self.text.partition("\n")[0].removeprefix("# ")


def steps(file: str) -> list[Step]:
    """Returns what is done on a page, in its order: commands, and files that are written."""
    text = (CHECKOUT / file).read_text(encoding="utf-8")
    found = re.findall(r"^```(console|python)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [Step(*each) for each in found]


def appear_in(expected: list[str], output: str) -> bool:
    """Returns whether lines are in an output, in their order; spaces and … stand for any."""
    patterns = (
        r"\s+".join(re.escape(word).replace("…", ".*") for word in line.split())
        for line in expected
    )
    return re.search(r".*".join(patterns), output, flags=re.DOTALL) is not None
