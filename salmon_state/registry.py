"""open_storage(): from a URL to a store, entry points included."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any
from urllib.parse import quote_from_bytes

from salmon_state.errors import ConfigurationError, StorageError, StorageUnavailable
from salmon_state.log import log
from salmon_state.masking import Mask, check_login, login_in, secrets_in
from salmon_state.options import closest, options_of
from salmon_state.storage import StateStorage

__all__ = ["known_options", "open_storage", "resolve_url"]

_GROUP = "salmon_state.storages"
_SQL = "salmon_state.stores.sqlalchemy:SQLAlchemyStorage"
_REDIS = "salmon_state.stores.redis:RedisStorage"

# Names and not classes, so that a backend and its driver are imported only when they are used.
_BUILT_IN = {
    "mariadb": _SQL,
    "memory": "salmon_state.stores.memory:MemoryStorage",
    "mysql": _SQL,
    "postgresql": _SQL,
    "redis": _REDIS,
    "redis+cluster": _REDIS,
    "redis+sentinel": _REDIS,
    "rediss": _REDIS,
    "rediss+cluster": _REDIS,
    "rediss+sentinel": _REDIS,
    "shelve": "salmon_state.stores.shelf:ShelveStorage",
    "sqlite": _SQL,
    "unix": _REDIS,
}
_DRIVERS = {_REDIS: "redis[hiredis]"}
"""What pip installs a driver as; an extra of ours needs to know where we were installed from."""

_compared: set[str] = set()
"""The built-in schemes whose namesakes in other packages were warned of."""


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
    ``redis://…``, ``unix://…``  `RedisStorage`         all machines that reach the server
    ===========================  =====================  ===============================

    Three slashes are followed by a path relative to the working directory at this moment, four
    by an absolute path, as in SQLAlchemy's database URLs. ``rediss://`` is Redis with TLS, and
    ``redis+sentinel://``, ``redis+cluster://`` and their forms with TLS are several servers.

    Any other scheme is looked for among the installed packages, in the entry-point group
    ``salmon_state.storages``: first all of it, then the part before its ``+``. The stores in the
    table win over packages that offer the same scheme.

    ``${NAME}`` stands for a variable of the environment, and its value arrives as it is: in the
    user, the password and the query of a URL, which are percent-encoded, it is encoded here.
    Every other ``$`` stands for itself, and ``%24{`` for ``${``.

    >>> with open_storage("memory://") as store:
    ...     store.get("app.handlers", "anna@example.com")
    'START'

    Args:
        url: Where the states are.
        **options: Arguments of the store's class, such as ``protect=True``.

    Raises:
        ConfigurationError: The URL or an option cannot work, a variable of the environment or a
            package is missing; the message lists what can, and shows no password.
        StorageUnavailable: The store cannot be reached now.
    """
    url = resolve_url(url) if isinstance(url, str) else url
    scheme = _scheme(url)
    check_login(url)
    factory, owner = _find(scheme)
    _check_options(scheme, factory, options)
    secrets = tuple(secrets_in(url, options))
    store = _made(
        factory, scheme + url[len(scheme) :], options, f"{scheme}:// of {owner}", Mask(secrets)
    )
    store._mask = store._mask.hiding(secrets)
    return store


def known_options(url: str) -> Sequence[str] | None:
    """Returns the names of the options that the store of a URL takes; ``None`` if any.

    Raises:
        ConfigurationError: The URL names no store, or its package is missing.
    """
    return _options(_find(_scheme(url))[0])


def _made(
    factory: Callable[..., object], url: str, options: dict[str, Any], what: str, mask: Mask
) -> StateStorage:
    """Makes a store, perhaps somebody else's, whose errors need not mind what they show."""
    try:
        store = getattr(factory, "from_url", factory)(url, **options)
    except StorageError as error:
        raise mask.apply(error)  # noqa: B904 - it is the same
    except Exception as error:
        text = f"{what} cannot be made: {type(error).__name__}: {error}"
        if mask.shows_nothing(error):
            raise
        raise ConfigurationError(mask(text)) from None
    if not isinstance(store, StateStorage):
        raise ConfigurationError(f"{what} gave a {type(store).__name__} instead of a StateStorage")
    return store


