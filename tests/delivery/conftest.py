"""Salmon's router and its receivers, and the database servers of this test run."""

from __future__ import annotations

from tests.delivery.receivers import receive  # noqa: F401 - they are fixtures
from tests.delivery.router import router  # noqa: F401
