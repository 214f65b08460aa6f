"""SIGKILL at each step: what is recorded is sent, once, or once more where SMTP cannot tell."""

from __future__ import annotations

from collections import Counter

import pytest

from salmon_state.entries import Kind
from salmon_state.mail.dispatcher import Dispatcher
from salmon_state.mail.outbox import Outbox
from salmon_state.mail.relays import SMTPRelay
from salmon_state.testing.processes import store_processes
from salmon_state.testing.suite import everything
from tests.end_to_end.smtp_sink import SMTPSink, wait_for
from tests.mail import workers
from tests.mail.conftest import SHARED, Dispatch, OpenStore

ANNA = "anna@example.com"

STORES = [
    kind if kind in ("sqlite", "redis_server") else pytest.param(kind, marks=pytest.mark.stress)
    for kind in SHARED
]


@pytest.mark.parametrize("open_store", STORES, indirect=True)
def test_a_dispatcher_that_is_killed(
    open_store: OpenStore, sink: SMTPSink, outbox: Outbox, dispatch: Dispatch
) -> None:
    """Another one goes on when the lease has ended; only what was sent and not marked is twice."""
    sink.extensions = ("PIPELINING",)
    for step in workers.STEPS:
        envelopes = [(f"{step}{number}@x.de", f"b{number}@y.de") for number in range(3)]
        workers.record(outbox.storage, ANNA, envelopes, step.encode())
        with store_processes(open_store, 1) as (process,):
            process.start(workers.dispatch_until, sink.port, step, 1.0)
            process._process.join(60)
            assert process._process.exitcode == -9
        with open_store() as other:
            relay = SMTPRelay("127.0.0.1", sink.port)
            dispatcher = Dispatcher(Outbox(other, relay), lease=5, **workers.QUICK)
            dispatcher.start()
            wait_for(lambda: not outbox.backlog().pending, f"all after {step}")
            dispatcher.stop()
    sent = Counter(recipient.strip("<>") for _, recipient, _ in sink.mails)
    twice = {recipient for recipient, count in sent.items() if count > 1}
    assert set(sent) == {f"{step}{n}@x.de" for step in workers.STEPS for n in range(3)}
    assert len(twice) <= 1
    assert twice <= {f"taken{number}@x.de" for number in range(3)}
    assert max(sent.values()) <= 2
    assert everything(outbox.storage, Kind.BODY) == []


@pytest.mark.parametrize("open_store", STORES, indirect=True)
def test_a_handler_that_is_killed(
    open_store: OpenStore, sink: SMTPSink, outbox: Outbox, dispatch: Dispatch
) -> None:
    """Before the commit nothing is ever sent; after it everything."""
    for after in (False, True):
        with store_processes(open_store, 1) as (process,):
            call = workers.record_and_die_after if after else workers.record_and_die_before
            process.start(call, f"{after}@example.com", b"%d" % after)
            process._process.join(60)
            assert process._process.exitcode == -9
    assert outbox.storage.get("app", "False@example.com") == "START"
    assert outbox.storage.get("app", "True@example.com") == "SENT"
    dispatch()
    wait_for(lambda: not outbox.backlog().pending, "all")
    assert [recipient for _, recipient, _ in sink.mails] == ["<1@x.de>"]
