"""What is recorded, and when: with the states or not at all."""

from __future__ import annotations

import contextlib
import itertools
import tracemalloc
from collections.abc import Iterator
from contextlib import nullcontext
from email import message_from_bytes
from email.message import Message
from typing import Any

import pytest
from salmon.mail import MailRequest, MailResponse
from salmon.server import Relay, SMTPError

from salmon_state import MemoryStorage, StateStorage
from salmon_state.entries import EVERY, Kind, Write
from salmon_state.mail.batches import decode
from salmon_state.mail.outbox import Outbox
from salmon_state.testing.endings import refused
from salmon_state.testing.suite import everything

ANNA, BEN, LIST = "anna@example.com", "ben@example.com", "list@example.com"
HI = b"Message-ID: <1@x>\r\nDate: now\r\n\r\nhello\r\n"


def envelopes(outbox: Outbox) -> list[tuple[str, str]]:
    """Returns who is to be sent something, and from whom."""
    return [
        (recipient, group.sender)
        for mail in outbox.pending()
        for group in mail.groups
        for recipient in group.recipients
    ]


def messages(store: StateStorage) -> list[bytes]:
    return [bytes(entry.value) for entry in everything(store, Kind.BODY)]  # type: ignore[arg-type]


def fail(outbox: Outbox, error: BaseException) -> None:
    """Sends something in a conversation that ends with an error."""
    with contextlib.suppress(type(error)), outbox.storage.conversation(ANNA):
        outbox.deliver(HI, To=BEN, From=LIST)
        raise error


@pytest.fixture
def outbox(store: StateStorage) -> Outbox:
    return Outbox(store)


# ---------------------------------------------------------------- with the states


def test_what_a_conversation_sends_is_there_with_its_states(outbox: Outbox) -> None:
    store = outbox.storage
    with store.conversation(ANNA):
        store.set("app", ANNA, "ASKED")
        outbox.deliver(HI, To=ANNA, From=LIST)
        assert envelopes(outbox) == []
    assert envelopes(outbox) == [(ANNA, LIST)]
    assert messages(store) == [HI]
    assert store.get("app", ANNA) == "ASKED"


@pytest.mark.parametrize(
    "error", [SMTPError(451), ValueError("a bug"), SystemExit(), SMTPError(550)]
)
def test_nothing_is_sent_when_it_ends_with_an_error(outbox: Outbox, error: BaseException) -> None:
    """One that comes again, or is committed as ERROR, or ends the process."""
    fail(outbox, error)
    assert envelopes(outbox) == []
    assert messages(outbox.storage) == []


def test_nothing_is_sent_by_whoever_is_overtaken(outbox: Outbox, open_store: Any) -> None:
    store = outbox.storage
    if isinstance(store, MemoryStorage):
        pytest.skip("nobody else has it")
    with refused(store, ANNA), open_store() as other:
        store.get("app", ANNA)
        outbox.deliver(HI, To=ANNA, From=LIST)
        other.set("app", ANNA, "ELSEWHERE")
    assert envelopes(outbox) == []


def test_what_a_layer_that_comes_again_sent_is_dropped_alone(outbox: Outbox) -> None:
    store = outbox.storage
    with store.conversation(ANNA):
        outbox.deliver(HI, To=ANNA, From=LIST)
        for error in (SMTPError(451), ValueError()):
            fail(outbox, error)
    assert envelopes(outbox) == [(ANNA, LIST)]


def test_outside_of_a_conversation_it_is_a_commit_of_its_own(outbox: Outbox) -> None:
    outbox.deliver(HI, To=ANNA, From=LIST)
    assert envelopes(outbox) == [(ANNA, LIST)]


def test_all_that_a_mail_sends_is_its_senders(outbox: Outbox) -> None:
    """So that it is one commit, and leaves in its order, in a cluster as well."""
    store = outbox.storage
    with store.conversation(ANNA):
        outbox.deliver(HI, To=ANNA, From=LIST)
        with store.conversation(BEN):
            outbox.deliver(HI, To=BEN, From=LIST)
    assert {entry.sender for entry in everything(store, Kind.OUTGOING)} == {ANNA}
    assert {entry.sender for entry in everything(store, Kind.BODY)} == {ANNA}


def testlisteners_hear_of_it_after_the_commit(outbox: Outbox) -> None:
    heard: list[int] = []
    outbox.listeners.append(lambda: heard.append(len(envelopes(outbox))))
    with outbox.storage.conversation(ANNA), outbox.storage.conversation(ANNA):
        outbox.deliver(HI, To=ANNA, From=LIST)
        outbox.deliver(HI, To=BEN, From=LIST)
    assert heard == [2]
    fail(outbox, SMTPError(451))
    assert heard == [2]


