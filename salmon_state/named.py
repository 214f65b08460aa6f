"""Named stores: a program asks for one by its name, and its configuration says what that is."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from salmon_state.errors import ConfigurationError
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.log import log
from salmon_state.registry import open_storage
from salmon_state.storage import StateStorage

__all__ = ["close_all", "configure", "named_storage"]

_KEYS = ("url", "options", "alias")


@dataclass(repr=False)  # there may be a password in the URL
class _Named:
    """One configured store; its aliases have the same object."""

    name: str
    url: str
    options: dict[str, Any]
    store: StateStorage | None = field(default=None, compare=False)


_lock = threading.RLock()  # held while a store is opened, and by a store that opens another one
_named: dict[str, _Named] = {}  # replaced and never changed, so that it is read without the lock
_inherited: list[StateStorage | None] = []


def configure(stores: Mapping[str, str | Mapping[str, Any]]) -> None:
    """Says which stores there are; `named_storage` opens them.

    >>> configure({
    ...     "main": "memory://",
    ...     "archive": {"url": "memory://", "options": {"protect": True}},
    ...     "bounces": {"alias": "main"},
    ... })
    >>> named_storage("bounces") is named_storage("main")
    True

    It replaces what was configured before: a store whose name, URL and options are the same stays
    open, and any other one is closed. Nothing is opened or imported here.

    Args:
        stores: For each name a URL as for `open_storage`, or a mapping with ``url`` and perhaps
            ``options``, the store's keyword arguments; or one with ``alias``, another name for
            the same store.

    Raises:
        ConfigurationError: An unknown key, an alias of nothing or of itself, or something that is
            neither URL nor mapping; what was configured before goes on.
    """
    global _named
    if not isinstance(stores, Mapping):
        raise ConfigurationError(f"expected a mapping of names, got {type(stores).__name__}")
    given = {name: _checked(name, store) for name, store in stores.items()}
    with _lock:
        before, resolved = _named, {name: _resolved(name, given) for name in given}
        kept = {named.name: named for named in before.values() if named in resolved.values()}
        _named = {name: kept.get(named.name, named) for name, named in resolved.items()}
        _close(named for named in before.values() if named.name not in kept)


def named_storage(name: str) -> StateStorage:
    """Returns the store of a name: for each name one in this process, opened on first use.

    It may be called from any thread. A child that was forked opens stores of its own, and what
    its parent has open stays the parent's. A store that somebody closed is opened again. All are
    closed when the process ends.

    Raises:
        ConfigurationError: Nothing has this name, or what `open_storage` raises; the message
            lists the names that there are.
        StorageUnavailable: The store cannot be reached now; the next call tries again.
    """
    named = _named.get(name)
    store = named and named.store
    if store and not store._closed:
        return store
    with _lock:
        named = _named.get(name)  # which may have been configured anew while this thread waited
        if named is None:
            known = ", ".join(sorted(_named)) or "none, because configure() was not called"
            raise ConfigurationError(f"no store is named {_shown(name)}: known: {known}")
        if named.store is None or named.store._closed:
            try:
                named.store = open_storage(named.url, **named.options)
            except ConfigurationError as error:
                error.rewrite(lambda text: f"store {name!r}: {text}")
                raise
        return named.store


def close_all() -> None:
    """Closes what `named_storage` opened, as the end of the process does; it opens it again."""
    with _lock:
        _close(_named.values())


def _close(stores: Iterable[_Named]) -> None:
    for named in stores:
        store, named.store = named.store, None
        if store is not None:
            try:
                store.close()
            except Exception as error:  # noqa: BLE001 - the other stores still have to be closed
                # No traceback: what a driver says may have a password in it.
                kind = type(error.__cause__ or error).__name__
                log().warning("%r could not be closed: %s", store, kind)


def _checked(name: object, given: object) -> _Named | str:
    """Returns a configured store, or the name that it is an alias of."""
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"the name of a store must be a non-empty str, not {name!r}")
    keys = {"url": given} if isinstance(given, str) else given
    if not isinstance(keys, Mapping):
        kind = type(keys).__name__
        raise ConfigurationError(f"store {name!r}: expected a URL or a mapping, got {kind}")
    for key in keys:
        if key not in _KEYS:
            raise ConfigurationError(
                f"store {name!r}: unknown key {key!r}: known: {', '.join(_KEYS)}; "
                "what the store's class takes belongs into options"
            )
    url, options, alias = keys.get("url"), keys.get("options", {}), keys.get("alias")
    if isinstance(alias, str) and len(keys) == 1:
        return alias
    if isinstance(url, str) and isinstance(options, Mapping) and "alias" not in keys:
        return _Named(name, url, dict(options))
    raise ConfigurationError(
        f"store {name!r}: expected a text as url, perhaps with a mapping as options, "
        "or a text as alias and nothing else"
    )


def _resolved(name: str, given: Mapping[str, _Named | str]) -> _Named:
    """Follows the aliases from a name to the store that they mean."""
    way = [name]
    while isinstance(found := given.get(way[-1]), str):
        if found in way:
            raise ConfigurationError(f"aliases that go round: {' → '.join([*way, found])}")
        way.append(found)
    if found is None:
        raise ConfigurationError(
            f"store {way[-2]!r} is an alias of {_shown(way[-1])}, which is not configured"
        )
    return found


def _shown(name: object) -> str:
    return "a URL" if isinstance(name, str) and "://" in name else repr(name)


class _Stores(Forkable):
    """What a fork is told of."""

    def after_fork(self, *, child: bool) -> None:
        """Gives a forked child stores of its own: two processes cannot share a connection."""
        global _lock
        if not child:
            return
        _lock = threading.RLock()  # another thread of the parent may have held it
        for named in _named.values():
            # Kept: a driver's destructor may say goodbye to the server in the parent's name.
            _inherited.append(named.store)
            named.store = None


_stores = _Stores()
_watch = ForkWatch()
_watch.add(_stores)
atexit.register(close_all)
