"""What a mail costs on a database server: round trips, counted on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from salmon.routing import route, route_like

from salmon_state import SQLAlchemyStorage, attach
from tests.counting_proxy import CountingProxy
from tests.delivery.router import mail

ANNA = "anna@example.com"
EIGHT = ("START", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT")
NOTHING, CHANGE, TWO_CHANGES = (
    {"postgresql": 2, "mariadb": 2},
    {"postgresql": 3, "mariadb": 2},
    {"postgresql": 3, "mariadb": 3},
)
"""Round trips of a mail that changes nothing, of one that changes its state, and of one that
changes two states, for which MariaDB needs a transaction of its own, and PostgreSQL none."""
WARM = 10
"""After so many mails the driver has prepared the statements that it wants to prepare."""

Cost = Callable[[str, str], int]


@pytest.fixture(params=["postgresql", "mariadb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def proxy(request: pytest.FixtureRequest, kind: str) -> Iterator[CountingProxy]:
    with CountingProxy(request.getfixturevalue(kind).port) as proxy:
        yield proxy


@pytest.fixture
def store(
    request: pytest.FixtureRequest, kind: str, proxy: CountingProxy
) -> Iterator[SQLAlchemyStorage]:
    """A store that reaches its server through the proxy."""
    url = request.getfixturevalue(kind).fresh_database()
    with SQLAlchemyStorage(sa.make_url(url).set(port=proxy.port)) as store:
        yield store


@pytest.fixture
def cost(
    router: Any, store: SQLAlchemyStorage, proxy: CountingProxy, monkeypatch: pytest.MonkeyPatch
) -> Cost:
    """Gives a function that returns the round trips of a mail to a module of eight states.

    With "stay" in its body it changes nothing; any other one goes to the next state.
    """
    handlers: list[Any] = []

    def make(number: int) -> None:
        def handle(message: Any, host: str) -> Any:
            return None if "stay" in message.body() else handlers[(number + 1) % 8]

        handle.__name__ = EIGHT[number]
        decorate = route_like(handlers[0]) if handlers else route("eight@(host)", host=".+")
        handlers.append(decorate(handle))

    for number in range(8):
        make(number)
    monkeypatch.setattr("salmon_state.mail.expiry._REST", 1e9)  # not while trips are counted
    attach(router, store)

    def count(state: str, body: str) -> int:
        store.set(__name__, ANNA, state)
        before = proxy.trips
        router.deliver(mail(ANNA, "eight@x", body))
        return proxy.trips - before

    for _ in range(WARM):
        count("TWO", "stay")
        count("TWO", "go")
        count("EIGHT", "go")
    return count


def test_the_eighth_state_costs_as_much_as_the_first(cost: Cost, kind: str) -> None:
    assert [cost(state, "stay") for state in EIGHT] == [NOTHING[kind]] * 8
    assert [cost(state, "go") for state in EIGHT] == [CHANGE[kind]] * 8


def test_a_mail_that_comes_again_costs_what_one_does_that_changes_nothing(
    cost: Cost, kind: str, router: Any, proxy: CountingProxy
) -> None:
    attach(router, once_within=timedelta(days=7))
    again = mail(ANNA, "eight@x", "go")
    for _ in range(WARM):
        router.deliver(again)
    before = proxy.trips
    router.deliver(again)
    assert proxy.trips - before == NOTHING[kind]


def test_to_know_a_mail_again_costs_no_more_than_a_second_state(
    cost: Cost, kind: str, router: Any, store: SQLAlchemyStorage, proxy: CountingProxy
) -> None:
    """It is looked for with the states, and its mark is written with them."""
    attach(router, once_within=timedelta(days=7))

    def count(number: int) -> int:
        store.set(__name__, ANNA, "TWO")
        before = proxy.trips
        router.deliver(mail(ANNA, "eight@x", f"go {number}"))
        return proxy.trips - before

    for number in range(WARM):
        count(number)
    assert count(WARM) == TWO_CHANGES[kind]


def test_what_is_promised_of_postgresql() -> None:
    assert NOTHING["postgresql"] <= 2
    assert CHANGE["postgresql"] <= 4


def test_conversations_without_a_router(
    cost: Cost, kind: str, store: SQLAlchemyStorage, proxy: CountingProxy
) -> None:
    """Giving up costs what changing nothing costs."""

    def talk(states: int, error: BaseException | None = None) -> int:
        before = proxy.trips
        try:
            with store.conversation(ANNA):
                for number in range(states):
                    store.set(f"module{number}", ANNA, f"S{before}")
                if error is not None:
                    raise error
        except SystemExit:
            pass
        return proxy.trips - before

    for _ in range(WARM):
        talk(2)
        talk(0, SystemExit())
    assert [talk(n) for n in range(3)] == [NOTHING[kind], CHANGE[kind], TWO_CHANGES[kind]]
    talk(0, SystemExit())  # with a rollback psycopg gives up what it has prepared, and says so
    assert talk(3, SystemExit()) == NOTHING[kind]


def test_a_sender_with_many_states_costs_no_more(
    cost: Cost, kind: str, store: SQLAlchemyStorage
) -> None:
    for number in range(200):
        store.set(f"module{number}", ANNA, "STATE")
    assert cost("EIGHT", "stay") == NOTHING[kind]