# ---------------------------------------------------------------- many recipients


def test_a_message_is_kept_once(outbox: Outbox) -> None:
    store = outbox.storage
    with store.conversation(ANNA):
        outbox.fan_out(HI, ((f"{n}@x.de", f"bounce-{n}@y.de") for n in range(1000)))
        for number in range(5):
            outbox.deliver(HI, To=f"more{number}@x.de", From=LIST)
    assert len(envelopes(outbox)) == 1005
    assert messages(store) == [HI]
    assert sorted(envelopes(outbox))[0] == ("0@x.de", "bounce-0@y.de")


def test_two_commits_share_no_message(outbox: Outbox) -> None:
    """One of them may be done when the other is not."""
    for _ in range(2):
        with outbox.storage.conversation(ANNA):
            outbox.deliver(HI, To=ANNA, From=LIST)
    assert messages(outbox.storage) == [HI, HI]


def test_batches_are_bounded(outbox: Outbox) -> None:
    with outbox.storage.conversation(ANNA):
        outbox.fan_out(HI, [(f"{n}@x.de", LIST) for n in range(250)])
        outbox.fan_out(HI, [(f"{n}@x.de", f"{n}@y.de") for n in range(60)])
    batches = [decode(e) for e in outbox.storage._load(ANNA, [(Kind.OUTGOING, EVERY)])]
    sizes = sorted((len(b.groups), sum(len(g.recipients) for g in b.groups)) for b in batches)
    assert sizes == [(1, 50), (1, 100), (1, 100), (10, 10), (25, 25), (25, 25)]


