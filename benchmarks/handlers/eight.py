"""Eight states of one address; the last one leads to the second."""

from typing import Any

from salmon.routing import route

handled = [0]
"""How many mails were handled."""


@route("eight@(host)", host=".+")
def START(message: Any, host: str) -> Any:  # noqa: N802 - a state
    handled[0] += 1
    return SECOND


@route("eight@(host)", host=".+")
def SECOND(message: Any, host: str) -> Any:  # noqa: N802 - a state
    handled[0] += 1
    return THIRD


@route("eight@(host)", host=".+")
def THIRD(message: Any, host: str) -> Any:  # noqa: N802 - a state
    handled[0] += 1
    return FOURTH


@route("eight@(host)", host=".+")
def FOURTH(message: Any, host: str) -> Any:  # noqa: N802 - a state
    handled[0] += 1
    return FIFTH


@route("eight@(host)", host=".+")
def FIFTH(message: Any, host: str) -> Any:  # noqa: N802 - a state
    handled[0] += 1
    return SIXTH


@route("eight@(host)", host=".+")
def SIXTH(message: Any, host: str) -> Any:  # noqa: N802 - a state
    handled[0] += 1
    return SEVENTH


@route("eight@(host)", host=".+")
def SEVENTH(message: Any, host: str) -> Any:  # noqa: N802 - a state
    handled[0] += 1
    return EIGHTH


@route("eight@(host)", host=".+")
def EIGHTH(message: Any, host: str) -> Any:  # noqa: N802 - a state
    handled[0] += 1
    return SECOND
