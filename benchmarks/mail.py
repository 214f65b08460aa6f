"""One mail: ``Router.deliver`` for senders further and further on in their conversations."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

from salmon.mail import MailRequest
from salmon.routing import MemoryStorage as SalmonMemoryStorage
from salmon.routing import Router

from benchmarks import transactions
from benchmarks.floors import OneReadOneWrite
from benchmarks.handlers import eight, first, second, third
from benchmarks.operations import IN_MEMORY
from benchmarks.orm_store import ORMStorage
from benchmarks.places import Places, skipped_if_missing
from benchmarks.rounds import FLOOR, OURS, PEER, Plan, Row, Samples, compare, rotated, timed
from salmon_state import attach, detach, open_storage
from salmon_state.entries import Kind, Write, in_order
from tests.counting_proxy import CountingProxy

NAMES = ("memory", "shelve", "sqlite", "postgresql", "mariadb", "redis")
SERVERS = ("postgresql", "mariadb", "redis")
OUR_WAYS = {
    "plain": "salmon-state",
    "attached": "salmon-state, attach",
    "once": "salmon-state, attach, once_within",
}
DRIVERS = ("the driver's transaction", "the driver's transaction, and a mark")
DURABILITY = {"memory": "memory", "redis": "fsync each second"}
WARM = 10
FULL = 10_000
"""How many conversations there are beside those that are measured."""

EIGHT, SHARED = eight.__name__, (first.__name__, second.__name__, third.__name__)

Pairs = list[tuple[str, str, str]]


class Situation(NamedTuple):
    """Where the sender of a mail is."""

    name: str
    to: str
    states: tuple[tuple[str, str], ...]
    """Modules and states that are set before."""


SITUATIONS = (
    Situation("1st state", "eight@example.com", ()),
    Situation("4th state", "eight@example.com", ((EIGHT, "FOURTH"),)),
    Situation("8th state", "eight@example.com", ((EIGHT, "EIGHTH"),)),
    Situation(
        "third of three modules",
        "shared@example.com",
        ((SHARED[0], "PARKED"), (SHARED[1], "PARKED"), (SHARED[2], "THIRD")),
    ),
)


class Way(NamedTuple):
    """A store, and what a mail is to it."""

    group: str
    who: str
    role: str
    how: str
    """One of the router's ways to deliver."""
    store: Any
    fill: Callable[[Pairs], None]


class Deliver(NamedTuple):
    """The router's ways to deliver a mail."""

    plain: Callable[[MailRequest], None]
    attached: Callable[[MailRequest], None]
    once: Callable[[MailRequest], None]
    """Attached, and each mail is known when it comes again."""


def prepare() -> Deliver:
    """Loads the handlers; the store is put into the router before each turn."""
    logging.getLogger("salmon_state").setLevel(logging.ERROR)
    Router.RELOAD = False
    Router.LOG_EXCEPTIONS = False
    Router.load([EIGHT, *SHARED])
    plain = Router.deliver
    attach(Router)
    attached = Router.deliver
    detach(Router)
    attach(Router, once_within=timedelta(days=7))
    once = Router.deliver
    detach(Router)
    return Deliver(plain, attached, once)


def ways(places: Places, name: str) -> Iterator[Way]:
    """Yields the ways to keep states in one kind of place."""
    if name == "memory":
        salmon = SalmonMemoryStorage()
        yield Way(name, "Salmon's MemoryStorage", FLOOR, "plain", salmon, _one_by_one(salmon))
    else:
        yield from _naive(places, name)
    if name in ("sqlite", "postgresql"):
        for marks, who in enumerate(DRIVERS):
            driver = _Driver(transactions.at(places.url(name)), marks=bool(marks))
            yield Way(name, who, FLOOR, "plain", driver, driver.fill)
    for how, who in OUR_WAYS.items():
        store = open_storage(places.url(name))
        yield Way(name, who, OURS, how, store, _written(store))


def _naive(places: Places, name: str) -> Iterator[Way]:
    if name in ("sqlite", "postgresql", "mariadb"):
        orm = ORMStorage(places.url(name))
        yield Way(name, "SQLAlchemy ORM, naive", PEER, "plain", orm, orm.fill)


class _Driver(OneReadOneWrite):
    """A transaction of the driver for each mail that changes a state.

    Args:
        transaction: What does it.
        marks: Whether each mail leaves a row by which it is known when it comes again.
    """

    def __init__(self, transaction: Any, *, marks: bool) -> None:
        super().__init__(transaction)
        self._marks = marks
        self.close = transaction.close

    def _write(self, module: str, sender: str, state: str) -> None:
        self._floor.step(module, sender, state, os.urandom(32) if self._marks else b"")

    def fill(self, pairs: Pairs) -> None:
        self._floor.fill(pairs)
        for pair in pairs:
            self._known.set(*pair)


