"""The state of every mail conversation of a Salmon application, exact, durable and shared."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from salmon_state.conversation import Conversation, current_conversation
from salmon_state.errors import (
    ConfigurationError,
    ConversationBusy,
    MigrationPending,
    StorageError,
    StorageUnavailable,
)
from salmon_state.mail.delivery import attach, detach
from salmon_state.named import close_all, configure, named_storage
from salmon_state.registry import open_storage
from salmon_state.storage import Record, StateStorage
from salmon_state.stores.memory import MemoryStorage

if TYPE_CHECKING:
    from salmon_state.mail.confirmations import Confirmations
    from salmon_state.stores.redis import RedisStorage
    from salmon_state.stores.shelf import ShelveStorage
    from salmon_state.stores.sqlalchemy import SQLAlchemyStorage

__version__ = "0.2.0"  # pyproject.toml takes it from here, as a text

__all__ = [
    "ConfigurationError",
    "Confirmations",
    "Conversation",
    "ConversationBusy",
    "MemoryStorage",
    "MigrationPending",
    "Record",
    "RedisStorage",
    "SQLAlchemyStorage",
    "ShelveStorage",
    "StateStorage",
    "StorageError",
    "StorageUnavailable",
    "attach",
    "close_all",
    "configure",
    "current_conversation",
    "detach",
    "named_storage",
    "open_storage",
]

# Imported on first use: whoever keeps states in memory need not load a database toolkit.
_LAZY = {
    "Confirmations": "salmon_state.mail.confirmations",
    "RedisStorage": "salmon_state.stores.redis",
    "SQLAlchemyStorage": "salmon_state.stores.sqlalchemy",
    "ShelveStorage": "salmon_state.stores.shelf",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))
