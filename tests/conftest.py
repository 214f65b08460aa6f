"""What all tests share."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, Phase, settings

# The servers, once for the whole run and not once for each folder.
pytest_plugins = ["tests.services", "tests.redis_services"]

# How long an example takes depends on what else the machine does. Examples that failed once are
# not kept in the checkout: a failure prints how to repeat it.
settings.register_profile(
    "salmon-state",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
    print_blob=True,
)
settings.load_profile("salmon-state")

# For the kit over wrong stores: what was found need not be made small, which takes most of the
# time. Not loaded here, and by no module, because that would hold for all tests after it.
settings.register_profile(
    "find-only",
    settings.get_profile("salmon-state"),
    phases=[Phase.generate],
    report_multiple_bugs=False,
)


# Each process that runs tests starts its own servers, and a cluster has six, Sentinel four; and
# each would run the kit over all the wrong stores.
TOGETHER = {
    "several Redis servers": r"stores/redis/(?!test_kit)|redis.*(cluster|sentinel)",
    "PostgreSQL with a standby": r"test_sqlalchemy_standby",
    "wrong stores": r"test_wrong_stores",
    "wrong conversations": r"test_wrong_conversations",
}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps tests in one process that share something which takes long to make."""
    if not config.pluginmanager.has_plugin("xdist"):
        return
    for item in items:
        for group, pattern in TOGETHER.items():
            if re.search(pattern, item.nodeid, re.IGNORECASE):
                item.add_marker(pytest.mark.xdist_group(group))
                break
