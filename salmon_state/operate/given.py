"""What is given before a command's name: the store, and for whom to print."""

from __future__ import annotations

import glob
import importlib
import sys
from email.utils import parseaddr
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from salmon_state.errors import ConfigurationError
from salmon_state.operate.output import as_json, shown
from salmon_state.registry import known_options, open_storage, resolve_url
from salmon_state.storage import StateStorage

__all__ = [
    "Given",
    "application_module",
    "configured",
    "confirm",
    "imported",
    "is_salmons_shelf",
    "open_existing",
    "state",
    "tell_if_nothing",
]

_IN_FILES = ("sqlite", "shelve")


class Given:
    """The options before the command; the store is opened when a command needs it.

    Attributes:
        url: That of the store; ``None`` for the application's own.
        to_json: Whether a program reads what is printed.
    """

    def __init__(self, url: str | None, *, to_json: bool) -> None:
        self.url = url
        self.to_json = to_json
        self._store: StateStorage | None = None

    @property
    def store(self) -> StateStorage:
        """The store, open until the command ends.

        Raises:
            click.UsageError: Nothing says which one.
            ConfigurationError: There is none, or its tables are to be migrated first.
            StorageError: It cannot be opened.
        """
        if self._store is None:
            protected = self.url is None and bool(configured("state_protect"))
            self._store = open_existing(self.which, **({"protect": True} if protected else {}))
        return self._store

    @property
    def which(self) -> str:
        """The URL of the store.

        Raises:
            click.UsageError: Nothing says which one.
        """
        return self.url or _configured()

    def say(self, sentence: str, **row: Any) -> None:
        """Prints what was done or found: a sentence for people, the row for programs."""
        click.echo(as_json(row) if self.to_json else sentence)

    def close(self) -> None:
        """Closes the store if a command needed it."""
        store, self._store = self._store, None
        if store is not None:
            store.close()


def state(text: str) -> str:
    """Returns the name of a handler function, as the type of what is given.

    Raises:
        click.BadParameter: It is empty.
    """
    if not text:
        raise click.BadParameter("expected the name of a handler function, such as POSTING")
    return text


def open_existing(url: str, **options: Any) -> StateStorage:
    """Opens a store that is there; makes no file and no table, as a misspelt URL would.

    Raises:
        ConfigurationError: There is none, or its tables are to be migrated first, or it is a shelf
            of Salmon's own, which would be converted under Salmon's hands.
        StorageError: It cannot be opened.
    """
    scheme, _, rest = resolve_url(url).partition(":///")
    path = Path(rest.partition("?")[0])
    if scheme.partition("+")[0].lower() in _IN_FILES and not any(
        path.parent.glob(f"{glob.escape(path.name)}*")
    ):
        raise ConfigurationError(
            f"there is no store at {str(path)!r}; if there shall be one: salmon-state migrate"
        )
    if is_salmons_shelf(url):
        raise ConfigurationError(
            f"{str(path)!r} is a shelf of Salmon's own store: salmon-state copy reads it, and "
            "leaves it as it is; salmon-state migrate converts it, while Salmon is stopped"
        )
    if "create" in (known_options(url) or ()):
        options["create"] = False
    return open_storage(url, **options)


def is_salmons_shelf(url: str) -> bool:
    """Returns whether a URL is that of a shelf of Salmon's own, in another form than ours."""
    scheme, _, path = resolve_url(url).partition(":///")
    if scheme.lower() != "shelve":
        return False
    from salmon_state.stores.shelf.flavours import find_old_shelves  # what others need not wait for

    return bool(find_old_shelves(Path(path)))


def application_module(name: str) -> ModuleType:
    """Returns a module of the application in the working directory.

    Raises:
        ImportError: It cannot be imported.
    """
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove("")


def imported(name: str) -> ModuleType:
    """Returns a module of the application that an operator named.

    Raises:
        click.ClickException: It cannot be imported, for whatever reason; the message says it.
    """
    try:
        return application_module(name)
    except Exception as error:
        text = f"{name} cannot be imported: {type(error).__name__}: {error}"
        raise click.ClickException(text) from error


def configured(name: str) -> object:
    """Returns what the settings of the application in the working directory say, or ``None``.

    Raises:
        click.ClickException: They cannot be imported.
    """
    try:
        settings = imported("config.settings")
    except click.ClickException as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and cause.name in ("config", "config.settings"):
            return None
        raise
    return getattr(settings, name, None)


def _configured() -> str:
    """Returns the URL in the settings of the application."""
    url = configured("state_url")
    if not isinstance(url, str):
        raise click.UsageError(
            "which store? Give --store URL, set SALMON_STATE_URL, or run this where "
            "config/settings.py has a state_url"
        )
    return url


def tell_if_nothing(found: int, sender: str) -> None:
    """Says that nothing is kept about somebody, and by what address mail is, if by another."""
    if found:
        return
    address = parseaddr(sender)[1].lower()
    other = (
        f"; Salmon knows that address as {shown(address)}" if address not in ("", sender) else ""
    )
    click.echo(f"nothing is kept about {shown(sender)}{other}", err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Asks before what cannot be undone.

    Raises:
        click.Abort: The answer is no.
        click.UsageError: Nobody is there to answer.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to ask: say --yes")
    click.confirm(question, abort=True, err=True)
