"""Reads settings from the environment, with errors that the person who set them can act on."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

__all__ = ["SettingsError", "choice", "host_and_port", "number", "port", "text", "word", "words"]


class SettingsError(SystemExit):
    """A setting that cannot work; its text is one line that says which one and what would.

    Salmon imports the settings itself and catches nothing. As a `SystemExit` this error ends
    ``salmon start`` with that line and a non-zero status instead of a traceback.
    """

    @classmethod
    def of(cls, name: str, given: str, expected: str) -> SettingsError:
        """Returns the error for a variable, what was given, and what was expected."""
        return cls(f"{name}: expected {expected}, got {given!r}")


def text(name: str, default: str = "") -> str:
    """Returns a variable without the spaces around it; an empty one counts as not set."""
    return os.environ.get(name, "").strip() or default


def choice(name: str, options: Sequence[str]) -> str:
    """Returns the one of the options that a variable names; the first is the default."""
    given = text(name, options[0])
    if given.lower() not in options:
        raise SettingsError.of(name, given, f"one of {', '.join(options)}")
    return given.lower()


def number(name: str, default: int, *, least: int = 1) -> int:
    """Returns the number, not negative, that a variable names."""
    given = text(name, str(default))
    if not re.fullmatch("0|[1-9][0-9]{0,17}", given) or int(given) < least:
        raise SettingsError.of(name, given, f"a whole number, {least} or more")
    return int(given)


def port(name: str, default: int) -> int:
    """Returns the TCP port that a variable names."""
    given = text(name, str(default))
    if not _is_port(given):
        raise SettingsError.of(name, given, "a TCP port between 1 and 65535")
    return int(given)


def host_and_port(name: str) -> tuple[str, int] | None:
    """Returns the host and the port in ``host:port``, or ``None`` if the variable is not set."""
    given = text(name)
    if not given:
        return None
    host, _, number = given.rpartition(":")
    expected = "host:port, such as 127.0.0.1:25 or [::1]:25"
    if not host or (":" in host and not host.startswith("[")):
        raise SettingsError.of(name, given, expected)
    if not _is_port(number):
        raise SettingsError.of(name, given, expected)
    return host.strip("[]"), int(number)


def word(name: str, default: str, pattern: str, expected: str) -> str:
    """Returns a variable in lower case, which must match a pattern."""
    given = text(name, default)
    if not re.fullmatch(pattern, given.lower(), re.ASCII):
        raise SettingsError.of(name, given, expected)
    return given.lower()


def words(name: str, default: str, pattern: str, expected: str) -> tuple[str, ...]:
    """Returns the comma-separated words of a variable in lower case, each matching a pattern."""
    given = text(name, default)
    found = tuple(each.strip().lower() for each in given.split(","))
    if not all(re.fullmatch(pattern, each, re.ASCII) for each in found):
        raise SettingsError.of(name, given, expected)
    return found


def _is_port(given: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", given) is not None and 1 <= int(given) <= 65535
