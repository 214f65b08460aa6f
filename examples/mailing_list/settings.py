"""What the lists are; the application that runs them sets it before their first mail.

Here that is ``config/boot.py``, and ``config/testing.py`` for tests.
"""

from __future__ import annotations

from typing import Any

__all__ = ["list_domain", "list_names", "list_secret", "relay"]

list_names: tuple[str, ...] = ("news",)
list_domain = "lists.example.com"
list_secret = b""
"""Signs the tokens: at least 32 bytes that nobody else knows, the same on all servers."""
relay: Any = None
"""The `salmon_state.mail.outbox.Outbox` of the store."""
