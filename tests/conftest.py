"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# The servers, once for the whole run and not once for each folder.
pytest_plugins = ["tests.services", "tests.redis_services"]

# Examples that failed once are not kept in the checkout: a failure prints how to repeat it.
settings.register_profile("salmon-state", database=None, print_blob=True)
settings.load_profile("salmon-state")
