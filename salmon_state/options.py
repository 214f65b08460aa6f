"""What a store is given: the path in its URL, and options that there are not or cannot be so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl

from salmon_state.errors import ConfigurationError
from salmon_state.masking import is_secret

__all__ = ["check_number", "check_query", "closest", "did_you_mean", "options_of", "path_of"]

_EXPECTED: Mapping[object, str] = {float: "a number", int: "a whole number", bool: "true or false"}
_TRUTHS = frozenset(["true", "false", "yes", "no", "on", "off", "y", "n", "t", "f", "1", "0"])


def options_of(factory: Callable[..., object]) -> list[str] | None:
    """Returns the names of a store's options, or ``None`` if it takes whatever it is given."""
    parameters = list(inspect.signature(factory).parameters.values())
    if parameters and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY:
        del parameters[0]  # the URL, or what `from_url` makes of it
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]


def closest(given: str, known: Iterable[str]) -> str | None:
    """Returns the known name that somebody probably meant, if there is one."""
    found = get_close_matches(given.lower(), sorted(known), n=1, cutoff=0.7)
    return found[0] if found else None


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Returns the question whether a known name was meant, or which there are."""
    meant = closest(given, known)
    return f"did you mean {meant!r}?" if meant else f"known: {', '.join(known) or 'none'}"


def check_number(name: str, value: Any, *, whole: bool = False, most: int = 10**6) -> None:
    """Raises `ConfigurationError` unless an option is a number above 0 and not too large.

    Args:
        name: That of the option.
        value: What it was given.
        whole: Whether it counts something, and is no number of seconds.
        most: The largest.
    """
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= most:
        what = "a whole number" if whole else "a number of seconds"
        raise ConfigurationError(f"{name} must be {what} above 0, at most {most:,}, got {value!r}")


def check_query(
    scheme: str,
    query: Iterable[tuple[str, Any]],
    known: Mapping[str, type],
    arguments: Iterable[str] = (),
) -> None:
    """Raises `ConfigurationError` if the query of a URL has an option that cannot work.

    Args:
        scheme: That of the URL.
        query: Names and values as they are given, decoded and in their order.
        known: The names that there are, and what their values must be: ``str``, ``int``,
            ``float`` or ``bool``.
        arguments: What the store is not told by its URL but by arguments.
    """
    after_password = False
    for name, value in query:
        if name not in known and after_password:
            raise ConfigurationError(
                f"a {scheme}:// URL has an option that there is not, and that is not shown as it "
                "may be the end of the password: percent-encode each '&' of the password"
            )
        if name not in known:
            raise ConfigurationError(_unknown(scheme, name, known, arguments))
        if not _fits(str(value), known[name]):
            expected, shown = _EXPECTED[known[name]], ascii(value)[:60]
            raise ConfigurationError(
                f"{name} in a {scheme}:// URL: expected {expected}, got {shown}"
            )
        after_password = after_password or is_secret(name)


def _unknown(scheme: str, name: str, known: Iterable[str], arguments: Iterable[str]) -> str:
    text = f"a {scheme}:// URL has no option {name[:50]!r}"
    meant = closest(name, {*known, *arguments})
    if meant is None or meant in known:
        return f"{text}: {did_you_mean(name, known)}"
    question = "" if meant == name else f"did you mean {meant!r}? "
    return f"{text}: {question}The store takes it as an argument: open_storage(url, {meant}=...)"


def _fits(text: str, kind: type) -> bool:
    if kind is bool:
        return text.strip().lower() in _TRUTHS
    try:
        kind(text)
    except ValueError:
        return False
    return True


def path_of(url: str, arguments: Iterable[str] = ()) -> str:
    """Returns the path in a URL whose scheme is followed by ``///path`` or ``////path``.

    >>> path_of("shelve:///run/states"), path_of("shelve:////var/lib/states")
    ('run/states', '/var/lib/states')

    Args:
        url: The URL.
        arguments: What the store takes as arguments; who gives one in the URL is told so.

    Raises:
        ConfigurationError: There is a host, a query or a fragment in it, or no path.
    """
    scheme, _, rest = url.partition(":")
    path, _, query = rest.partition("?")
    if path.startswith("///"):
        check_query(scheme, parse_qsl(query, keep_blank_values=True), {}, arguments)
    if query or "#" in rest:
        raise ConfigurationError(f"a {scheme}:// URL takes a path and nothing else")
    if not path.startswith("///") or len(path) == 3:
        raise ConfigurationError(
            f"a {scheme} URL needs three slashes and a relative path, or four and an absolute "
            f"one: {scheme}:///run/states or {scheme}:////var/lib/app/states"
        )
    return path[3:]