@pytest.mark.parametrize("inside", [True, False])
def test_many_thousand_recipients(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    """They are one commit, and take little memory."""
    store = outbox.storage
    if not isinstance(store, MemoryStorage):
        pytest.skip("it is about the outbox")
    commits: list[int] = []

    def commit(writes: Iterator[Write]) -> list[int]:
        values = (write.value for write in writes)
        commits.append(sum(len(value) for value in values if isinstance(value, bytes)))
        return []

    monkeypatch.setattr(store, "_commit", commit)
    many = ((f"{n}@example.com", f"bounce-{n:040}@lists.example.com") for n in range(40_000))
    tracemalloc.start()
    try:
        if inside:
            with store.conversation(ANNA):
                outbox.fan_out(HI, many)
        else:
            outbox.fan_out(HI, many)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    [written] = commits
    assert written > 3_200_000
    assert peak < (2 * written if inside else 2_000_000)


def test_nobody_is_nobody(outbox: Outbox) -> None:
    outbox.fan_out(HI, [])
    assert messages(outbox.storage) == []


@pytest.mark.parametrize("inside", [True, False])
def test_an_envelope_that_cannot_be_spoils_all(
    outbox: Outbox, inside: bool, caplog: pytest.LogCaptureFixture
) -> None:
    everybody = [*((f"{n}@x.de", LIST) for n in range(300)), ("", LIST)]
    with (
        outbox.storage.conversation(ANNA) if inside else nullcontext(),
        pytest.raises(ValueError, match="recipient must be an address"),
    ):
        outbox.fan_out(HI, everybody)
    assert envelopes(outbox) == []
    assert caplog.messages == []  # the store has not failed


# ---------------------------------------------------------------- as Salmon's relay


class Talking(Relay):
    """Salmon's own relay, which says what it would send."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 25)
        self.said: list[tuple[str, str, str]] = []

    def configure_relay(self, hostname: str) -> Any:
        said = self.said

        class Connection:
            def sendmail(self, sender: str, recipient: str, message: str) -> None:
                said.append((sender, recipient, message))

            def quit(self) -> None: ...

        return Connection()


def memory_outbox() -> Outbox:
    return Outbox(MemoryStorage())


REQUEST = MailRequest(
    "peer", "anna@example.com", LIST, "From: Anna <A@x.de>\nSubject: hi\n\nhello\n"
)


@pytest.mark.parametrize(
    "call",
    [
        lambda relay: relay.send(ANNA, LIST, "Subject ü", "Body ü\n.\n"),
        lambda relay: relay.reply(REQUEST, LIST, "Re: hi", "yes"),
        lambda relay: relay.deliver(MailResponse(To=ANNA, From=LIST, Subject="s", Html="<p>x")),
        lambda relay: relay.deliver(MailResponse(To=ANNA, From=LIST, Body="b"), To=BEN, From=ANNA),
        lambda relay: relay.deliver(REQUEST, To=BEN),
        lambda relay: relay.deliver(REQUEST),
    ],
)
def test_the_same_as_with_salmons_relay(call: Any) -> None:
    relay, outbox = Talking(), memory_outbox()
    call(relay)
    call(outbox)
    [(sender, recipient, message)] = relay.said
    assert envelopes(outbox) == [(recipient, sender)]
    [kept] = messages(outbox.storage)
    ours, theirs = message_from_bytes(kept), message_from_bytes(message.encode())
    assert _content(ours) == _content(theirs)


def _content(message: Message) -> list[Any]:
    """Returns what is in a message, whatever its lines end with and its parts are kept apart by."""
    left_out = ("Message-ID", "Date", "Content-Type")
    headers = [(name, value) for name, value in message.items() if name not in left_out]
    parts = [(part.get_content_type(), part.get_payload(decode=True)) for part in message.walk()]
    return [headers, *((kind, isinstance(p, bytes) and p.split()) for kind, p in parts)]


def test_a_null_sender_is_one() -> None:
    outbox = memory_outbox()
    outbox.deliver(HI, To=[ANNA, "Ben <ben@example.com>"], From="")
    assert envelopes(outbox) == [(ANNA, ""), (BEN, "")]


@pytest.mark.parametrize(
    "message",
    [
        MailResponse(To="Ben <ben@example.com>, anna@example.com", From=LIST, Body="b"),
        message_from_bytes(f"To: {BEN},\n {ANNA}\nFrom: {LIST}\n\nhi\n".encode()),
        message_from_bytes(f"To: \xc4 <{BEN}>, {ANNA}\nFrom: \xd6 <{LIST}>\n\nhi\n".encode()),
    ],
)
def test_whoever_a_header_names_is_sent_it(message: Any) -> None:
    """Salmon's relay would send it to the first of them."""
    outbox = memory_outbox()
    outbox.deliver(message)
    assert envelopes(outbox) == [(BEN, LIST), (ANNA, LIST)]


@pytest.mark.parametrize("message", ["Subject: hi\n\nhello\n", b"Subject: hi\n\nhello\n"])
def test_a_text_names_nobody(message: Any) -> None:
    with pytest.raises(ValueError, match="recipient must be an address"):
        memory_outbox().deliver(message, From=LIST)


@pytest.mark.parametrize("to", [None, "", 7, "a@x\0.de", "<>"])
def test_what_is_no_address(to: Any) -> None:
    with pytest.raises(ValueError, match="recipient must be an address"):
        memory_outbox().fan_out(HI, [(to, LIST)])
    with pytest.raises(ValueError, match="recipient must be an address"):
        memory_outbox().deliver(HI, To=[ANNA, to], From=LIST)


def test_no_address_can_say_more() -> None:
    outbox = memory_outbox()
    outbox.deliver(HI, To="a\r\nRCPT TO:<b@x.de>", From=LIST)
    [(recipient, _)] = envelopes(outbox)
    assert recipient == "b@x.de"


@pytest.mark.parametrize(
    "address", ["o'neil@x.de", '"a b"@x.de', "ü@x.de", "<a@x.de>", "A <a@x.de>"]
)
def test_what_is_an_address(address: str) -> None:
    outbox = memory_outbox()
    outbox.deliver(HI, To=address, From=LIST)
    [(recipient, _)] = envelopes(outbox)
    assert recipient == address.removeprefix("A ").strip("<>")


@pytest.mark.parametrize(
    "message",
    [
        "Subject: hi\n\nhello é\n.\nend",
        b"Subject: hi\r\n\r\nhello \xff\r\n.\rend",
        message_from_bytes(b"Subject: hi\nContent-Type: text/plain; charset=nonsense\n\n\xe9\n"),
    ],
)
def test_a_message_is_completed_and_otherwise_as_it_was(message: Any) -> None:
    outbox = memory_outbox()
    outbox.deliver(message, To=ANNA, From=LIST)
    [kept] = messages(outbox.storage)
    assert kept.count(b"Message-ID: <") == kept.count(b"Date: ") == 1
    assert kept.replace(b"\r\n", b"").count(b"\n") == kept.replace(b"\r\n", b"").count(b"\r") == 0
    assert b"\xe9" in kept or b"\xff" in kept or "é".encode() in kept


def test_what_it_stands_on() -> None:
    with pytest.raises(TypeError, match="must be a StateStorage"):
        Outbox(object())  # type: ignore[arg-type]


def test_names_grow_whatever_the_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = memory_outbox()
    clock = itertools.count(10**15, -1)
    monkeypatch.setattr(outbox.storage, "_clock", lambda: next(clock))
    names = [outbox._new_name() for _ in range(100)]
    assert sorted(names) == names
