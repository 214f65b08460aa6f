"""An application made by ``salmon gen``: three lines, and nothing that happens is invisible."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.generated import GeneratedServer
from tests.redis_services import RedisServer

UNAVAILABLE = (451, b"4.3.0 State store unavailable, try again later")


@pytest.fixture
def application(tmp_path: Path, redis_server: RedisServer) -> Iterator[GeneratedServer]:
    server = GeneratedServer(tmp_path, redis_server.fresh_database())
    server.start()
    yield server
    server.kill()
    if redis_server.process is None or redis_server.process.poll() is not None:
        redis_server.start()


def test_an_outage_is_in_its_log(application: GeneratedServer, redis_server: RedisServer) -> None:
    log = application.directory / "logs" / "salmon.log"
    application.send("anna@example.com", "somebody@example.com")
    assert "salmon_state" not in log.read_text()
    redis_server.kill()
    with pytest.raises(smtplib.SMTPDataError) as refused:
        application.send("anna@example.com", "somebody@example.com")
    assert refused.value.args == UNAVAILABLE
    (reason,) = [line for line in log.read_text().splitlines() if "salmon_state" in line]
    assert f"- salmon_state - ERROR - <RedisStorage redis://:***@127.0.0.1:{redis_server.port}" in (
        reason
    )
    assert "refused" in reason
    redis_server.start()
    application.send("anna@example.com", "somebody@example.com")
