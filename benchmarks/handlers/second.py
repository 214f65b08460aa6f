"""Three states of an address that three modules share; this is the second of them."""

from typing import Any

from salmon.routing import route

handled = [0]
"""How many mails were handled."""


@route("shared@(host)", host=".+")
def START(message: Any, host: str) -> Any:  # noqa: N802 - a state
    handled[0] += 1
    return SECOND


@route("shared@(host)", host=".+")
def SECOND(message: Any, host: str) -> Any:  # noqa: N802 - a state
    handled[0] += 1
    return THIRD


@route("shared@(host)", host=".+")
def THIRD(message: Any, host: str) -> Any:  # noqa: N802 - a state
    handled[0] += 1
    return SECOND
