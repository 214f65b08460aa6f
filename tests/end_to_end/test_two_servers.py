"""Two mail servers that share their states: on PostgreSQL, on MariaDB and in Redis."""

from __future__ import annotations

import contextlib
import signal
import smtplib
import threading

import pytest

from salmon_state import open_storage
from salmon_state.mail.outbox import Outbox
from tests.end_to_end.conftest import AllSent, Serve, States
from tests.end_to_end.conversation import ask, bounce, confirm, leave, post, post_everywhere
from tests.end_to_end.mail_server import MailServer, wait_until
from tests.end_to_end.smtp_sink import SMTPSink
from tests.services import free_port

ANNA, BEN = "anna@example.com", "ben@example.com"


@pytest.fixture(params=("postgresql", "mariadb", "redis_server"))
def place(request: pytest.FixtureRequest) -> str:
    """The fixture of the server that has the states."""
    return str(request.param)


@pytest.fixture
def state_url(request: pytest.FixtureRequest, place: str) -> str:
    """An empty database."""
    return str(request.getfixturevalue(place).fresh_database())


@pytest.mark.parametrize(
    "place",
    [
        *("postgresql", "mariadb", "redis_server", "redis_sentinel"),
        pytest.param("redis_cluster", marks=pytest.mark.stress),
    ],
)
def test_a_whole_conversation_with_two_servers(serve: Serve, states: States) -> None:
    one, other = serve(), serve(receiver="lmtp")
    confirm(other, ANNA, ask(one, ANNA))
    confirm(one, BEN, ask(other, BEN))
    post(one, BEN, "from one", ANNA, BEN)
    post(other, ANNA, "from the other", ANNA, BEN)
    post_everywhere([one, other, one], ANNA, "to both at once", BEN)
    post_everywhere([other, one], BEN, "and again", ANNA)
    leave(other, ANNA)
    with pytest.raises(smtplib.SMTPDataError, match="Only subscribers can post"):
        one.send(ANNA, "news")
    post(one, BEN, "without Anna", BEN)
    assert not [mail for mail in one.mail_to(ANNA) if "without Anna" in mail.as_string()]
    assert states() == {BEN: "POSTING"}
    bounce(other, BEN)
    with pytest.raises(smtplib.SMTPDataError, match="Only subscribers can post"):
        one.send(BEN, "news")
    assert states() == {BEN: "SUSPENDED"}
    assert "Traceback" not in one.output() + other.output()


def test_the_conversation_goes_on_after_a_restart(serve: Serve, all_sent: AllSent) -> None:
    one, other = serve(), serve()
    address = ask(one, ANNA)
    one.stop(signal.SIGTERM)
    confirm(other, ANNA, address)
    all_sent()
    other.kill()

    one.start()
    post(one, ANNA, "Still here", ANNA)


def test_what_one_server_recorded_another_sends(serve: Serve, state_url: str) -> None:
    with SMTPSink() as sink, open_storage(state_url) as store:
        outbox = Outbox(store)
        one = serve(RELAY=f"127.0.0.1:{free_port()}")
        one.send(ANNA, "news-subscribe")
        wait_until(lambda: "the relay is down" in one.output(), "an attempt")
        # Otherwise the other one would have to wait for the end of the claim.
        wait_until(lambda: any(map(outbox.retry, outbox.pending())), "the claim to be given back")
        one.kill()
        serve(RELAY=sink.address)
        wait_until(lambda: sink.mails, "the mail")
    assert [mail[:2] for mail in sink.mails] == [("<>", f"<{ANNA}>")]


def test_whoever_heard_250_is_known_after_a_sigkill(serve: Serve, states: States) -> None:
    servers = [serve(), serve(receiver="lmtp")]
    heard: list[str] = []

    def write(server: MailServer) -> None:
        with contextlib.suppress(OSError):  # smtplib's errors are of this kind
            for number in range(100_000):
                server.send(f"{number}@{server.port}.example.com", "news-subscribe")
                heard.append(f"{number}@{server.port}.example.com")

    writers = [threading.Thread(target=write, args=(server,)) for server in servers]
    for writer in writers:
        writer.start()
    wait_until(lambda: len(heard) >= 20, "some mails to be taken")
    for server in servers:
        server.kill()
    for writer in writers:
        writer.join()

    found = states()
    assert [person for person in heard if found.get(person) != "CONFIRMING"] == []


def test_servers_that_start_on_an_empty_database_together(serve: Serve, states: States) -> None:
    servers: list[MailServer] = []
    starts = [threading.Thread(target=lambda: servers.append(serve())) for _ in range(3)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert len(servers) == 3
    confirm(servers[0], ANNA, ask(servers[1], ANNA))
    post(servers[2], ANNA, "all together", ANNA)
    assert states() == {ANNA: "POSTING"}
