"""The examples in the documentation, as they are written there."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


def blocks(file: str, language: str = "python") -> list[str]:
    """Returns the examples of one language in a file, in their order."""
    text = (CHECKOUT / file).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def files(file: str) -> dict[str, str]:
    """Returns the examples whose first line says what file they are, by that."""
    named = {}
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
