"""The database goes away under running mail servers: nobody's mail is lost, or handled twice."""

from __future__ import annotations

import mailbox
import smtplib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import AllSent, Serve, States
from tests.end_to_end.conversation import ask, confirm
from tests.end_to_end.mail_server import HANG, MailServer, wait_until
from tests.redis_services import RedisServer
from tests.services import MariaDBServer, PostgreSQLServer

ANNA, BEN, CARL, DORA = (f"{name}@example.com" for name in ("anna", "ben", "carl", "dora"))
Database = PostgreSQLServer | MariaDBServer | RedisServer
UNAVAILABLE = (451, b"4.3.0 State store unavailable, try again later")


@pytest.fixture(params=("postgresql", "mariadb", "redis_server"))
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Each kind of database server, which runs again when the test is over."""
    server: Database = request.getfixturevalue(request.param)
    yield server
    if server.process is None or server.process.poll() is not None:
        server.start()


@pytest.fixture
def state_url(database: Database) -> str:
    """An empty database."""
    return database.fresh_database()


def say(client: smtplib.SMTP, server: MailServer, person: str, to: str) -> tuple[int, bytes]:
    """Sends a mail on an open connection, which must be in order before and after it.

    A second line of a reply would be taken for the answer to what comes next.
    """
    client.ehlo_or_helo_if_needed()
    assert client.mail(person)[0] == 250
    assert client.rcpt(server.address(to))[0] == 250
    answer = client.data(f"From: {person}\r\nSubject: hi\r\n\r\nhello\r\n")
    assert client.noop()[0] == 250
    assert client.rset()[0] == 250
    return answer


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_same_mail_goes_through_afterwards(
    end: str, database: Database, serve: Serve, states: States, all_sent: AllSent
) -> None:
    one, other, queue = serve(), serve(receiver="lmtp"), serve(receiver="queue")
    confirm(one, ANNA, ask(other, ANNA))
    all_sent()
    spool = mailbox.Maildir(queue.directory / "run" / "queue")
    with (
        smtplib.SMTP("127.0.0.1", one.port, timeout=60) as smtp,
        smtplib.LMTP("127.0.0.1", other.port, timeout=60) as lmtp,
    ):
        mails = [
            (smtp, one, BEN, "news-subscribe"),
            (smtp, one, ANNA, "news"),
            (lmtp, other, CARL, "news-subscribe"),
        ]
        getattr(database, end)()
        queue.send(DORA, "news-subscribe")
        for _ in range(2):
            assert [say(*mail) for mail in mails] == [UNAVAILABLE] * 3
        wait_until(lambda: "will be tried again" in queue.output(), "the mail of the queue to wait")

        database.start()
        assert [say(*mail)[0] for mail in mails] == [250] * 3
    queue.wait_for_mail(DORA, "Please confirm")
    wait_until(lambda: len(spool) == 0, "the queue to be empty")

    expected = {ANNA: "POSTING", BEN: "CONFIRMING", CARL: "CONFIRMING", DORA: "CONFIRMING"}
    wait_until(lambda: states() == expected, "the last commit")
    # Only what was handled was answered: each person once, and Anna's post was sent to her.
    counts = [3, 1, 1, 1]
    wait_until(lambda: [len(one.mail_to(each)) for each in expected] == counts, "their mails")
    assert len(mailbox.Maildir(one.directory / "run" / "undeliverable")) == 0
    for server in (one, other, queue):
        assert "Traceback" not in server.output(), server.output()


def test_a_server_that_starts_waits_for_its_database(
    database: Database, tmp_path: Path, state_url: str
) -> None:
    database.stop()
    server = MailServer(tmp_path, state_url=state_url)
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        wait_until(lambda: "the store is away" in server.output(), "the server to try again")
        database.start()
        starting.join()
        confirm(server, ANNA, ask(server, ANNA))
    finally:
        starting.join()
        server.kill()


def test_a_server_whose_database_stays_away_ends(
    database: Database, tmp_path: Path, state_url: str
) -> None:
    database.stop()
    server = MailServer(tmp_path, state_url=state_url, STATE_PATIENCE="1")
    with pytest.raises(AssertionError, match="SALMON_STATE_URL: "):  # it is not ready: it ended
        server.start()
    assert server.process is not None
    assert server.process.wait(HANG) == 1
    assert "Traceback" not in server.output(), server.output()


def test_the_row_goes_with_the_state_through_an_outage(
    database: Database, serve: Serve, states: States, all_sent: AllSent
) -> None:
    server = serve()
    address = ask(server, ANNA)
    all_sent()
    with smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client:
        database.stop()
        assert say(client, server, ANNA, address) == UNAVAILABLE
        database.start()
        assert say(client, server, ANNA, address)[0] == 250
        assert say(client, server, ANNA, "news")[0] == 250
    server.wait_for_mail(ANNA, "hi")
    subjects = [str(mail["Subject"]) for mail in server.mail_to(ANNA)]
    assert subjects[1:] == ["Welcome to news", "hi"]
    assert states() == {ANNA: "POSTING"}
