"""The tutorial, typed from its first line to its last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documentation import steps
from tests.services import free_port
from tests.site.terminal import Terminal

pytestmark = pytest.mark.slow


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path, {"8823": str(free_port())})
    yield terminal
    terminal.end()


def test_from_nothing_to_a_list_that_survives_a_restart(terminal: Terminal) -> None:
    install, *rest = steps("docs/tutorial.md")
    # What tests/test_packaging.py and `make release` do, with a wheel.
    assert [command.split()[0] for command, _ in install.commands] == ["python3", ".", "pip"]
    for step in rest:
        terminal.follow(step)
        settings = terminal.directory / "config" / "settings.py"
        if settings.exists():  # as generated: nobody is to change its port by hand
            settings.write_text(terminal._here(settings.read_text()))
