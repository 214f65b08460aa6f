"""A handler that waits as for a network: for each mail, or for those of one sender in ten."""

from __future__ import annotations

import os
import time
from typing import Any

from salmon.routing import nolocking, route, stateless

WAITS = os.environ["BENCH_WAITS"]
"""``each`` 20 ms, ``tenth`` 50 ms for one sender in ten, or ``none``."""


@route("eight@(host)", host=".+")
@stateless
@nolocking
def wait(message: Any, host: str) -> None:
    number = int(message.From[1:].partition("@")[0])
    if WAITS == "each":
        time.sleep(0.02)
    elif WAITS == "tenth" and number % 10 == 0:
        time.sleep(0.05)
