"""What a user of the server must be allowed: the commands that docs/redis.md names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from salmon_state import ConfigurationError
from salmon_state.entries import EVERY, Kind, Where, Write
from salmon_state.stores.redis import RedisStorage
from salmon_state.testing.suite import everything
from tests.documentation import CHECKOUT
from tests.redis_services import RedisServer
from tests.stores.redis.test_entries import use_everything

ANNA = "anna@example.com"


def commands_for(*uses: str) -> list[str]:
    """Returns the commands in the rows of the page's table that begin so."""
    text = (CHECKOUT / "docs" / "redis.md").read_text()
    rows = re.findall(r"^\| (.+) \| (`[A-Z].*`) \|$", text, flags=re.MULTILINE)
    found = [row for use in uses for row in rows if row[0].startswith(use)]
    assert len(found) == len(uses)
    return [command for _, names in found for command in re.findall(r"`([A-Z_ ]+)`", names)]


@contextmanager
def opened(
    server: RedisServer, raw: Any, prefix: str, *uses: str, database: int = 0, **options: Any
) -> Iterator[RedisStorage]:
    """Gives the store of a user who may do what is needed for some uses."""
    allowed = [f"+{command.replace(' ', '|')}" for command in commands_for(*uses)]
    keys = [f"{re.sub('[^a-z0-9]', '?', prefix)}:*"]
    raw.acl_setuser("narrow", True, passwords=["+p"], keys=keys, commands=allowed)
    try:
        url = server.url(user="narrow", password="p", db=database)
        with RedisStorage(url, prefix=prefix, **options) as store:
            yield store
    finally:
        raw.acl_deluser("narrow")


@pytest.mark.parametrize("database", [0, 1])
def test_states(server: RedisServer, raw: Any, prefix: str, database: int) -> None:
    uses = ["states", "a database"] if database else ["states"]
    with opened(server, raw, prefix, *uses, database=database, ttl=60) as store:
        use_everything(store)
        store.ping()


def test_entries_of_other_kinds(server: RedisServer, raw: Any, prefix: str) -> None:
    with opened(server, raw, prefix, "states", "entries of other") as store:
        for first in (0, 1500):
            new = range(first, first + 1500)
            store._commit(Write(Kind.OUTGOING, ANNA, str(n), b"mail", n) for n in new)
        assert len(store._claim(Kind.OUTGOING, 10**9, 7)) == 7
        assert len(store._load(ANNA, [(Kind.OUTGOING, EVERY)])) == store._count(Kind.OUTGOING)
        assert len(store._load(ANNA, [(Kind.OUTGOING, "1")])) == 1
        assert len(everything(store, Kind.OUTGOING, Where(before=1000))) == 993
        assert list(store.check()) == []
        assert len(list(store.export(ANNA))) == store.erase(ANNA) == 3000


def test_an_index(server: RedisServer, raw: Any, prefix: str) -> None:
    with opened(server, raw, prefix, "states", "an index", indexes=True) as store:
        use_everything(store)
        store.ping()


def test_a_user_who_may_not_write(server: RedisServer, raw: Any, prefix: str) -> None:
    """Nobody waits for that to change by itself: neither of a command, nor of one in a script."""
    states = commands_for("states")
    for missing, indexes in (("EVALSHA", False), ("HDEL", False), ("ZADD", True)):
        allowed = [f"+{command}" for command in states if command != missing]
        raw.acl_setuser("narrow", True, reset=True, passwords=["+p"], keys=["*"], commands=allowed)
        with pytest.raises(ConfigurationError):
            RedisStorage(server.url(user="narrow", password="p"), prefix=prefix, indexes=indexes)
    raw.acl_deluser("narrow")


def test_a_doctor_and_a_pause(server: RedisServer, raw: Any, prefix: str) -> None:
    uses = ("states", "entries of other", "`salmon-state doctor`", "`paused()`")
    with opened(server, raw, prefix, *uses) as store:
        with store.conversation(ANNA):
            assert any(finding.check == "locks" for finding in store.diagnose())
        with store.paused():
            assert list(store.check()) == []


def test_options(server: RedisServer, raw: Any, prefix: str) -> None:
    with opened(server, raw, prefix, "states", "the options") as store:
        url = server.url(user="narrow", password="p") + "?client_name=mail&health_check_interval=1"
        with RedisStorage(url, prefix=store._prefix) as named:
            use_everything(named)
