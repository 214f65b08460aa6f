"""What becomes of what is recorded: sent once, in order, to whom the relay takes it for."""

from __future__ import annotations

import smtplib
import threading
import time
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from salmon.server import Relay

from salmon_state import MemoryStorage, StateStorage, StorageUnavailable
from salmon_state.entries import Kind, Write
from salmon_state.mail.batches import Mail
from salmon_state.mail.dispatcher import Dispatcher
from salmon_state.mail.outbox import Outbox
from salmon_state.mail.relays import SMTPRelay
from salmon_state.testing.suite import everything
from tests.end_to_end.smtp_sink import SMTPSink, wait_for
from tests.mail.conftest import Dispatch

ANNA, BEN, LIST = "anna@example.com", "ben@example.com", "list@example.com"

memory = pytest.mark.parametrize("open_store", ["memory"], indirect=True)
few = pytest.mark.parametrize(
    "open_store", ["memory", "sqlite", "redis_server", "postgresql"], indirect=True
)
quick = pytest.mark.parametrize("open_store", ["memory", "sqlite"], indirect=True)


def say(outbox: Outbox, text: str, to: Iterable[str], sender: str = LIST) -> None:
    with outbox.storage.conversation(ANNA):
        outbox.fan_out(f"Subject: {text}\n\n.hello", [(each, sender) for each in to])


def done(outbox: Outbox) -> None:
    wait_for(lambda: not outbox.backlog().pending, f"the end: {list(outbox.pending())}")


def received(sink: SMTPSink) -> list[tuple[str, str]]:
    """Returns who got what."""
    return [
        (recipient.strip("<>"), message.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode())
        for _, recipient, message in sink.mails
    ]


# ---------------------------------------------------------------- what is sent


def test_all_of_it_once_by_several(outbox: Outbox, sink: SMTPSink, dispatch: Dispatch) -> None:
    """Two dispatchers share the store; nothing is left in it."""
    everybody = [f"{n}@x.de" for n in range(150)]
    with outbox.storage.conversation(ANNA):
        outbox.fan_out("Subject: each\n\nhi", [(to, f"bounce-{to}") for to in everybody])
    with outbox.storage.conversation(BEN):
        outbox.fan_out("Subject: all\n\nhi", [(to, "") for to in everybody])
    dispatch()
    dispatch()
    done(outbox)
    assert Counter(received(sink)) == Counter((to, t) for to in everybody for t in ("each", "all"))
    assert sink.transactions == 150 + 2
    assert {(s, r) for s, r, m in sink.mails if b"each" in m} == {
        (f"<bounce-{to}>", f"<{to}>") for to in everybody
    }
    wait_for(lambda: not everything(outbox.storage, Kind.BODY), "the messages to be removed")
    assert sink.connections <= 8


@pytest.mark.parametrize("extensions", [(), ("PIPELINING", "8BITMIME", "SMTPUTF8")])
@memory
def test_a_message_arrives_as_it_is(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch, extensions: tuple[str, ...]
) -> None:
    sink.extensions = extensions
    message = "Message-ID: <1@x>\r\nDate: now\r\n\r\n.\r\n..é\r\n".encode()
    outbox.deliver(message, To=[ANNA, BEN], From="")
    dispatch()
    done(outbox)
    sent = message.replace(b"\r\n.", b"\r\n..")
    assert sink.mails == [("<>", f"<{to}>", sent) for to in (ANNA, BEN)]


