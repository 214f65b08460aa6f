"""A handler whose conversations are kept apart by recipient: a ``@state_key_generator``."""
# ruff: noqa: N802 - Salmon's states are functions in capital letters

from __future__ import annotations

from typing import Any

from salmon.routing import route, route_like, state_key_generator

__all__ = ["MET", "START", "by_recipient"]


@state_key_generator
def by_recipient(module_name: str, message: Any) -> str:
    """Returns a key for each recipient that somebody writes to."""
    return f"{module_name}:{message['to']}"


@route("(room)-room@(host)", room="[a-z]+", host=".+")
def START(message: Any, room: str, host: str) -> Any:
    """Somebody enters a room."""
    return MET


@route_like(START)
def MET(message: Any, room: str, host: str) -> Any:
    """Somebody is in a room already, and leaves it."""
    return START
