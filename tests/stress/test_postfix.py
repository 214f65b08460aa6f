"""A real, retrying mail server is the judge of "no mail lost"."""

from __future__ import annotations

import os
import smtplib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import open_storage
from tests.postfix import AS_ROOT, Postfix
from tests.salmon_server import SalmonServer
from tests.services import Missing, PostgreSQLServer
from tests.stress import handlers
from tests.stress.handlers import handled, name_of

SENDERS = 100
MAILS_EACH = 10
OUTAGES = ("stop", "kill", "restart") * 3
PATIENCE = 300.0

pytestmark = [pytest.mark.stress, AS_ROOT]


def unconfirmed(server: SalmonServer) -> list[str]:
    """Returns the mails at whose commit the server heard nothing of the database."""
    found, current = [], ""
    for line in server.log().splitlines():
        if " stress: handling " in line:
            current = line.rpartition(" ")[2]
        elif "a commit was not confirmed" in line:
            found.append(current)
    return found


@pytest.fixture
def relay(postgresql: PostgreSQLServer, tmp_path: Path) -> Iterator[tuple[str, list[Any]]]:
    """The URL of the database, and what shall be ended: two servers, then Postfix."""
    url = postgresql.fresh_database()
    engine = sa.create_engine(url)
    handled.create(engine)
    engine.dispose()
    running: list[Any] = []
    try:
        running += [SalmonServer(tmp_path, "lmtp", url, handlers.__name__)]
        running += [SalmonServer(tmp_path, "smtp", url, handlers.__name__)]
        routes = {
            f"{n}.test": f"{server.kind}:[127.0.0.1]:{server.port}"
            for n, server in enumerate(running)
        }
        running.append(Postfix(routes))
        running[-1].start()
        yield url, running
    except Missing as missing:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"{missing}, and REQUIRE_SERVICES=1 promises it")
        pytest.skip(f"{missing}: install it to run this test")
    finally:
        for each in running:
            each.remove() if isinstance(each, Postfix) else each.end()


def test_a_thousand_mails_through_outages(
    relay: tuple[str, list[Any]], postgresql: PostgreSQLServer
) -> None:
    url, (*servers, postfix) = relay
    started = time.monotonic()
    client = threading.Thread(target=send_all, args=(postfix.port,))
    client.start()
    durations = [
        cause(outage, number, postgresql, postfix, url) for number, outage in enumerate(OUTAGES)
    ]
    client.join(PATIENCE)
    wait_until(lambda: postfix.queued() == 0, f"the queue to be empty: {postfix.log()[-3000:]}")
    took = time.monotonic() - started

    rows = read_rows(url)
    times = Counter(message_id for message_id, *_ in rows)
    twice = {message_id: count for message_id, count in times.items() if count > 1}
    unheard = [mail for server in servers for mail in unconfirmed(server)]
    report(postfix, rows, twice, unheard, took, durations)

    statuses = postfix.statuses()
    assert statuses.pop("sent") == SENDERS * MAILS_EACH
    assert set(statuses) == {"deferred"}, "a mail was bounced or expired"
    assert set(times) == {message_id(s, m) for s in range(SENDERS) for m in range(MAILS_EACH)}
    assert set(twice) <= set(unheard), "handled twice although the commit was confirmed"
    check_states(url, rows)


def check_states(url: str, rows: list[tuple[str, str, int]]) -> None:
    """Each sender is as many steps on as mails were handled, each step by one of them."""
    steps: dict[str, list[int]] = {address(number): [] for number in range(SENDERS)}
    for _, sender, step in rows:
        steps[sender].append(step)
    with open_storage(url) as store:
        states = {record.sender: record.state for record in store}
    for sender, made in steps.items():
        assert sorted(made) == list(range(len(made))), f"{sender}: a step was made twice or never"
        assert states.pop(sender) == name_of(len(made))
    assert states == {}


def cause(
    outage: str, number: int, database: PostgreSQLServer, postfix: Postfix, url: str
) -> float:
    """Waits for some mails to be handled, and takes the database away until one is deferred."""
    enough = (number + 1) * SENDERS * MAILS_EACH // (len(OUTAGES) + 2)
    wait_until(lambda: len(read_rows(url)) >= enough, "mails to be handled")
    began = time.monotonic()
    deferred = postfix.statuses().get("deferred", 0)
    if outage == "kill":
        database.kill()
    else:
        database.stop()
    if outage != "restart":
        wait_until(lambda: postfix.statuses().get("deferred", 0) >= deferred + 5, "refused mails")
    database.start()
    return time.monotonic() - began


def send_all(port: int) -> None:
    """Sends every mail: one of each sender after the other, to the two servers in turn."""
    with smtplib.SMTP("127.0.0.1", port) as client:
        for mail in range(MAILS_EACH):
            for sender in range(SENDERS):
                to = f"steps@{(mail + sender) % 2}.test"
                text = f"Message-ID: {message_id(sender, mail)}\nTo: {to}\n\nstep on\n"
                client.sendmail(address(sender), [to], text)


def address(sender: int) -> str:
    return f"sender{sender}@example.com"


def message_id(sender: int, mail: int) -> str:
    return f"<{sender}.{mail}@example.com>"


def read_rows(url: str) -> list[tuple[str, str, int]]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        query = sa.select(handled.c.message_id, handled.c.sender, handled.c.step)
        return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.1)


def report(
    postfix: Postfix,
    rows: list[tuple[str, str, int]],
    twice: dict[str, int],
    unheard: list[str],
    took: float,
    outages: list[float],
) -> None:
    statuses = postfix.statuses()
    kinds = Counter(OUTAGES)
    sys.stdout.write(
        f"\n{SENDERS * MAILS_EACH} mails of {SENDERS} senders in {took:.0f} s; database stopped "
        f"{kinds['stop']}x, restarted {kinds['restart']}x, killed {kinds['kill']}x, "
        f"{sum(outages):.0f} s of outage; {statuses.get('deferred', 0)} times 451 and sent again; "
        f"{len(rows)} transitions; commits of which nothing was heard: {len(unheard)}, "
        f"mails handled twice because of that: {len(twice)} {sorted(twice)}\n"
    )
