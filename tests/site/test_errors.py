"""Each error of the code is on the page of errors, and each of the page in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.documentation import CHECKOUT

KINDS = {
    "ConfigurationError",
    "ConversationBusy",
    "SettingsError",
    "StorageError",
    "StorageUnavailable",
}
ANY = "\N{HORIZONTAL ELLIPSIS}"
SHORTEST = 10
"""Less than so many letters are not enough to know a message by."""


def literal(node: ast.expr) -> str:
    """Returns a text as it stands in the code, with one character for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(literal, node.values))
    if isinstance(node, ast.BinOp):
        return literal(node.left) + literal(node.right)
    if isinstance(node, ast.IfExp):
        return literal(node.body)
    return ANY


def longest(message: str) -> str:
    return max(message.split(ANY), key=len)


def raised() -> Iterator[str]:
    """Yields the messages in the code that are known by what is not filled in."""
    files = [*CHECKOUT.glob("salmon_state/**/*.py"), *CHECKOUT.glob("config/*.py")]
    for file in files:
        if "testing" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            message = literal(node.args[0])
            if name in KINDS and len(longest(message)) >= SHORTEST:
                yield message


def listed() -> list[str]:
    text = (CHECKOUT / "docs" / "reference" / "errors.md").read_text()
    return re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)


def is_about(row: str, message: str) -> bool:
    """Returns whether a row of the page, which may be cut short, is about a message."""
    return re.match(".*".join(map(re.escape, row.split(ANY))), message) is not None


def test_each_message_of_the_code_is_explained() -> None:
    known = set(raised())
    assert len(known) > 100
    unexplained = {each for each in known if not any(is_about(row, each) for row in listed())}
    assert unexplained == set(), "say in docs/reference/errors.md what to do"


def test_each_message_of_the_page_is_in_the_code() -> None:
    known = set(raised())
    made_in_steps = "cannot write the log to "
    gone = {row for row in listed() if not any(is_about(row, each) for each in known)}
    assert {row for row in gone if not row.startswith(made_in_steps)} == set()
