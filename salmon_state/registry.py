"""open_storage(): from a URL to a store."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any
from urllib.parse import parse_qsl

from salmon_state.errors import ConfigurationError
from salmon_state.storage import StateStorage

__all__ = ["open_storage"]

# Names and not classes, so that a backend and its driver are imported only when they are used.
_BUILT_IN = {
    "mariadb": "salmon_state.stores.sqlalchemy:SQLAlchemyStorage",
    "memory": "salmon_state.stores.memory:MemoryStorage",
    "mysql": "salmon_state.stores.sqlalchemy:SQLAlchemyStorage",
    "postgresql": "salmon_state.stores.sqlalchemy:SQLAlchemyStorage",
    "shelve": "salmon_state.stores.shelve:ShelveStorage",
    "sqlite": "salmon_state.stores.sqlalchemy:SQLAlchemyStorage",
}


def open_storage(url: str, **options: Any) -> StateStorage:
    """Makes the store that a URL names.

    ===========================  =====================  ===============================
    URL                          store                  shared by
    ===========================  =====================  ===============================
    ``memory://``                `MemoryStorage`        the threads of one process
    ``shelve:///run/states``     `ShelveStorage`        the processes of one machine
    ``sqlite:///run/states.db``  `SQLAlchemyStorage`    the processes of one machine
    ``postgresql+psycopg://…``   `SQLAlchemyStorage`    all machines that reach the server
    ``mysql+pymysql://…``        `SQLAlchemyStorage`    all machines that reach the server
    ===========================  =====================  ===============================

    Three slashes are followed by a path relative to the working directory at this moment, four
    by an absolute path, as in SQLAlchemy's database URLs.

    >>> with open_storage("memory://") as store:
    ...     store.get("app.handlers", "anna@example.com")
    'START'

    Args:
        url: Where the states are.
        **options: Arguments of the store's class, such as ``protect=True``.

    Raises:
        ConfigurationError: The URL or an option cannot work; the message lists what can.
        StorageUnavailable: The store cannot be reached now.
    """
    scheme = _scheme(url)
    target = _BUILT_IN.get(scheme.partition("+")[0])
    if target is None:
        known = ", ".join(f"{name}://" for name in sorted(_BUILT_IN))
        raise ConfigurationError(f"unknown scheme {scheme!r} in the URL of a store: known: {known}")
    module, _, name = target.partition(":")
    factory = getattr(importlib.import_module(module), name)
    _check_options(factory, options)
    from_url = getattr(factory, "from_url", factory)
    store: StateStorage = from_url(url, **options)
    return store


def _scheme(url: str) -> str:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url) if isinstance(url, str) else None
    if match is None:
        # The URL itself is not shown: it may hold a password.
        raise ConfigurationError(
            "a store is opened by a URL such as 'sqlite:///run/states.db', "
            f"got {'text without a scheme' if isinstance(url, str) else type(url).__name__}"
        )
    return match[1].lower()


def _check_options(factory: type[StateStorage], options: dict[str, Any]) -> None:
    parameters = list(inspect.signature(factory).parameters.values())
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise ConfigurationError(
                f"{factory.__name__} has no option {option!r}: known: {', '.join(known)}"
            )


def path_of(url: str) -> str:
    """Returns the path in a URL whose scheme is followed by ``///path`` or ``////path``."""
    scheme, _, rest = url.partition(":")
    path, _, query = rest.partition("?")
    if parse_qsl(query, keep_blank_values=True) or "#" in rest:
        raise ConfigurationError(f"a {scheme}:// URL takes a path and nothing else")
    if not path.startswith("///") or len(path) == 3:
        raise ConfigurationError(
            f"a {scheme} URL needs three slashes and a relative path, or four and an absolute "
            f"one: {scheme}:///run/states or {scheme}:////var/lib/app/states, got {url!r}"
        )
    return path[3:]