def resolve_url(url: str) -> str:
    """Returns a URL with the values of the variables of the environment in it."""
    # In the URL as it was written, before any value is in it.
    begin, end = login_in(url)
    query = url.find("?")

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:  # what follows is not shown: it may be a part of a password
            raise ConfigurationError(
                "'${' in the URL of a store begins a variable of the environment, as in "
                "'${NAME}'; '%24{' stands for the two characters themselves"
            )
        if name not in os.environ:
            raise ConfigurationError(
                f"the URL of a store needs the environment variable {name!r}, which is not set"
            )
        if begin <= match.start() < end or 0 <= query < match.start():
            return quote_from_bytes(os.fsencode(os.environ[name]), safe="")
        return os.environ[name]

    return re.sub(r"\$\{(?:([A-Za-z_][A-Za-z0-9_]*)\})?", value, url)


def _scheme(url: object) -> str:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url) if isinstance(url, str) else None
    if match is None:
        # The URL itself is not shown: it may hold a password.
        raise ConfigurationError(
            "a store is opened by a URL such as 'sqlite:///run/states.db', "
            f"got {'text without a scheme' if isinstance(url, str) else type(url).__name__}"
        )
    return match[1].lower()


# ---------------------------------------------------------------- whose store it is


def _find(scheme: str) -> tuple[Callable[..., object], str]:
    """Returns the class or function for a scheme, and the name of the package it is from."""
    for name in dict.fromkeys((scheme, scheme.partition("+")[0])):
        if name in _BUILT_IN:
            _warn_of_namesakes(name)
            return _load_built_in(name), "salmon-state"
        offers = [offer for offer in _offers() if offer.name.lower() == name]
        if offers:
            return _load(name, offers), _owner(offers[0])
    known = sorted({*_BUILT_IN, *(offer.name.lower() for offer in _offers())})
    raise ConfigurationError(
        f"unknown scheme {scheme!r} in the URL of a store: {_meant(scheme, known)}known: "
        f"{', '.join(f'{name}://' for name in known)}; "
        f"others come with packages that have an entry point in {_GROUP!r}"
    )


def _meant(scheme: str, known: list[str]) -> str:
    base, plus, driver = scheme.partition("+")
    meant = closest(scheme, known)
    if plus and (meant is None or "+" not in meant) and closest(base, known):
        meant = f"{closest(base, known)}+{driver}"
    return f"did you mean {meant}://? " if meant else ""


def _offers() -> list[EntryPoint]:
    try:
        return list(entry_points(group=_GROUP))
    except OSError as error:  # no descriptors are left
        raise StorageUnavailable(f"cannot read which stores are installed: {error}") from error


def _owner(offer: EntryPoint) -> str:
    return offer.dist.name if offer.dist and offer.dist.name else "an unknown package"


def _warn_of_namesakes(name: str) -> None:
    if name not in _compared:
        _compared.add(name)
        for offer in _offers():
            if offer.name.lower() == name:
                own = "%s:// is the store of salmon-state; that of the package %s is not used"
                log().warning(own, name, _owner(offer))


def _load_built_in(name: str) -> Callable[..., object]:
    target = _BUILT_IN[name]
    module, _, attribute = target.partition(":")
    try:
        factory: Callable[..., object] = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        if target not in _DRIVERS or (error.name or "").partition(".")[0] == "salmon_state":
            raise
        raise ConfigurationError(
            f"{name}:// needs the package {error.name!r}: pip install '{_DRIVERS[target]}'"
        ) from error
    return factory


def _load(name: str, offers: list[EntryPoint]) -> Callable[..., object]:
    if len(offers) > 1:
        owners = ", ".join(sorted(map(_owner, offers)))
        raise ConfigurationError(f"{name}:// is offered by several packages: {owners}: keep one")
    what = f"{name}:// comes with the package {_owner(offers[0])}, whose {offers[0].value!r}"
    try:
        factory: Callable[..., object] = offers[0].load()
    except Exception as error:  # importing somebody's module may raise anything
        raise ConfigurationError(
            f"{what} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    is_store = not isinstance(factory, type) or issubclass(factory, StateStorage)
    if not is_store or not callable(factory):
        raise ConfigurationError(f"{what} is neither a subclass of StateStorage nor a function")
    return factory


def _options(factory: Callable[..., object]) -> Sequence[str] | None:
    known = options_of(getattr(factory, "from_url", factory))
    # If that takes any, it hands them on to the class.
    return options_of(factory) if known is None else known


def _check_options(scheme: str, factory: Callable[..., object], options: dict[str, Any]) -> None:
    known = _options(factory)
    for option in options:
        if known is not None and option not in known:
            meant = closest(option, known)
            question = f"did you mean {meant!r}? " if meant else ""
            raise ConfigurationError(
                f"{scheme}:// has no option {option!r}: {question}"
                f"known: {', '.join(known) or 'none'}"
            )
