"""What the kit counts while a test runs."""

from __future__ import annotations

from collections import Counter

__all__ = ["TALLY"]

TALLY: Counter[str] = Counter()
"""Processes that opened the store, those of them that were killed, and entries compared."""