def _one_by_one(store: Any) -> Callable[[Pairs], None]:
    def fill(pairs: Pairs) -> None:
        for pair in pairs:
            store.set(*pair)

    return fill


def _written(store: Any) -> Callable[[Pairs], None]:
    return lambda pairs: store._commit(
        in_order(
            Write(Kind.STATE, sender, module, state, 1_700_000_000_000_000)
            for module, sender, state in pairs
        )
    )


def measure(places: Places, plan: Plan, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Returns the rows, with the round trips of each mail, and their comparison."""
    deliver = prepare()
    rows: list[Row] = []
    for name in names:
        print(f"  mail: {name}", flush=True)
        with skipped_if_missing(name):
            trips = _round_trips(places, name, deliver) if name in SERVERS else {}
            found = list(ways(places, name))
            rows += _measure_ways(found, plan, deliver, trips)
            for way in found:
                getattr(way.store, "close", lambda: None)()
    return {"rows": rows, "comparisons": compare(rows, ("group", "situation"))}


def _measure_ways(
    found: list[Way], plan: Plan, deliver: Deliver, trips: dict[tuple[str, str], float]
) -> list[Row]:
    for way in found:
        way.fill([(EIGHT, f"other{number}@example.com", "THIRD") for number in range(FULL)])
    samples = Samples()
    turn = 0
    for number in range(-1, plan.rounds):
        for _ in range(plan.turns if number >= 0 else 1):
            turn += 1
            for situation in SITUATIONS:
                for who, some in _turn(rotated(found, turn), plan, deliver, situation, turn):
                    if number >= 0:
                        samples.add((who, situation.name), number, some)
    by_name = {way.who: way for way in found}
    return [
        {
            "group": by_name[who].group,
            "who": who,
            "role": by_name[who].role,
            "durability": DURABILITY.get(by_name[who].group, "fsync"),
            "situation": situation,
            "round_trips": trips.get((who, situation)),
            **samples.row((who, situation)),
        }
        for who, situation in samples
    ]


def _turn(
    found: list[Way], plan: Plan, deliver: Deliver, situation: Situation, turn: int
) -> Iterator[tuple[str, list[float]]]:
    """Yields the samples of each way; of each sender comes one mail."""
    together = IN_MEMORY if found[0].group == "memory" else 1
    senders = [f"s{turn}-{number}@example.com" for number in range(plan.calls * together)]
    senders = [f"{situation.name[0]}{sender}" for sender in senders]
    mails = [(_mail(sender, situation.to),) for sender in senders]
    if situation.states:
        for way in found:
            way.fill([(m, sender, state) for m, state in situation.states for sender in senders])
    step = together
    for start in range(0, len(mails), step):
        for way in found:
            Router.STATE_STORE = way.store
            before = _handled()
            some = mails[start : start + step]
            yield way.who, timed(getattr(deliver, way.how), some, together)
            if _handled() != before + len(some):
                raise AssertionError(f"{way.who}, {situation.name}: a mail was not handled")


def _mail(sender: str, to: str) -> MailRequest:
    data = f"From: {sender}\nTo: {to}\nSubject: hi\n\nhello\n"
    return MailRequest("127.0.0.1", sender, to, data)


def _handled() -> int:
    return sum(each.handled[0] for each in (eight, first, second, third))


def _round_trips(places: Places, name: str, deliver: Deliver) -> dict[tuple[str, str], float]:
    """Counts how often a mail waits for an answer of the server, as a proxy in between sees it."""
    counted = {}
    server = places.redis() if name == "redis" else getattr(places, name)
    with CountingProxy(server.port) as proxy:
        through = _Through(places, server.port, proxy.port)
        found = list(ways(through, name))  # type: ignore[arg-type]
        for way in found:
            for situation in SITUATIONS:
                mails = _count_mails(way, situation)
                call = getattr(deliver, way.how)
                Router.STATE_STORE = way.store
                for mail in mails[:WARM]:  # connections are made, statements are prepared
                    call(mail)
                before = proxy.trips
                for mail in mails[WARM:]:
                    call(mail)
                counted[way.who, situation.name] = (proxy.trips - before) / (len(mails) - WARM)
            way.store.close()
    return counted


def _count_mails(way: Way, situation: Situation) -> list[MailRequest]:
    senders = [f"{situation.name[0]}{number}@example.com" for number in range(WARM + 20)]
    if situation.states:
        way.fill([(m, sender, state) for m, state in situation.states for sender in senders])
    return [_mail(sender, situation.to) for sender in senders]


class _Through:
    """The same places behind a proxy."""

    def __init__(self, places: Places, port: int, proxy: int) -> None:
        self._places = places
        self._ports = f":{port}/", f":{proxy}/"

    def url(self, name: str) -> str:
        return self._places.url(name).replace(*self._ports)
