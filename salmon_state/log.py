"""The logger ``salmon_state``, which says what happened whatever was configured meanwhile."""

from __future__ import annotations

import logging

__all__ = ["log"]

_LOGGER = logging.getLogger("salmon_state")
_WITNESS = logging.getLogger("salmon_state.witness")
"""Logs nothing; only what disables every logger that it does not know disables this one."""


def log() -> logging.Logger:
    """Returns the logger, which an application may configure like any other.

    Ask for it whenever there is something to say, and do not keep it. ``fileConfig`` and
    ``dictConfig`` disable all loggers that were made before and that they do not name, and the
    ``boot.py`` that ``salmon gen`` makes calls ``fileConfig`` after its imports: an outage would
    leave no trace. That is undone here. What was meant for this logger stays: its level, its
    handlers, and ``disabled`` if somebody set it for this one only.
    """
    if _WITNESS.disabled:
        _WITNESS.disabled = _LOGGER.disabled = False
    return _LOGGER
