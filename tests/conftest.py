"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

# The servers, once for the whole run and not once for each folder.
pytest_plugins = ["tests.services", "tests.redis_services"]

# Examples that failed once are not kept in the checkout: a failure prints how to repeat it.
settings.register_profile("salmon-state", database=None, print_blob=True)
settings.load_profile("salmon-state")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests of a cluster, and those of Sentinel, in one process each.

    Every process that runs tests starts its own servers, and these are six and four.
    """
    for item in items:
        name = item.nodeid.lower()
        for kind in ("cluster", "sentinel"):
            if "stores/redis" in name and kind in name and config.pluginmanager.has_plugin("xdist"):
                item.add_marker(pytest.mark.xdist_group(kind))
