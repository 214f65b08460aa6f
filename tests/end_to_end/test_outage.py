"""Real servers whose database or whose own process is taken away in the middle of mails."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from salmon_state import StateStorage, open_storage
from salmon_state.testing.mails import can_enter
from salmon_state.testing.suite import contents
from tests.delivery.receivers import Client
from tests.end_to_end import steps
from tests.end_to_end.mail_server import wait_until
from tests.salmon_server import SalmonServer

ANNA, BEN = "anna@example.com", "ben@example.com"
UNAVAILABLE = [b"451 4.3.0 State store unavailable, try again later\r\n"]
BUSY = [b"451 4.3.0 Conversation busy, try again later\r\n"]
FREED_WITHIN = 10.0
"""Seconds after the death of a server within which another one gets its locks."""

Serve = Callable[[str, str], SalmonServer]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Gives a function that starts a server for a URL."""
    servers: list[SalmonServer] = []

    def start(kind: str, url: str) -> SalmonServer:
        times: dict[str, Any] = {"timeout": 2.0, "lock_timeout": 0.5}
        servers.append(SalmonServer(tmp_path, kind, url, steps.__name__, **times))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.fixture
def connect() -> Iterator[Callable[[SalmonServer], Client]]:
    """Gives a function that connects to a server."""
    clients: list[Client] = []

    def start(server: SalmonServer) -> Client:
        clients.append(Client(server.kind, server.port))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


@pytest.fixture(params=["postgresql", "mariadb", "redis_server"])
def database(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A database server that may be stopped and killed."""
    server = request.getfixturevalue(request.param)
    yield server
    server.resume()
    if server.process.poll() is not None:
        server.start()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb", "redis_server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the servers of a test keep their states together."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/states.db"
    fresh: str = request.getfixturevalue(request.param).fresh_database()
    return fresh


def state_of(store: StateStorage, sender: str) -> str:
    return store.get(steps.__name__, sender)


def is_taken(answers: list[bytes]) -> bool:
    return len(answers) == 1 and answers[0].startswith(b"250")


# ---------------------------------------------------------------- the database goes


@pytest.mark.parametrize(("kind", "end"), [("smtp", "stop"), ("lmtp", "kill")])
def test_the_database_is_gone_for_a_while(
    database: Any, serve: Serve, connect: Callable[[SalmonServer], Client], kind: str, end: str
) -> None:
    url = database.fresh_database()
    server = serve(kind, url)
    client = connect(server)
    assert is_taken(client.send(ANNA, "steps@x"))
    getattr(database, end)()
    for sender in (ANNA, BEN, ANNA):
        assert client.send(sender, "steps@x") == UNAVAILABLE
    database.start()
    assert is_taken(client.send(ANNA, "steps@x"))
    assert is_taken(client.send(BEN, "steps@x"))
    with open_storage(url) as store:
        assert (state_of(store, ANNA), state_of(store, BEN)) == ("TWO", "ONE")
    assert "Traceback" not in server.log()


# Not Redis, which comes back with the sender's lease: the mail has to come again until it ends.
SQL = pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)


@SQL
def test_the_database_dies_while_a_handler_runs(
    database: Any, serve: Serve, connect: Callable[[SalmonServer], Client], tmp_path: Path
) -> None:
    url = database.fresh_database()
    client = connect(serve("smtp", url))
    answers: list[list[bytes]] = []
    sending = threading.Thread(target=lambda: answers.append(client.send(ANNA, "steps@x", "hold")))
    sending.start()
    wait_until((tmp_path / "inside").exists, "the handler to run")
    database.kill()
    (tmp_path / "go").touch()
    sending.join(60)
    assert answers == [UNAVAILABLE]
    database.start()
    with open_storage(url) as store:
        assert contents(store) == {}
        assert is_taken(client.send(ANNA, "steps@x", "hold"))  # it comes again
        assert state_of(store, ANNA) == "ONE"


@SQL
def test_a_database_that_says_nothing(
    database: Any, serve: Serve, connect: Callable[[SalmonServer], Client]
) -> None:
    """The client is told to come again in bounded time, and not kept waiting for ever."""
    url = database.fresh_database()
    client = connect(serve("smtp", url))
    assert is_taken(client.send(ANNA, "steps@x"))
    database.pause()
    assert client.send(ANNA, "steps@x") == UNAVAILABLE
    database.resume()
    assert is_taken(client.send(ANNA, "steps@x"))
    with open_storage(url) as store:
        assert state_of(store, ANNA) == "TWO"


# ---------------------------------------------------------------- a server goes


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite", "postgresql", "mariadb"),
        pytest.param("redis_server", marks=pytest.mark.stress),  # its lease ends in ten seconds
    ],
    indirect=True,
)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGHUP])
def test_a_server_dies_while_a_handler_runs(
    url: str,
    serve: Serve,
    connect: Callable[[SalmonServer], Client],
    tmp_path: Path,
    end: signal.Signals,
) -> None:
    """SIGHUP is ``salmon stop``, and ends a server as suddenly as SIGKILL does."""
    victim, survivor = serve("smtp", url), serve("lmtp", url)
    client = connect(survivor)
    with socket.create_connection(("127.0.0.1", victim.port), 60) as sending:
        lines = ("HELO me", f"MAIL FROM:<{ANNA}>", "RCPT TO:<steps@x>", "DATA", "\r\nhold\r\n.")
        with sending.makefile("rb") as answers:
            for line in lines:
                answers.readline()
                sending.sendall(line.encode() + b"\r\n")
            wait_until((tmp_path / "inside").exists, "the handler to run")
            assert client.send(ANNA, "steps@x") == BUSY
            victim.kill(end)
            assert answers.read() == b""  # so the client sends it again
    with open_storage(url) as store:
        assert can_enter(store, [ANNA], FREED_WITHIN) == [True]
        assert contents(store) == {}
        assert is_taken(client.send(ANNA, "steps@x"))
        assert contents(store) == {(steps.__name__, ANNA): "ONE"}


def test_two_servers_whose_handlers_want_each_others_sender(
    url: str, serve: Serve, connect: Callable[[SalmonServer], Client], tmp_path: Path
) -> None:
    answers: dict[str, list[bytes]] = {}

    def send(client: Client, sender: str, other: str) -> None:
        answers[sender] = client.send(sender, "steps@x", f"forward {other}")

    clients = [connect(serve(kind, url)) for kind in ("smtp", "lmtp")]
    threads = [
        threading.Thread(target=send, args=(client, *pair))
        for client, pair in zip(clients, ((ANNA, BEN), (BEN, ANNA)), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert BUSY in answers.values()  # one of them may have left before the other one tried
    assert all(each == BUSY or is_taken(each) for each in answers.values())
    with open_storage(url) as store:
        assert can_enter(store, [ANNA, BEN]) == [True, True]
