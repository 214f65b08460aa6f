"""The module that an application's tests import in place of config.boot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]

SESSION = """
import config.testing
from salmon.routing import Router
from salmon.testing import RouterConversation, assert_in_state
from examples.mailing_list import settings

print(repr(Router.STATE_STORE))
RouterConversation("anna@example.com", "hi").deliver(
    "news-subscribe@lists.example.com", "anna@example.com", "hi", "hello"
)
assert_in_state(
    "examples.mailing_list.handlers", "news@lists.example.com", "anna@example.com", "CONFIRMING"
)
print(len(settings.relay))
"""


def test_it_needs_neither_a_directory_nor_a_network(tmp_path: Path) -> None:
    for name in ("config", "examples"):
        (tmp_path / name).symlink_to(CHECKOUT / name)
    command = [sys.executable, "-W", "error::DeprecationWarning:config", "-c", SESSION]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("<MemoryStorage>\n1\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config", "examples"]
