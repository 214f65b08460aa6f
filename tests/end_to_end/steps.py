"""Handlers of a server under test: each mail is a step, and its body may ask for more."""
# ruff: noqa: N802 - Salmon's states are functions in capital letters

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from salmon.mail import MailRequest
from salmon.routing import Router, route, route_like

HANG = 60.0


def meet(mine: str, other: str) -> None:
    """Tells in a file that this handler is inside, and waits for another file."""
    Path(mine).touch()
    deadline = time.monotonic() + HANG
    while not Path(other).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(other)
        time.sleep(0.005)


def do(message: Any) -> None:
    """Does what the body says: ``hold``, ``forward SENDER``, or nothing."""
    task, _, other = message.body().strip().partition(" ")
    if task == "hold":
        meet("inside", "go")
    elif task == "forward":
        meet(f"{message.From}.inside", f"{other}.inside")
        Router.deliver(MailRequest("local", other, message.To, "Subject: hi\n\nforwarded\n"))


@route("steps@(host)", host=".+")
def START(message: Any, host: str) -> Any:
    do(message)
    return ONE


@route_like(START)
def ONE(message: Any, host: str) -> Any:
    do(message)
    return TWO


@route_like(START)
def TWO(message: Any, host: str) -> Any:
    do(message)
    return START
