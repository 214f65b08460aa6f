"""What all tests share."""

from __future__ import annotations

import gc
import os
import re
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# The servers, once for the whole run and not once for each folder.
pytest_plugins = ["tests.services", "tests.redis_services"]

# What ignores a signal has its processes ignore it, and a run does that begins with `nohup`, or in
# the background of a script: servers would not end that are told to. What handles it does not.
for number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

# What outlives a killed process on a disk outlives it in memory, where an fsync takes no time, and
# no test cuts the power. Not where that would take the memory away.
MEMORY = Path("/dev/shm")
ROOM = 8 * 2**30
"""Bytes that must be free; a run takes up to 3 GB."""


def _has_room(directory: Path) -> bool:
    if not os.access(directory, os.W_OK | os.X_OK):
        return False
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize > ROOM and not found.f_flag & os.ST_NOEXEC


# A socket's path has 107 bytes, of which pytest's directories and a test's name take up to 80.
if len(os.environ.get("TMPDIR", "")) > 25:
    del os.environ["TMPDIR"]
if "TMPDIR" not in os.environ and _has_room(MEMORY):
    os.environ["TMPDIR"] = str(MEMORY)
tempfile.tempdir = None  # pytest has already looked

# Where these are set, pytest writes out in full what is not equal: of all that the wrong stores
# fail at, on purpose, that takes twice as long as the tests.
for variable in ("CI", "BUILD_NUMBER"):
    os.environ.pop(variable, None)

# How long an example takes depends on what else the machine does. Examples that failed once are
# not kept in the checkout: a failure prints how to repeat it. In CI there are the same ones each
# time, as Hypothesis has it there by itself: what fails then is due to the change.
settings.register_profile(
    "salmon-state",
    deadline=None,
    derandomize=os.environ.get("REQUIRE_SERVICES") == "1",  # which is what CI sets
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
# each would run the kit over all the wrong stores, fill three databases with many rows, start
# the other Pythons, install the example.
TOGETHER = {
    "several Redis servers": r"stores/redis/|redis.*(cluster|sentinel)",
    "PostgreSQL with a standby": r"test_sqlalchemy_standby",
    "wrong stores in memory": r"test_the_kit_catches_in_memory",
    "wrong stores on disk": r"test_the_kit_catches_on_disk",
    "many rows": r"test_sqlalchemy_plans",
    "other Pythons": r"test_written_(there_and_read_here|here_and_read_there)\[",
    "an installed store": r"test_it_is_found_by_its_url|test_its_own_tests_run_where",
}


# What `make test-quick` leaves out, beside what is marked: whatever asks for a server by a fixture
# or by a parameter, what kills processes, what is about whole servers or the kit itself, and large.
SERVERS = {"postgresql", "mariadb", "redis_server", "redis_sentinel", "redis_cluster"}
SLOW = (
    r"kill|standby|end_to_end/|tests/testing/|stores/redis/(?!test_urls)"
    r"|stores/test_files|test_documentation|test_packaging|operate/test_(commands|terminal)"
    r"|test_written_(here|there)|many_in_one_commit|hundred_thousand|many_thousand"
)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks, and pytest the -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what is slow, and keeps in one process what shares something that takes long to make.

    The second only where there are several processes.
    """
    distributed = config.pluginmanager.has_plugin("xdist")
    for item in items:
        if _is_slow(item):
            item.add_marker(pytest.mark.slow)
        if not distributed:
            continue
        for group, pattern in TOGETHER.items():
            if re.search(pattern, item.nodeid, re.IGNORECASE):
                item.add_marker(pytest.mark.xdist_group(group))
                break


def pytest_collection_finish() -> None:
    """Leaves the seven thousand tests out of each later collection of garbage: they stay.

    Python looks for garbage after 700 new objects; the tests take a twentieth less time if it
    looks seldom.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _is_slow(item: pytest.Item) -> bool:
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    asked = {value for value in parameters if type(value) is str}
    asked.update(getattr(item, "fixturenames", ()))
    return bool(asked & SERVERS or re.search(SLOW, item.nodeid))
