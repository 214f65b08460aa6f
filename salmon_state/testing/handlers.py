"""A small mailing list, whose states `salmon_state.testing.RouterSuite` watches."""
# ruff: noqa: N802 - Salmon's states are functions in capital letters

from __future__ import annotations

from typing import Any

from salmon.routing import route, route_like

from salmon_state.testing import keyed_handlers

__all__ = ["CONFIRMING", "ERROR", "POSTING", "START"]


@route("list@(host)", host=".+")
def START(message: Any, host: str) -> Any:
    """Anybody's first mail subscribes."""
    return CONFIRMING


@route_like(START)
def CONFIRMING(message: Any, host: str) -> Any:
    """A "yes" confirms; anything else leaves the conversation where it is."""
    return POSTING if "yes" in message.body() else None


@route_like(START)
def POSTING(message: Any, host: str) -> Any:
    """A subscriber posts, leaves, breaks the handler, or is sent to another module."""
    body = message.body()
    if "break" in body:
        raise RuntimeError("the handler broke")
    if "elsewhere" in body:
        return keyed_handlers.MET
    return START if "leave" in body else POSTING


@route_like(START)
def ERROR(message: Any, host: str) -> Any:
    """The next mail after an error begins again."""
    return START
