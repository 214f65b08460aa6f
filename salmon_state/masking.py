"""No password in anything that is shown: what is secret in a URL, and how texts go without it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from salmon_state.errors import ConfigurationError, StorageError

__all__ = ["Mask", "check_login", "is_secret", "login_in", "secrets_in"]

_Error = TypeVar("_Error", bound=StorageError)

_LOGIN = re.compile(r"[^:/?#]*://([^/?#]*)@")
_PLAIN = re.compile(r"[^:/?#]*:[^/?#@]*@[^@]*")
"""Behind ``://``: a user, a password and the rest, of which nothing else can be the password."""

_LONG = 8


def check_login(url: str) -> None:
    """Raises `ConfigurationError` if it cannot be told where the password in a URL ends.

    What follows its supposed end would be taken for the host, and shown.
    """
    rest = url.partition("://")[2]
    if rest.startswith("/") or "@" not in rest.partition(":")[2] or _PLAIN.fullmatch(rest):
        return
    raise ConfigurationError(
        "it cannot be told where the password in the URL of a store ends: percent-encode each "
        "'@' '/' '?' '#' and '%' of user and password, as urllib.parse.quote(password, safe='') "
        "does, and each other '@' that does not end the login; open_storage does it by itself for "
        "what it finds in the environment, as in 'redis://user:${PASSWORD}@host'"
    )


def login_in(url: str) -> tuple[int, int]:
    """Returns where user and password begin and end in a URL."""
    match = _LOGIN.match(url)
    return match.span(1) if match else (0, 0)


def is_secret(option: str) -> bool:
    """Returns whether the value of an option of this name is nobody's business."""
    return re.search("pass|secret|scram", option.lower()) is not None


def secrets_in(url: str, options: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Yields the passwords in a URL and in other options, as they are given and as they are."""
    begin, end = login_in(url)
    given = [url[begin:end].partition(":")[2]]
    for option in url.partition("?")[2].split("&"):
        name, _, value = option.partition("=")
        if is_secret(unquote_plus(name)):
            given.append(value)
    for value in given:
        yield from (value, unquote(value), unquote_plus(value))
    for name, option_value in (options or {}).items():
        if is_secret(name) and isinstance(option_value, str):
            yield option_value


class Mask:
    """Shows texts without some secrets.

    Of a short secret only what stands alone is hidden: ``p`` would garble ``OperationalError``,
    and tell by that what it is.

    >>> Mask(["hunter2"])("ValueError: no host in 'redis://anna:hunter2@'")
    "ValueError: no host in 'redis://anna:***@'"
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = frozenset(secrets) - {""}
        forms = {form for secret in self._secrets for form in _forms(secret)}
        longest_first = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_found, longest_first)) or r"(?!)")

    def __call__(self, text: str) -> str:
        """Returns a text in one line and without the secrets."""
        return " ".join(self.hide(text).split())

    def hide(self, text: str) -> str:
        """Returns a text without the secrets."""
        return self._pattern.sub("***", text)

    def hiding(self, secrets: Iterable[str]) -> Mask:
        """Returns a mask that hides these as well."""
        return Mask({*self._secrets, *secrets})

    def apply(self, error: _Error, cause: BaseException | None = None) -> _Error:
        """Returns an error that shows no secret, caused by the other one unless that shows one."""
        error.rewrite(self.hide)
        if cause is not None and cause is not error:
            error.__cause__ = cause
        if not all(map(self._says_none, _chain(error))):
            error.__cause__ = None
            error.__suppress_context__ = True
        return error

    def shows_nothing(self, error: BaseException) -> bool:
        """Returns whether neither an error nor what its traceback shows beside it has a secret."""
        return self._says_none(error) and all(map(self._says_none, _chain(error)))

    def _says_none(self, error: BaseException) -> bool:
        notes = getattr(error, "__notes__", ())
        return all(self.hide(text) == text for text in (str(error), repr(error), *notes))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields what a traceback would show beside an error."""
    seen = {id(error)}
    following: BaseException | None = error
    while following is not None:
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)
        if following is None or id(following) in seen:
            return
        seen.add(id(following))
        yield following


def _forms(secret: str) -> set[str]:
    """Returns how a secret may be written: in a URL, by ``repr``, by a driver."""
    encoded = {
        quoting(secret, safe=safe, errors="surrogatepass")
        for quoting in (quote, quote_plus)
        for safe in ("", "/")
    }
    escaped = secret.replace("\\", "\\\\")
    data = repr(secret.encode("utf-8", "surrogatepass"))[2:-1]
    return {
        *(secret, repr(secret)[1:-1], ascii(secret)[1:-1], data, *encoded),
        *(escaped, escaped.replace("'", "\\'"), escaped.replace('"', '\\"')),
    }


def _found(form: str) -> str:
    pattern = re.escape(form)
    if len(form) >= _LONG:
        return pattern
    before = r"(?<!\w)" if re.match(r"\w", form) else ""
    after = r"(?!\w)" if re.match(r"\w", form[-1]) else ""
    return before + pattern + after
