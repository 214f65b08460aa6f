"""The mailing list with two lists, no network and an empty store for each test."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from salmon.routing import Router

import config.testing
from config import settings
from config.testing import SentMail
from examples.mailing_list import handlers, roster, subscribers, tokens
from examples.mailing_list import settings as lists
from salmon_state import SQLAlchemyStorage, StateStorage, detach, open_storage

SQL_STORES = ("sqlite", "postgresql", "mariadb")
ALL_STORES = ("memory", "shelve", *SQL_STORES)


@pytest.fixture(scope="session")
def databases() -> dict[str, str]:
    """The database on each server that these tests share: making one takes longer than a test."""
    return {}


@pytest.fixture
def state_url(request: pytest.FixtureRequest, tmp_path: Path, databases: dict[str, str]) -> str:
    """Where the states are: in memory, or in the store that a module is parametrized with."""
    kind = getattr(request, "param", "memory")
    if kind in ("postgresql", "mariadb"):
        if kind not in databases:
            databases[kind] = request.getfixturevalue(kind).fresh_database()
        return databases[kind]
    urls = {
        "memory": "memory://",
        "shelve": f"shelve:///{tmp_path}/run/states",
        "sqlite": f"sqlite:///{tmp_path}/run/states.db",
    }
    return urls[kind]


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state_url: str) -> Iterator[SentMail]:
    """Loads the mailing list into the router; gives the mails that it sends."""
    before = {name: copy.copy(value) for name, value in vars(Router).items() if "lock" not in name}
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)  # RouterConversation.begin() makes run/queue
    monkeypatch.setattr(settings, "list_names", ("news", "book-club"))
    monkeypatch.setattr(settings, "router_defaults", {"list_name": "news|book-club", "host": ".+"})
    importlib.reload(config.testing)
    Router.clear_routes()
    importlib.reload(handlers)
    Router.STATE_STORE = open_storage(state_url)
    lists.relay = SentMail(Router.STATE_STORE)
    subscribers.prepare()
    empty(Router.STATE_STORE)
    yield lists.relay
    Router.STATE_STORE.close()
    detach(Router)
    vars(Router).update(before)


def empty(store: StateStorage) -> None:
    """Removes what another test has left."""
    store.clear()
    if isinstance(store, SQLAlchemyStorage):
        with store.conversation(None) as conversation:
            conversation.connection.execute(roster.TABLE.delete())


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Lets time pass for the mailing list."""
    return Later(monkeypatch)


class Later:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, **passed: float) -> None:
        moment = tokens.now() + timedelta(**passed)
        self._monkeypatch.setattr(tokens, "now", lambda: moment)
        # Whatever is stored from now on is stored at that time.
        microseconds = int(moment.timestamp() * 1_000_000)
        self._monkeypatch.setattr(Router.STATE_STORE, "_clock", lambda: microseconds)