@quick
def test_it_begins_at_once_in_this_process(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    dispatch(poll=1000.0, lease=4000.0)
    time.sleep(0.1)
    say(outbox, "hi", [ANNA])
    wait_for(lambda: sink.mails, "the mail")


@quick
def test_a_dispatcher_that_stops_gives_back_what_it_has(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    """At once, and not when the lease has ended; the transaction in hand has its answer."""
    asked, answer = threading.Event(), threading.Event()

    def wait(recipients: list[str]) -> str:
        asked.set()
        answer.wait(30)
        return "250 OK"

    sink.final_answer = wait
    with outbox.storage.conversation(ANNA):
        outbox.fan_out("Subject: hi\n\n", [(f"{n}@x.de", f"{n}@y.de") for n in range(30)])
    first = dispatch(connections=1, lease=1000)
    asked.wait(30)
    assert not first.stop(timeout=0)
    answer.set()
    assert first.stop()
    assert len(sink.mails) == 1
    dispatch()
    done(outbox)
    assert Counter(received(sink)) == Counter((f"{n}@x.de", "hi") for n in range(30))


# ---------------------------------------------------------------- order


@few
def test_what_one_sender_sends_to_one_leaves_in_order(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    """Although the first of them is refused for now, and others are not kept waiting."""
    times: Counter[str] = Counter()

    def answer(recipient: str) -> str:
        times[recipient] += 1
        return (
            "450 later" if recipient == "<ben@example.com>" and times[recipient] < 3 else "250 OK"
        )

    sink.answer_to = answer
    dispatch()
    dispatch()
    for number in range(5):
        say(outbox, f"{number}", [BEN, f"{number}@x.de"])
    done(outbox)
    got = received(sink)
    assert [text for to, text in got if to == BEN] == ["0", "1", "2", "3", "4"]
    assert Counter(got) == Counter((to, f"{n}") for n in range(5) for to in (BEN, f"{n}@x.de"))


@quick
def test_two_fan_outs_to_the_same_people(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    people = [f"{n}@x.de" for n in range(120)]
    dispatch()
    for text in "abc":
        say(outbox, text, people)
    done(outbox)
    got = received(sink)
    assert all([text for to, text in got if to == each] == ["a", "b", "c"] for each in people)


# ---------------------------------------------------------------- what a relay may do


@quick
def test_who_is_refused_for_now_and_for_good(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    """Every third for now and every fifth for good; who is accepted gets it once."""
    told: list[Mail] = []
    outbox.given_up = told.append
    times: Counter[str] = Counter()

    def answer(recipient: str) -> str:
        number = int(recipient.strip("<>").partition("@")[0])
        times[recipient] += 1
        if number % 5 == 0:
            return "550 5.1.1 nobody"
        return "451 4.3.2 later" if number % 3 == 0 and times[recipient] == 1 else "250 OK"

    sink.answer_to = answer
    dispatch()
    say(outbox, "all", [f"{n}@x.de" for n in range(60)])
    with outbox.storage.conversation(BEN):
        outbox.fan_out("Subject: each\n\n", [(f"{n}@x.de", f"{n}@y.de") for n in range(60, 120)])
    done(outbox)
    got = Counter(to for to, _ in received(sink))
    assert got == Counter(f"{n}@x.de" for n in range(120) if n % 5)
    dead = [group for mail in outbox.dead() for group in mail.groups]
    assert Counter(to for group in dead for to in group.recipients) == Counter(
        f"{n}@x.de" for n in range(120) if n % 5 == 0
    )
    assert {(group.answer, group.attempts) for group in dead} == {("550 5.1.1 nobody", 1)}
    assert len(told) == len(list(outbox.dead())) == outbox.backlog().dead


@memory
def test_those_who_are_given_up_together_share_a_message(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many words the relay has for it, and however often they are tried: it may be long."""
    commit = outbox.storage._commit
    kept: list[Write] = []

    def counted(writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        kept.extend(w for w in writes if w.kind is Kind.BODY and isinstance(w.value, bytes))
        return commit(writes)

    say(outbox, "hi", [f"{n}@x.de" for n in range(20)])
    sink.answer_to = lambda recipient: f"550 5.1.1 {recipient} is nobody"
    monkeypatch.setattr(outbox.storage, "_commit", counted)
    dispatch()
    done(outbox)
    for _ in range(2):
        assert [outbox.retry(mail) for mail in outbox.dead()] == [True] * 20
        done(outbox)
        assert outbox.backlog().dead == 20
    sink.answer_to = lambda recipient: "250 OK"
    assert [outbox.retry(mail) for mail in outbox.dead()] == [True] * 20
    wait_for(lambda: not everything(outbox.storage, Kind.BODY), "the message to be removed")
    assert len(sink.mails) == 20
    assert len(kept) == 1


@quick
def test_a_relay_that_closes_after_ten(outbox: Outbox, sink: SMTPSink, dispatch: Dispatch) -> None:
    sink.most = 10
    with outbox.storage.conversation(ANNA):
        outbox.fan_out("Subject: hi\n\n", [(f"{n}@x.de", f"{n}@y.de") for n in range(100)])
    dispatch(first_retry=1000.0, longest_retry=1000.0)
    done(outbox)
    assert len(set(received(sink))) == len(sink.mails) == 100


@memory
def test_whatever_a_relay_does_that_knows_the_next_envelope(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    """It closes after ten, and refuses recipients and mails: each who is taken gets it once."""
    sink.extensions, sink.most = ("PIPELINING",), 10
    times: Counter[str] = Counter()

    def answer(recipient: str) -> str:
        number = int(recipient.strip("<>").partition("@")[0])
        times[recipient] += 1
        if number % 5 == 0:
            return "550 nobody"
        return "451 later" if number % 3 == 0 and times[recipient] == 1 else "250 OK"

    def final(recipients: list[str]) -> str:
        return "451 later" if "<7@" in recipients[0] and times[recipients[0]] < 3 else "250 OK"

    sink.answer_to, sink.final_answer = answer, final
    with outbox.storage.conversation(ANNA):
        outbox.fan_out(
            "Subject: hi\n\n", [(f"{n}@{n % 2}.de", f"{n % 50}@y.de") for n in range(120)]
        )
    dispatch()
    done(outbox)
    assert Counter(to for to, _ in received(sink)) == Counter(
        f"{n}@{n % 2}.de" for n in range(120) if n % 5
    )
    assert outbox.backlog().dead == 24


@quick
def test_those_who_are_sent_it_side_by_side_are_marked_while_one_hangs(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    sink.extensions = ("PIPELINING",)
    go_on = threading.Event()

    def final(recipients: list[str]) -> str:
        if recipients == ["<2@2.de>"]:
            go_on.wait(60)
        return "250 OK"

    def waiting() -> set[str]:
        return {r for mail in outbox.pending() for each in mail.groups for r in each.recipients}

    sink.final_answer = final
    everybody = [f"{n}@{n}.de" for n in range(10)]
    with outbox.storage.conversation(ANNA):
        outbox.fan_out("Subject: hi\n\n", [(to, f"bounce-{to}") for to in everybody])
    dispatch()
    wait_for(lambda: waiting() == {"2@2.de", *everybody[5:]}, "the first, and those beside it")
    go_on.set()
    done(outbox)
    assert Counter(received(sink)) == Counter((to, "hi") for to in everybody)
    assert sink.connections == 4


@memory
def test_a_relay_that_takes_few_connections(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    """What it does not take over another one, it is given over those that it has."""
    sink.extensions = ("PIPELINING",)
    welcome: set[int] = set()

    def answer(sender: str) -> str:
        if len(welcome) < 3:
            welcome.add(threading.get_ident())  # each connection has its thread
        return "250 OK" if threading.get_ident() in welcome else "421 too many connections"

    sink.answer_from = answer
    with outbox.storage.conversation(ANNA):
        outbox.fan_out("Subject: hi\n\n", [(f"{n}@x.de", f"{n}@y.de") for n in range(25)])
    dispatch()
    done(outbox)
    assert Counter(received(sink)) == Counter((f"{n}@x.de", "hi") for n in range(25))


@memory
def test_a_dispatcher_that_stops_leaves_the_next_envelope_without_a_mail(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    sink.extensions = ("PIPELINING",)
    taking, asked, go_on = threading.Event(), threading.Event(), threading.Event()

    def answer(recipient: str) -> str:
        if recipient.startswith("<1@"):
            asked.set()
        return "250 OK"

    def final(recipients: list[str]) -> str:
        taking.set()
        go_on.wait(30)
        return "250 OK"

    sink.answer_to, sink.final_answer = answer, final
    with outbox.storage.conversation(ANNA):
        outbox.fan_out("Subject: hi\n\n", [(f"{n}@x.de", f"{n}@y.de") for n in range(3)])
    first = dispatch(connections=1, lease=1000)
    assert taking.wait(30)
    assert not first.stop(timeout=0)
    go_on.set()
    assert asked.wait(30)
    assert first.stop()
    dispatch()
    done(outbox)
    assert Counter(received(sink)) == Counter((f"{n}@x.de", "hi") for n in range(3))


@memory
def test_a_relay_that_takes_no_more_than_some(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    """The others are sent it right after, and not as if they were refused."""
    count = iter(range(1000))
    sink.answer_to = lambda recipient: "452 4.5.3 too many" if next(count) % 10 == 9 else "250 OK"
    say(outbox, "hi", [f"{n}@x.de" for n in range(50)])
    dispatch(first_retry=1000.0, longest_retry=1000.0)
    done(outbox)
    assert len(set(received(sink))) == len(sink.mails) == 50


@quick
def test_a_relay_that_is_away(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, nobody is given up, it is asked seldom; all goes on when it is back."""
    sink.__exit__()
    attempts = []
    connect = SMTPRelay.configure_relay

    def counted(self: SMTPRelay, hostname: str) -> smtplib.SMTP:
        attempts.append(time.monotonic())
        return connect(self, hostname)

    monkeypatch.setattr(SMTPRelay, "configure_relay", counted)
    say(outbox, "hi", [f"{n}@x.de" for n in range(500)])
    dispatch(first_retry=1000.0, longest_retry=1000.0)
    wait_for(lambda: attempts, "the first attempt")
    time.sleep(1.5)
    assert len(attempts) <= 4 * 3
    assert outbox.backlog()[::2] == (5, 0)
    with SMTPSink(sink.port) as again:
        done(outbox)
        assert len(set(received(again))) == len(again.mails) == 500


@quick
def test_a_domain_that_hangs_holds_nobody_up(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    """Neither those who share a transaction with it, nor those behind it."""
    go_on = threading.Event()

    def answer(recipient: str) -> str:
        if "slow" in recipient:
            go_on.wait(60)
        return "250 OK"

    sink.answer_to = answer
    outbox.relay = SMTPRelay("127.0.0.1", sink.port, timeout=1)
    everybody = [f"{n}@{'slow' if n % 10 == 0 else n % 3}.de" for n in range(80)]
    dispatch(connections=3)
    say(outbox, "all", everybody)
    with outbox.storage.conversation(BEN):
        outbox.fan_out("Subject: each\n\n", [(to, f"bounce-{to}") for to in everybody])
    quick_ones = {(to, t) for to in everybody for t in ("all", "each") if "slow" not in to}
    wait_for(lambda: set(received(sink)) >= quick_ones, "those who are not slow")
    go_on.set()
    done(outbox)
    assert Counter(received(sink)) == Counter((to, t) for to in everybody for t in ("all", "each"))


@memory
def test_an_answer_that_never_comes_is_an_uncertainty(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    """It is sent again, with the same Message-ID."""
    first: list[list[str]] = []

    def answer(recipients: list[str]) -> str:
        if not first:
            first.append(recipients)
            raise ConnectionResetError
        return "250 OK"

    sink.final_answer = answer
    say(outbox, "hi", [ANNA])
    [before] = everything(outbox.storage, Kind.BODY)
    dispatch()
    done(outbox)
    [(_, _, message)] = sink.mails
    assert isinstance(before.value, bytes)
    assert message == before.value.replace(b"\r\n.", b"\r\n..") + b"\r\n"


@pytest.mark.parametrize("reason", ["refused", "away"])
@memory
def test_it_gives_up_after_some_time(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch, reason: str
) -> None:
    if reason == "away":
        sink.__exit__()
    sink.answer_to = lambda recipient: "451 not yet"
    say(outbox, "hi", [ANNA, BEN])
    dispatch(give_up=timedelta(seconds=0.5))
    wait_for(lambda: outbox.backlog().dead, "the end")
    done(outbox)
    [mail] = outbox.dead()
    [group] = mail.groups
    assert list(group.recipients) == [ANNA, BEN]
    assert ("451 not yet" if reason == "refused" else "refused") in group.answer


# ---------------------------------------------------------------- other relays


class Own:
    """An application's own relay."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.delivered: list[tuple[str, str, str]] = []

    def deliver(self, message: Any, To: str, From: str) -> None:  # noqa: N803 - as in Salmon
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.delivered.append((To, From, str(message["Subject"])))


@memory
def test_an_object_with_deliver(outbox: Outbox, dispatch: Dispatch) -> None:
    own = outbox.relay = Own(
        smtplib.SMTPRecipientsRefused({BEN: (450, b"later")}),
        smtplib.SMTPDataError(451, b"later"),
        TimeoutError(),
        ValueError("a bug"),
        smtplib.SMTPRecipientsRefused({BEN: (550, b"never")}),
    )
    say(outbox, "hi", [BEN])
    dispatch()
    done(outbox)
    say(outbox, "both", [ANNA, LIST])
    done(outbox)
    assert own.delivered == [(ANNA, LIST, "both"), (LIST, LIST, "both")]
    [mail] = outbox.dead()
    assert [(g.answer, g.attempts) for g in mail.groups] == [("550 never", 5)]


@memory
def test_salmons_relay_keeps_its_connections(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    outbox.relay = Relay("127.0.0.1", sink.port)
    with outbox.storage.conversation(ANNA):
        outbox.fan_out("Subject: hi\n\n", [(f"{n}@x.de", f"{n}@y.de") for n in range(50)])
    dispatch(connections=2)
    done(outbox)
    assert len(sink.mails) == 50
    assert sink.connections <= 2


# ---------------------------------------------------------------- the store


@pytest.mark.parametrize("happened", [False, True])
@memory
def test_a_store_that_is_away_when_it_is_sent(
    outbox: Outbox,
    sink: SMTPSink,
    dispatch: Dispatch,
    monkeypatch: pytest.MonkeyPatch,
    happened: bool,
) -> None:
    """It is marked when the store is back, however long that takes; nothing is sent twice."""
    store = outbox.storage
    commit, page = store._commit, store._page
    away: list[bool] = []

    def failing(writes: Iterable[Write]) -> list[int]:
        if sink.mails and not away:
            away.append(True)
            if happened:
                commit(writes)
        if away == [True]:
            raise StorageUnavailable("away")
        return commit(writes)

    def no_page(*arguments: Any) -> Any:
        if away == [True]:
            raise StorageUnavailable("away")
        return page(*arguments)

    monkeypatch.setattr(store, "_commit", failing)
    monkeypatch.setattr(store, "_page", no_page)
    outbox.deliver("Subject: hi\n\n", To=[ANNA, BEN], From=LIST)
    dispatch(lease=0.4)
    wait_for(lambda: away, "the outage")
    time.sleep(1.0)  # longer than the lease
    away.append(False)
    done(outbox)
    assert [to for to, _ in received(sink)] == [ANNA, BEN]


@memory
def test_a_claim_that_another_has_is_left_alone(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    """Whoever stood still for longer than his lease does not go on."""
    store = outbox.storage
    taken: list[str] = []

    def answer(recipients: list[str]) -> str:
        taken.extend(recipients)
        if len(taken) == 1:
            [entry] = everything(store, Kind.OUTGOING)
            store._commit([Write(*entry[:4], (entry.at or 0) + 10**9)])
        return "250 OK"

    sink.final_answer = answer
    with store.conversation(ANNA):
        outbox.fan_out("Subject: hi\n\n", [(f"{n}@x.de", f"{n}@y.de") for n in range(5)])
    dispatch()
    wait_for(lambda: taken, "the first")
    time.sleep(0.5)
    assert taken == ["<0@x.de>"]


@memory
def test_a_message_that_is_gone(outbox: Outbox, sink: SMTPSink, dispatch: Dispatch) -> None:
    say(outbox, "hi", [ANNA])
    [body] = everything(outbox.storage, Kind.BODY)
    outbox.storage._commit([Write(*body[:3], None)])
    dispatch()
    done(outbox)
    [mail] = outbox.dead()
    assert [group.answer for group in mail.groups] == ["its message is not in the store"]
    assert not outbox.retry(mail)


@memory
def test_what_is_damaged_keeps_nobody_waiting(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    now = outbox.storage._clock()
    writes = [Write(Kind.OUTGOING, ANNA, f"0{n}-0", b"[7,%d]" % n, now) for n in range(3)]
    outbox.storage._commit(writes)
    dispatch()
    say(outbox, "hi", [ANNA])
    wait_for(lambda: sink.mails, "the mail")


@memory
def test_messages_that_nobody_needs_are_removed(
    store: StateStorage, outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    """Such as after a crash between two who were the last; and old dead letters."""
    now = store._clock()
    say(outbox, "hi", [ANNA])
    [needed] = everything(store, Kind.BODY)
    [waiting] = everything(store, Kind.OUTGOING)
    store._commit([Write(*waiting[:4], now + 10**9), Write(*needed[:4], now - 1)])
    store._commit(
        [
            Write(
                Kind.BODY,
                BEN,
                f"{n:02}",
                b"x",
                now - 1,
            )
            for n in range(25)
        ]
    )
    store._commit([Write(Kind.DEAD, BEN, "x-0", b"x", now - 1)])
    dispatch()
    wait_for(lambda: store._count(Kind.BODY) == 1 and not store._count(Kind.DEAD), "the rest")
    assert store._find(*needed[:3]) == needed.value


# ---------------------------------------------------------------- operators


@few
def test_what_an_operator_sees_and_does(outbox: Outbox, sink: SMTPSink, dispatch: Dispatch) -> None:
    assert outbox.backlog() == (0, None, 0)
    sink.answer_to = lambda recipient: "550 no" if "anna" in recipient else "451 later"
    say(outbox, "hi", [ANNA, BEN])
    dispatcher = dispatch(first_retry=1000.0, longest_retry=1000.0)
    wait_for(lambda: outbox.backlog().dead, "the answers")
    dispatcher.stop()
    [waiting], [dead] = outbox.pending(), outbox.dead()
    assert waiting.sender == dead.sender == ANNA
    assert [g[:2] + g[3:] for g in waiting.groups] == [(LIST, [BEN], 1, "451 later")]
    assert [g[:2] + g[3:] for g in dead.groups] == [(LIST, [ANNA], 1, "550 no")]
    assert waiting.since == dead.since
    assert waiting.due is not None
    assert waiting.since is not None
    assert timedelta(seconds=700) < waiting.due - waiting.since < timedelta(seconds=1300)
    assert outbox.backlog() == (1, waiting.due, 1)

    sink.answer_to = lambda recipient: "250 OK"
    assert outbox.retry(waiting)
    assert not outbox.retry(waiting)
    assert not outbox.drop(waiting)
    assert outbox.retry(dead)
    assert not outbox.retry(dead)
    dispatch()
    done(outbox)
    assert sorted(to for to, _ in received(sink)) == [ANNA, BEN]
    wait_for(lambda: not everything(outbox.storage, Kind.BODY), "the messages to be removed")
    assert outbox.backlog() == (0, None, 0)


@quick
def test_dropping(outbox: Outbox, sink: SMTPSink, dispatch: Dispatch) -> None:
    sink.answer_to = lambda recipient: "550 no"
    say(outbox, "hi", [ANNA])
    dispatcher = dispatch()
    wait_for(lambda: outbox.backlog().dead, "the answer")
    dispatcher.stop()
    say(outbox, "hi", [BEN])
    for mail in [*outbox.pending(), *outbox.dead()]:
        assert outbox.drop(mail)
        assert not outbox.drop(mail)
    assert outbox.backlog() == (0, None, 0)
    assert everything(outbox.storage, Kind.BODY) == []


@memory
def test_what_is_being_sent_is_not_taken_away(
    outbox: Outbox, sink: SMTPSink, dispatch: Dispatch
) -> None:
    go_on = threading.Event()
    asked = threading.Event()

    def answer(recipients: list[str]) -> str:
        asked.set()
        go_on.wait(30)
        return "250 OK"

    sink.final_answer = answer
    say(outbox, "hi", [ANNA])
    dispatch()
    asked.wait(30)
    [mail] = outbox.pending()
    assert not outbox.drop(mail)
    assert not outbox.retry(mail)
    go_on.set()
    done(outbox)
    assert len(sink.mails) == 1


def test_a_hook_that_fails_stops_nothing() -> None:
    store = MemoryStorage()
    with SMTPSink() as sink:
        sink.answer_to = lambda recipient: "550 no" if "anna" in recipient else "250 OK"
        outbox = Outbox(store, SMTPRelay("127.0.0.1", sink.port))
        outbox.given_up = lambda mail: [][0]
        outbox.deliver("x: y\n\n", To=[ANNA, BEN], From=LIST)
        with Dispatcher(outbox):
            done(outbox)
        assert [to for to, _ in received(sink)] == [BEN]
