"""Servers that are dead when their test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from salmon_state import open_storage
from salmon_state.mail.outbox import Outbox
from tests.end_to_end.mail_server import MailServer, wait_until

KEY = "examples.mailing_list.handlers:news"

Serve = Callable[..., MailServer]
States = Callable[[], dict[str | None, str]]
AllSent = Callable[[], None]


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
def all_sent(state_url: str) -> AllSent:
    """Gives a function that waits until what servers have sent is marked as sent.

    Whoever is killed, or loses the store, between the two sends it again, and not at once.
    """

    def wait() -> None:
        with open_storage(state_url) as store:
            outbox = Outbox(store)
            wait_until(lambda: not outbox.backlog().pending, "all to be sent")

    return wait


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
