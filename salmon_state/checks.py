"""What the public methods accept; everything else is an error that names it.

Each check returns plain text: a subclass of ``str`` could compare or print as it likes.
"""

from __future__ import annotations

from datetime import timedelta

from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.keys import Sender

__all__ = [
    "check_idle_time",
    "check_lifetime",
    "check_seconds",
    "plain_module",
    "plain_sender",
    "plain_state",
]

_LONGEST_LIFE = timedelta(days=36_500)
"""After which a calendar may end."""


def plain_module(module: object) -> str:
    """Returns a module, or raises `TypeError`."""
    if not isinstance(module, str):
        raise TypeError(f"module must be a str such as 'app.handlers', not {_shown(module)}")
    return str.__str__(module)


def plain_sender(sender: object) -> Sender:
    """Returns a sender, or raises `TypeError`."""
    if sender is None:
        return None
    if not isinstance(sender, str):
        raise TypeError(f"sender must be a str or None, not {_shown(sender)}")
    return str.__str__(sender)


def plain_state(state: object, what: str = "state") -> str:
    """Returns a state, or raises `TypeError` or, if it is empty, `ValueError`."""
    if not isinstance(state, str):
        name = getattr(state, "__name__", None)
        hint = f"; give the function's name, {name!r}" if callable(state) and name else ""
        raise TypeError(f"{what} must be a non-empty str, not {_shown(state)}{hint}")
    if not state:
        raise ValueError(
            f"{what} must be a non-empty str, not ''; "
            f"to send the conversation back to its first state, give {ROUTE_FIRST_STATE!r}"
        )
    return str.__str__(state)


def check_seconds(name: str, seconds: object, *, positive: bool = False) -> None:
    """Raises `TypeError` or `ValueError` unless it is a number of seconds from 0 on, or above."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {_shown(seconds)}")
    if not (seconds > 0 if positive else seconds >= 0):
        least = "more than 0" if positive else "0 or more"
        raise ValueError(f"{name} must be {least} seconds, got {seconds}")


def check_idle_time(older_than: object) -> None:
    """Raises `TypeError` or `ValueError` unless it is a ``timedelta`` that is not negative."""
    if not isinstance(older_than, timedelta):
        raise TypeError(f"older_than must be a datetime.timedelta, not {_shown(older_than)}")
    if older_than < timedelta(0):
        raise ValueError(f"older_than must not be negative, got {older_than}")


def check_lifetime(name: str, lifetime: object) -> None:
    """Raises `TypeError` or `ValueError` unless it is a ``timedelta`` of up to 100 years."""
    if not isinstance(lifetime, timedelta):
        raise TypeError(f"{name} must be a datetime.timedelta, not {_shown(lifetime)}")
    if not timedelta(0) < lifetime <= _LONGEST_LIFE:
        raise ValueError(f"{name} must be more than nothing and up to 100 years, got {lifetime}")


def _shown(value: object) -> str:
    text = ascii(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
