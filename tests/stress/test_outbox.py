"""Who records and who sends is killed again and again: everything is sent, and in its order."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter

import pytest

from salmon_state.entries import Kind
from salmon_state.mail.dispatcher import Dispatcher
from salmon_state.mail.outbox import Outbox
from salmon_state.testing.processes import store_processes
from salmon_state.testing.suite import everything
from tests.end_to_end.smtp_sink import SMTPSink, wait_for
from tests.mail import workers
from tests.mail.conftest import SHARED, OpenStore, open_store, outbox, sink, store  # noqa: F401

pytestmark = [
    pytest.mark.stress,
    pytest.mark.parametrize("open_store", SHARED, indirect=True),
]

ROUNDS = 100
"""Each kills one process that records and one that sends."""
CONNECTIONS = 32
"""Of a dispatcher; each may be in the middle of a transaction when it is killed."""


def test_everything_is_sent_through_two_hundred_kills(
    open_store: OpenStore,  # noqa: F811 - it is a fixture
    outbox: Outbox,  # noqa: F811
    sink: SMTPSink,  # noqa: F811
) -> None:
    sink.extensions = ("PIPELINING",)
    heard: list[tuple[str, int]] = []
    for round_ in range(ROUNDS):
        with store_processes(open_store, 2) as (writer, sender):
            sender.start(workers.dispatch, sink.port, 0.5)
            writer.start(workers.record_forever, round_)
            heard += [writer.item() for _ in range(3)]
            time.sleep(random.uniform(0, 0.2))
            sender._process.kill()
            heard += writer.kill()
            sender.discard()
    with Dispatcher(outbox, **workers.QUICK):
        wait_for(lambda: not outbox.backlog().pending, "the rest")
        wait_for(lambda: not everything(outbox.storage, Kind.BODY), "the messages to be removed")
    check(sink, heard)


def check(relay: SMTPSink, heard: list[tuple[str, int]]) -> None:
    """Compares what arrived with what was committed."""
    sent = Counter(recipient.strip("<>") for _, recipient, _ in relay.mails)
    in_order: dict[str, list[int]] = {}
    for _, recipient, message in relay.mails:
        if recipient.startswith("<all-"):
            number = int(message.partition(b"<")[2].partition(b">")[0])
            numbers = in_order.setdefault(recipient, [])
            if number not in numbers:  # what is sent twice was first sent in its order
                numbers.append(number)
    own = {
        recipient: count for recipient, count in sent.items() if not recipient.startswith("all-")
    }
    committed = {f"{number}@x.de" for _, number in heard}
    assert committed - set(own) == set()
    assert (
        len(set(own) - committed) <= ROUNDS
    )  # each killed after its commit, and before it said so
    assert [numbers for numbers in in_order.values() if numbers != sorted(numbers)] == []
    assert sum(map(len, in_order.values())) == len(own)
    twice = len(relay.mails) - 2 * len(own)
    assert twice <= ROUNDS * CONNECTIONS
    sys.stdout.write(f"\n{len(own)} mails through {2 * ROUNDS} kills; {twice} copies sent again\n")
