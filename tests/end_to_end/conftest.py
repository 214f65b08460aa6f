"""Servers that are dead when their test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from salmon_state import open_storage
from tests.end_to_end.mail_server import MailServer

KEY = "examples.mailing_list.handlers:news"

Serve = Callable[..., MailServer]
States = Callable[[], dict[str | None, str]]


@pytest.fixture
def state_url(tmp_path: Path) -> str:
    """Where the servers of a test keep their states; another module may override it."""
    return f"sqlite:///{tmp_path}/run/states.db"


@pytest.fixture
def states(state_url: str) -> States:
    """Gives a function that reads the states of the news from outside, by sender."""

    def read() -> dict[str | None, str]:
        with open_storage(state_url) as store:
            return {record.sender: record.state for record in store.records(module=KEY)}

    return read


@pytest.fixture
def serve(tmp_path: Path, state_url: str) -> Iterator[Serve]:
    """Gives a function that starts a server; its arguments are those of `MailServer`."""
    servers: list[MailServer] = []

    def start(**options: Any) -> MailServer:
        servers.append(MailServer(tmp_path, **{"state_url": state_url, **options}))
        return servers[-1].start()

    yield start
    for server in servers:
        server.kill()
