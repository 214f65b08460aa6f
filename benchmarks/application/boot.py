"""Makes the server ready, as ``config/boot.py`` of an application does."""

from __future__ import annotations

import logging
from typing import Any

from salmon.routing import MemoryStorage, Router
from salmon.server import SMTPReceiver

from benchmarks import floors
from benchmarks.application import settings
from benchmarks.floors import OneReadOneWrite
from benchmarks.orm_store import ORMStorage
from salmon_state import attach, open_storage

logging.basicConfig(level=logging.WARNING)


def open_any(url: str) -> Any:
    """Opens our store or one that it is compared with."""
    if url == "salmon:":
        return MemoryStorage()
    kind, _, rest = url.partition(":")
    if kind == "orm":
        return ORMStorage(rest)
    if kind == "floor":
        return OneReadOneWrite(floors.at(rest))
    return open_storage(url)


Router.RELOAD = False
Router.STATE_STORE = open_any(settings.state_url)
if settings.attached:
    attach(Router)
Router.load(["benchmarks.handlers.eight"])
settings.receiver = SMTPReceiver("127.0.0.1", settings.port)
