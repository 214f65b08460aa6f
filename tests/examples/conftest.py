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
from examples.mailing_list import handlers, tokens


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SentMail]:
    """Loads the mailing list into the router; gives the mails that it sends."""
    before = {name: copy.copy(value) for name, value in vars(Router).items() if "lock" not in name}
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)  # RouterConversation.begin() makes run/queue
    monkeypatch.setattr(settings, "list_names", ("news", "book-club"))
    monkeypatch.setattr(settings, "router_defaults", {"list_name": "news|book-club", "host": ".+"})
    importlib.reload(config.testing)
    Router.clear_routes()
    importlib.reload(handlers)
    yield settings.relay
    Router.STATE_STORE.close()
    vars(Router).update(before)


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
