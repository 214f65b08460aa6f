"""The subscriber's row and the state POSTING: both or neither, whatever happens in between."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from salmon.routing import Router
from salmon.server import SMTPError

from config.testing import SentMail
from examples.mailing_list import outgoing, roster, settings, subscribers
from examples.mailing_list.roster import TABLE, Subscriber
from salmon_state import open_storage
from tests.examples.mailing_list.conftest import SQL_STORES
from tests.examples.mailing_list.correspondence import (
    ANNA,
    BEN,
    DOMAIN,
    NEWS,
    confirm_address,
    failure_report,
    post,
    state_of,
    subscribe,
    write,
    write_raw,
)

pytestmark = pytest.mark.parametrize("state_url", SQL_STORES, indirect=True)

CHECKOUT = Path(__file__).parents[3]
KEY = subscribers.state_key("news")
DAEMON = "mailer-daemon@example.com"

Rows = Callable[[], list[tuple[str, str]]]


@pytest.fixture
def engine(state_url: str) -> Iterator[sa.Engine]:
    """Looks at the database from outside."""
    engine = sa.create_engine(state_url)
    yield engine
    engine.dispose()


@pytest.fixture
def rows(engine: sa.Engine) -> Rows:
    """Gives a function that reads the table: (list, address), as it stands there."""

    def read() -> list[tuple[str, str]]:
        with engine.connect() as connection:
            found = connection.execute(sa.select(TABLE.c.list_name, TABLE.c.address))
            return sorted((list_name, address) for list_name, address in found)

    return read


def ask(person: str) -> str:
    write(person, f"news-subscribe@{DOMAIN}")
    return confirm_address(settings.relay[-1])


@contextmanager
def failing_after(monkeypatch: pytest.MonkeyPatch, function: str) -> Iterator[None]:
    """Makes every mail fail for now when a function of the roster has written."""
    write_row = getattr(roster, function)

    def fail(*arguments: object) -> None:
        write_row(*arguments)
        raise SMTPError(451, "4.3.0 Not now")

    with monkeypatch.context() as broken:
        broken.setattr(roster, function, fail)
        yield


# ---------------------------------------------------------------- both


def test_the_rows_follow_the_states(rows: Rows) -> None:
    subscribe(ANNA, BEN)
    subscribe(ANNA, list_name="book-club")
    assert rows() == [
        ("'book-club'", f"'{ANNA}'"),
        ("'news'", f"'{ANNA}'"),
        ("'news'", f"'{BEN}'"),
    ]
    write(BEN, f"news-unsubscribe@{DOMAIN}")
    assert rows() == [("'book-club'", f"'{ANNA}'"), ("'news'", f"'{ANNA}'")]

    [copy] = post(ANNA)
    write_raw(DAEMON, copy.sender, failure_report())
    assert (rows(), state_of(ANNA, "book-club")) == ([], "SUSPENDED")


def test_a_bug_removes_the_row(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    subscribe(ANNA, BEN)
    with monkeypatch.context() as broken:
        broken.setattr(outgoing, "distribute", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(ANNA, NEWS)
    assert (state_of(ANNA), rows()) == ("ERROR", [("'news'", f"'{BEN}'")])
    assert [copy.recipient for copy in post(BEN)] == [BEN]


def test_a_bug_in_a_handler_without_a_state_removes_the_row(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe(ANNA)
    [copy] = post(ANNA)
    with monkeypatch.context() as broken:
        broken.setattr(subscribers, "suspend", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_raw(ANNA, copy.sender, failure_report())
    assert (state_of(ANNA), rows()) == ("ERROR", [])


# ---------------------------------------------------------------- neither


def test_a_subscription_that_must_come_again(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    address = ask(ANNA)
    with failing_after(monkeypatch, "add"), pytest.raises(SMTPError, match="Not now"):
        write(ANNA, address)
    assert (state_of(ANNA), rows()) == ("CONFIRMING", [])

    write(ANNA, address)  # nor is the token spent
    assert (state_of(ANNA), len(rows())) == ("POSTING", 1)


def test_a_farewell_that_must_come_again(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    subscribe(ANNA)
    with failing_after(monkeypatch, "remove"), pytest.raises(SMTPError, match="Not now"):
        write(ANNA, f"news-unsubscribe@{DOMAIN}")
    assert (state_of(ANNA), len(rows())) == ("POSTING", 1)


def test_a_bounce_that_must_come_again(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    subscribe(ANNA)
    [copy] = post(ANNA)
    with failing_after(monkeypatch, "remove_everywhere"), pytest.raises(SMTPError, match="Not now"):
        write_raw(DAEMON, copy.sender, failure_report())
    assert (state_of(ANNA), len(rows())) == ("POSTING", 1)
    assert [mail.recipient for mail in post(ANNA)] == [ANNA]


def test_a_commit_that_fails(state_url: str, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    address = ask(ANNA)
    with open_storage(state_url) as operator, monkeypatch.context() as meanwhile:
        meanwhile.setattr(outgoing, "say_welcome", lambda *_: operator.set(KEY, ANNA, "SUSPENDED"))
        with pytest.raises(SMTPError) as failure:
            write(ANNA, address)
    assert str(failure.value) == "451 4.3.0 Conversation busy, try again later"
    assert (state_of(ANNA), rows()) == ("SUSPENDED", [])


KILLED = """
import os, signal, sys

