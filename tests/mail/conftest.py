"""A store of every kind, and where its outbox sends to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from salmon_state import MemoryStorage, StateStorage, open_storage
from salmon_state.mail.dispatcher import Dispatcher
from salmon_state.mail.outbox import Outbox
from salmon_state.mail.relays import SMTPRelay
from tests.end_to_end.smtp_sink import SMTPSink
from tests.redis_services import fresh_prefix
from tests.services import fresh_url

SHARED = ("shelve", "sqlite", "postgresql", "mariadb", "redis_server", "redis_cluster")
"""The stores that processes share."""

OpenStore = Callable[[], StateStorage]
Dispatch = Callable[..., Dispatcher]


@pytest.fixture(params=("memory", *SHARED))
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens an empty store; each time the same one, unless it is in memory."""
    kind = request.param
    if kind == "memory":
        return MemoryStorage
    if kind.startswith("redis"):
        return partial(open_storage, request.getfixturevalue(kind).url(), prefix=fresh_prefix())
    return partial(open_storage, fresh_url(request, kind, tmp_path))


@pytest.fixture
def store(open_store: OpenStore) -> Iterator[StateStorage]:
    """The store."""
    with open_store() as store:
        yield store


@pytest.fixture
def sink() -> Iterator[SMTPSink]:
    """The relay."""
    with SMTPSink() as sink:
        yield sink


@pytest.fixture
def outbox(store: StateStorage, sink: SMTPSink) -> Outbox:
    """The outbox of the store, to the relay."""
    return Outbox(store, SMTPRelay("127.0.0.1", sink.port, timeout=30))


@pytest.fixture
def dispatch(outbox: Outbox) -> Iterator[Dispatch]:
    """Starts a dispatcher that is quick to try again; it is stopped after the test."""
    with ExitStack() as ends:

        def start(**options: Any) -> Dispatcher:
            quick: dict[str, Any] = {
                "first_retry": 0.05,
                "longest_retry": 0.2,
                "poll": 0.05,
                **options,
            }
            dispatcher = Dispatcher(outbox, **quick)
            dispatcher.start()
            ends.callback(dispatcher.stop)
            return dispatcher

        yield start
