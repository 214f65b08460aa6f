"""A Postfix in front and one as the relay behind: each mail is handled once, each answer sent once.

The database, the relay and the dispatchers are stopped and killed in turns meanwhile.
"""

from __future__ import annotations

import os
import signal
import smtplib
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from email import message_from_bytes
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from salmon_state import open_storage
from salmon_state.mail.outbox import Outbox
from salmon_state.testing.processes import StoreProcess, store_processes
from tests.end_to_end.smtp_sink import SMTPSink
from tests.mail import workers
from tests.postfix import AS_ROOT, Postfix
from tests.salmon_server import SalmonServer
from tests.services import Missing, PostgreSQLServer
from tests.stress import replying
from tests.stress.handlers import handled
from tests.stress.test_postfix import read_rows, wait_until

SENDERS, MAILS_EACH = 100, 20
TURNS = ("stop database", "stop relay", "kill dispatcher", "kill database", "kill relay") * 3
AWAY = 3.0
"""Seconds for which something is away."""
LEASE = 3.0
AT_ONCE = 8
"""How many transactions a killed dispatcher or relay may have had in hand."""

pytestmark = [pytest.mark.stress, AS_ROOT]


class Setting:
    """Everything that runs, in the order of a mail's way."""

    def __init__(self, ends: ExitStack, database: PostgreSQLServer, directory: Path) -> None:
        self.database = database
        self.url = database.fresh_database()
        engine = sa.create_engine(self.url)
        handled.create(engine)
        engine.dispose()
        self.sink = ends.enter_context(SMTPSink())
        self.relay = Postfix({"client.test": f"smtp:[127.0.0.1]:{self.sink.port}"})
        ends.callback(self.relay.remove)
        self.relay.start()
        routes = {}
        for number, kind in enumerate(("lmtp", "smtp")):
            server = SalmonServer(
                directory, kind, self.url, replying.__name__, once_within=timedelta(days=7)
            )
            ends.callback(server.end)
            routes[f"{number}.test"] = f"{kind}:[127.0.0.1]:{server.port}"
        self.front = Postfix(routes)
        ends.callback(self.front.remove)
        self.front.start()
        self._ends = ends
        self.dispatchers = [self.start_dispatcher() for _ in range(2)]

    def start_dispatcher(self) -> StoreProcess:
        open_store = partial(open_storage, self.url)
        [process] = self._ends.enter_context(store_processes(open_store, 1))
        process.start(workers.dispatch, self.relay.port, LEASE)
        self._ends.callback(process.discard)
        return process

    def disturb(self, turn: str) -> None:
        """Does one of `TURNS`."""
        how, what = turn.split()
        if what == "database":
            self.database.kill() if how == "kill" else self.database.stop()
            time.sleep(AWAY)
            self.database.start()
        elif what == "relay":
            self.relay.end(signal.SIGKILL if how == "kill" else signal.SIGTERM)
            time.sleep(AWAY)
            self.relay.start()
        else:
            self.dispatchers.append(self.start_dispatcher())
            self.dispatchers.pop(0).kill()


@pytest.fixture
def setting(postgresql: PostgreSQLServer, tmp_path: Path) -> Iterator[Setting]:
    with ExitStack() as ends:
        try:
            found = Setting(ends, postgresql, tmp_path)
        except Missing as missing:
            if os.environ.get("REQUIRE_SERVICES") == "1":
                pytest.fail(f"{missing}, and REQUIRE_SERVICES=1 promises it")
            pytest.skip(f"{missing}: install it to run this test")
        yield found


def test_two_thousand_mails_and_their_answers(setting: Setting) -> None:
    began = time.monotonic()
    client = threading.Thread(target=send_all, args=(setting.front.port,))
    client.start()
    total = SENDERS * MAILS_EACH
    for number, turn in enumerate(TURNS):
        share = total * (number + 1) // (len(TURNS) + 3)
        wait_until(partial(is_handled, setting.url, share), f"{share} mails before {turn}")
        setting.disturb(turn)
    client.join()
    wait_until(lambda: setting.front.queued() == 0, "all to be handled")
    with open_storage(setting.url) as store:
        outbox = Outbox(store)
        wait_until(lambda: not outbox.backlog().pending, "all to be sent")
        assert outbox.backlog().dead == 0
    wait_until(lambda: setting.relay.queued() == 0, "all to be received")

    everything = {message_id(s, m) for s in range(SENDERS) for m in range(MAILS_EACH)}
    rows = Counter(mail for mail, *_ in read_rows(setting.url))
    assert rows == Counter(everything), "a mail was not handled, or not once"
    answers = [message_from_bytes(message) for _, _, message in setting.sink.mails]
    assert {str(answer["Subject"]) for answer in answers} == everything
    ids = {(answer["Subject"], answer["Message-ID"]) for answer in answers}
    assert len(ids) == total, "a mail was answered twice"
    again = len(answers) - total  # the same answer: its relay or dispatcher was killed
    kills = sum(turn.split()[1] != "database" for turn in TURNS)
    assert again <= kills * AT_ONCE
    sys.stdout.write(
        f"\n{total} mails and their answers in {time.monotonic() - began:.0f} s through "
        f"{len(TURNS)} stops and kills, {setting.front.statuses().get('deferred', 0)} times 451; "
        f"each handled once, each answered once; {again} copies of an answer arrived twice\n"
    )


def is_handled(url: str, count: int) -> bool:
    return len(read_rows(url)) >= count


def send_all(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port) as client:
        for mail in range(MAILS_EACH):
            for sender in range(SENDERS):
                to = f"list@{(mail + sender) % 2}.test"
                text = f"Message-ID: {message_id(sender, mail)}\nTo: {to}\n\nhello\n"
                client.sendmail(f"sender{sender}@client.test", [to], text)


def message_id(sender: int, mail: int) -> str:
    return f"<{sender}.{mail}@client.test>"