import config.testing
from salmon.routing import Router

from examples.mailing_list import roster
from salmon_state import open_storage
from tests.examples.mailing_list.correspondence import ANNA, write

def add(subscriber, add=roster.add):
    add(subscriber)
    os.kill(os.getpid(), signal.SIGKILL)

roster.add = add
Router.STATE_STORE = open_storage(sys.argv[1])
write(ANNA, sys.argv[2])
"""


def test_a_sigkill_between_row_and_state(state_url: str, rows: Rows) -> None:
    address = ask(ANNA)
    command = [sys.executable, "-c", KILLED, state_url, address]
    killed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (state_of(ANNA), rows()) == ("CONFIRMING", [])

    write(ANNA, address)
    assert (state_of(ANNA), len(rows())) == ("POSTING", 1)


def test_a_database_error_is_no_bug_of_the_sender_s(engine: sa.Engine, rows: Rows) -> None:
    address = ask(ANNA)
    TABLE.drop(engine)
    with pytest.raises(SMTPError) as failure:
        write(ANNA, address)
    assert str(failure.value) == "451 4.3.0 State store unavailable, try again later"
    assert state_of(ANNA) == "CONFIRMING"

    subscribers.prepare()
    write(ANNA, address)
    assert (state_of(ANNA), len(rows())) == ("POSTING", 1)


# ---------------------------------------------------------------- others at the same time


def test_a_bounce_comes_again_while_a_mail_of_its_address_is_in_hand(
    rows: Rows, sent: SentMail
) -> None:
    subscribe(ANNA)
    [copy] = post(ANNA)
    write(ANNA, f"book-club-subscribe@{DOMAIN}")
    address = confirm_address(sent[-1])

    def bounce(*_: object) -> None:
        with ThreadPoolExecutor(1) as daemon:
            report = daemon.submit(write_raw, DAEMON, copy.sender, failure_report())
            with pytest.raises(SMTPError, match=r"451 4\.3\.0 Conversation busy"):
                report.result(30)

    # Outside a handler: Salmon runs one at a time in a process, but not in two.
    with Router.STATE_STORE.conversation(ANNA):
        bounce()
        write(ANNA, address)
    assert (len(rows()), state_of(ANNA)) == (2, "POSTING")
    write_raw(DAEMON, copy.sender, failure_report())
    assert (rows(), state_of(ANNA), state_of(ANNA, "book-club")) == ([], "SUSPENDED", "SUSPENDED")


# ---------------------------------------------------------------- how the table begins


def test_a_store_that_had_none_fills_it_once(engine: sa.Engine, rows: Rows) -> None:
    TABLE.drop(engine)
    people = [f"{number}@example.com" for number in range(2500)]
    with Router.STATE_STORE.conversation(None):
        for person in people:
            Router.STATE_STORE.set(KEY, person, "POSTING")
        Router.STATE_STORE.set(KEY, "no@example.com", "CONFIRMING")
        Router.STATE_STORE.set("app.other", "no@example.com", "POSTING")
    subscribers.prepare()
    assert [each.address for each in subscribers.on_list("news")] == sorted(people)
    assert len(rows()) == 2500

    Router.STATE_STORE.set(KEY, BEN, "POSTING")
    subscribers.prepare()
    assert len(rows()) == 2500


def test_servers_that_start_together_make_one(engine: sa.Engine, rows: Rows) -> None:
    TABLE.drop(engine)
    Router.STATE_STORE.set(KEY, ANNA, "POSTING")
    with ThreadPoolExecutor(4) as servers:
        for prepared in [servers.submit(subscribers.prepare) for _ in range(16)]:
            prepared.result(60)
    assert rows() == [("'news'", f"'{ANNA}'")]


def test_a_server_that_dies_while_it_fills_it_leaves_none(engine: sa.Engine, rows: Rows) -> None:
    def dying() -> Iterator[Subscriber]:
        for number in range(1500):
            yield Subscriber("news", f"{number}@example.com", None)
        raise KeyboardInterrupt

    TABLE.drop(engine)
    with pytest.raises(KeyboardInterrupt):
        roster.prepare(dying())
    with pytest.raises(sa.exc.DBAPIError):
        rows()
    Router.STATE_STORE.set(KEY, ANNA, "POSTING")
    subscribers.prepare()
    assert rows() == [("'news'", f"'{ANNA}'")]


def test_what_a_database_takes_for_equal_is_not() -> None:
    alike = ["anna@x", "ANNA@x", "änna@x", "anna@x ", "a\0nna@x", "\udcff@x", "a" * 300 + "@x"]
    for address in alike:
        roster.add(Subscriber("news", address, None))
    roster.add(Subscriber("News", "anna@x", None))
    assert sorted(who.address for who in roster.subscribers("news")) == sorted(alike)

    roster.remove("news", "ANNA@x")
    left = [who.address for who in roster.subscribers("news")]
    assert sorted(left) == sorted({*alike} - {"ANNA@x"})
    roster.remove_everywhere("anna@x")
    assert roster.subscribers("News") == []
    assert "anna@x " in [who.address for who in roster.subscribers("news")]


def test_a_row_from_before_is_replaced(rows: Rows) -> None:
    roster.add(Subscriber("news", ANNA, None))  # whoever wrote it, the state did not know of it
    subscribe(ANNA)
    assert len(rows()) == 1
