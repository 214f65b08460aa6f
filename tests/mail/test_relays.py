"""Where mail goes."""

from __future__ import annotations

import mailbox
import threading
import time
from email import message_from_bytes
from email.message import EmailMessage
from pathlib import Path

import pytest

from salmon_state.mail.answers import Answer, ConnectionLost, NoRoom, RelayDown
from salmon_state.mail.relays import MaildirRelay, SMTPRelay
from salmon_state.mail.sessions import Line, Session, open_session
from salmon_state.mail.smtp import Addresses, SMTPSession
from tests.end_to_end.smtp_sink import SMTPSink, wait_for

DATA = b"Subject: hi\r\nContent-Type: text/plain; charset=latin-1\r\n\r\n\xe9\r\n.\r\n"


@pytest.fixture(params=[(), ("PIPELINING", "8BITMIME", "SMTPUTF8")], ids=["plain", "extended"])
def sink(request: pytest.FixtureRequest, sink: SMTPSink) -> SMTPSink:
    sink.extensions = request.param
    return sink


def send(
    session: Session, sender: str, recipients: list[str], following: Addresses | None = None
) -> dict[str, Answer] | None:
    """Sends DATA, and says the envelope of the next mail."""
    session.begin(sender, recipients, DATA)
    refused = session.finish()
    if following is not None:
        session.announce(*following)
    return refused


def test_a_relay_sends_a_mail_as_it_is(sink: SMTPSink) -> None:
    session = open_session(SMTPRelay("127.0.0.1", sink.port))
    for _ in range(2):
        assert send(session, "", ["anna@example.com", "ben@example.com"]) == {}
    session.close()
    sent = DATA.replace(b"\r\n.", b"\r\n..")
    assert sink.mails == [("<>", f"<{n}@example.com>", sent) for n in ("anna", "ben")] * 2


def test_a_connection_goes_on_after_refusals(sink: SMTPSink) -> None:
    sink.answer_to = lambda recipient: "550 no" if "x" in recipient else "250 OK"
    session = open_session(SMTPRelay("127.0.0.1", sink.port))
    no = Answer(550, "550 no")
    assert send(session, "me@y", ["x@y"]) == {"x@y": no}
    assert send(session, "me@y", ["x@y", "a@y"]) == {"x@y": no}
    sink.final_answer = lambda recipients: "552 too large"
    assert send(session, "me@y", ["a@y"]) == {"a@y": Answer(552, "552 too large")}
    sink.final_answer = lambda recipients: "250 OK"
    assert send(session, "me@y", ["a@y"]) == {}
    session.close()
    assert sink.connections == 1


def test_any_answer_that_begins_with_a_two_is_a_yes(sink: SMTPSink) -> None:
    """Only its first digit says that (RFC 5321, 4.2); whoever took it for a no would send again."""
    sink.answer_from = lambda sender: "251 OK"
    sink.answer_to = lambda recipient: "252 will see"
    sink.final_answer = lambda recipients: "200 thanks"
    session = open_session(SMTPRelay("127.0.0.1", sink.port))
    assert send(session, "me@y", ["a@y", "b@y"]) == {}
    session.close()
    assert len(sink.mails) == 2


def test_a_relay_that_asks_for_a_message_to_nobody(sink: SMTPSink) -> None:
    """With PIPELINING it may: DATA is on its way before the refusals come (RFC 2920, 3.1)."""
    sink.may_be_nobody = True
    sink.answer_to = lambda recipient: "550 no" if "x" in recipient else "250 OK"
    session = open_session(SMTPRelay("127.0.0.1", sink.port))
    assert send(session, "me@y", ["x@y"]) == {"x@y": Answer(550, "550 no")}
    assert send(session, "me@y", ["a@y"]) == {}
    session.close()
    assert [recipient for _, recipient, _ in sink.mails] == ["<a@y>"]
    assert sink.connections == 1


def test_a_sender_that_is_refused(sink: SMTPSink) -> None:
    sink.answer_from = lambda sender: "550 not you" if "me" in sender else "250 OK"
    session = open_session(SMTPRelay("127.0.0.1", sink.port))
    no = Answer(550, "550 not you")
    assert send(session, "me@y", ["a@y", "b@y"]) == {"a@y": no, "b@y": no}
    assert send(session, "you@y", ["a@y"]) == {}
    session.close()
    assert [(sender, recipient) for sender, recipient, _ in sink.mails] == [("<you@y>", "<a@y>")]
    assert sink.connections == 1


def test_the_next_envelope_is_said_while_the_last_one_is_marked(sink: SMTPSink) -> None:
    """With PIPELINING; without a final dot nothing of it is sent."""
    asked: list[str] = []

    def answer(recipient: str) -> str:
        asked.append(recipient)
        return "550 no" if "x" in recipient else "250 OK"

    sink.answer_to = answer
    session = open_session(SMTPRelay("127.0.0.1", sink.port))
    assert send(session, "me@y", ["a@y"], ("you@y", ["x@y", "b@y"])) == {}
    assert session.is_in_transaction == bool(sink.extensions)
    if sink.extensions:
        wait_for(lambda: len(asked) == 3, "the next envelope")
    no = Answer(550, "550 no")
    assert send(session, "you@y", ["x@y", "b@y"], ("me@y", ["x@y"])) == {"x@y": no}
    assert send(session, "me@y", ["x@y"], ("me@y", ["c@y"])) == {"x@y": no}
    session.close()
    assert asked[:4] == ["<a@y>", "<x@y>", "<b@y>", "<x@y>"]
    assert [(sender, recipient) for sender, recipient, _ in sink.mails] == [
        ("<me@y>", "<a@y>"),
        ("<you@y>", "<b@y>"),
    ]


def test_side_by_side_nobody_waits_for_one_who_hangs(sink: SMTPSink) -> None:
    """With PIPELINING; what became of the others is known before, and each has a connection."""
    go_on = threading.Event()

    def answer(recipients: list[str]) -> str:
        if recipients == ["<slow@y>"]:
            go_on.wait(60)
        if recipients == ["<b@y>"]:
            time.sleep(0.3)
        return "250 OK"

    sink.final_answer = answer
    line = Line(SMTPRelay("127.0.0.1", sink.port), 3)
    assert list(line.send([("me@y", ["a@y"])], DATA)) == [{0: {}}]
    assert line.width == (3 if sink.extensions else 1)
    if sink.extensions:
        mails = [("me@y", [f"{name}@y"]) for name in ("slow", "b", "x")]
        sink.answer_to = lambda recipient: "550 no" if "x" in recipient else "250 OK"
        outcomes = line.send(mails, DATA, [("me@y", ["c@y"])])
        found = next(outcomes)
        while len(found) < 2:
            found |= next(outcomes)
        assert found == {1: {}, 2: {"x@y": Answer(550, "550 no")}}
        go_on.set()
        assert list(outcomes) == [{0: {}}]
        assert list(line.send([("me@y", ["c@y"])], DATA)) == [{0: {}}]
        assert sink.connections == 3
    line.close()


def test_another_envelope_than_was_said_goes_over_another_connection(sink: SMTPSink) -> None:
    line = Line(SMTPRelay("127.0.0.1", sink.port))
    assert list(line.send([("me@y", ["a@y"])], DATA, [("me@y", ["b@y"])])) == [{0: {}}]
    assert list(line.send([("me@y", ["c@y"])], DATA)) == [{0: {}}]
    line.close()
    assert [recipient for _, recipient, _ in sink.mails] == ["<a@y>", "<c@y>"]
    assert sink.connections == (2 if sink.extensions else 1)


def test_a_relay_that_takes_one_connection(sink: SMTPSink) -> None:
    """It is left alone with others for a while; and an answer that nobody awaits any more goes."""
    go_on = threading.Event()
    sink.extensions = ("PIPELINING",)
    line = Line(SMTPRelay("127.0.0.1", sink.port), 3)
    assert list(line.send([("me@y", ["a@y"])], DATA)) == [{0: {}}]
    assert line.width == 3
    sink.final_answer = lambda recipients: "250 OK" if go_on.wait(60) else ""
    sink.answer_from = lambda sender: "421 busy" if "you" in sender else "250 OK"
    outcomes = line.send([("me@y", ["a@y"]), ("you@y", ["b@y"]), ("me@y", ["c@y"])], DATA)
    failed = next(outcomes)
    assert {number: type(error) for number, error in failed.items()} == {1: NoRoom, 2: NoRoom}
    assert line.width == 1
    line.abandon()
    go_on.set()
    sink.final_answer = lambda recipients: "452 full"
    assert list(line.send([("me@y", ["c@y"])], DATA)) == [{0: {"c@y": Answer(452, "452 full")}}]
    line.close()


def test_addresses_that_are_not_ascii(sink: SMTPSink) -> None:
    session = open_session(SMTPRelay("127.0.0.1", sink.port))
    refused = send(session, "me@y", ["ü@y", "a@y", "\udcff@y"])
    session.close()
    assert refused is not None
    assert {answer.code for answer in refused.values()} == {553}
    assert set(refused) == {"\udcff@y"} | (set() if sink.extensions else {"ü@y"})
    assert {recipient for _, recipient, _ in sink.mails} == (
        {"<a@y>", "<ü@y>"} if sink.extensions else {"<a@y>"}
    )


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("550-no, and\r\n550 not later", Answer(550, "550 no, and not later")),
        ("550", Answer(550, "550 ")),
        ("what?", Answer(-1, "-1 ?")),
    ],
)
def test_answers_of_every_form(sink: SMTPSink, said: str, heard: Answer) -> None:
    sink.answer_to = lambda recipient: said if "a@" in recipient else "250-yes\r\n250-\r\n250 OK"
    session = open_session(SMTPRelay("127.0.0.1", sink.port))
    assert send(session, "me@y", ["a@y", "b@y"]) == {"a@y": heard}
    session.close()


def test_an_answer_without_an_end(sink: SMTPSink) -> None:
    sink.answer_to = lambda recipient: "2" * 100_000
    session = open_session(SMTPRelay("127.0.0.1", sink.port))
    with pytest.raises(ConnectionLost, match="too long"):
        send(session, "me@y", ["a@y"])


@pytest.mark.parametrize("answer", ["421 busy", "", "silence"])
def test_a_connection_that_breaks(sink: SMTPSink, answer: str) -> None:
    def reply(recipient: str) -> str:
        if answer == "silence":
            sink.may_answer.wait(10)
        elif not answer:
            raise ConnectionResetError
        return answer or "250 OK"

    sink.answer_to = reply
    session = open_session(SMTPRelay("127.0.0.1", sink.port))
    assert isinstance(session, SMTPSession)
    if answer == "silence":
        session._wait(0.3)  # and not earlier: whoever only answers slowly is not silent
    sink.may_answer.clear()
    expected = RelayDown if answer == "421 busy" else ConnectionLost
    with pytest.raises(expected) as lost:
        send(session, "me@y", ["a@y"])
    if isinstance(lost.value, ConnectionLost):
        assert (lost.value.hung, lost.value.uncertain) == (answer == "silence", False)
    session.close()


def test_what_was_taken_is_sent_however_the_farewell_goes(sink: SMTPSink) -> None:
    sink.farewell = "500 never heard of it"
    session = open_session(SMTPRelay("127.0.0.1", sink.port))
    send(session, "", ["a@x"])
    session.close()
    assert len(sink.mails) == 1


def test_a_login_that_the_relay_does_not_offer_is_an_error(sink: SMTPSink) -> None:
    relay = SMTPRelay("127.0.0.1", sink.port, user="me", password="hunter2")
    assert "hunter2" not in repr(relay)
    with pytest.raises(RelayDown, match="SMTPNotSupportedError") as down:
        open_session(relay)
    assert "hunter2" not in str(down.value)


@pytest.mark.parametrize("host", ["127.0.0..1", "x" * 70 + ".example.com"])
def test_what_no_host_is_called_cannot_be_reached(host: str) -> None:
    """Python says so by another error than of a host that there is not."""
    with pytest.raises(RelayDown, match="UnicodeError"):
        open_session(SMTPRelay(host))


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_without_tls_nothing_is_sent_to_a_relay_that_must_have_it(sink: SMTPSink, tls: str) -> None:
    with pytest.raises(RelayDown):
        open_session(SMTPRelay("127.0.0.1", sink.port, tls=tls, timeout=5))
    with pytest.raises(ValueError, match="tls must be"):
        SMTPRelay("127.0.0.1", sink.port, tls="ssl")


def test_a_maildir_records_the_envelope(tmp_path: Path) -> None:
    mail = EmailMessage()
    mail["Subject"] = "hi"
    mail.set_content("hello é")
    relay = MaildirRelay(tmp_path / "outbox")
    relay.deliver(mail, To="anna@example.com\nBcc: x", From="")
    relay.deliver(message_from_bytes(DATA), To="anna@example.com", From="")
    kept, other = sorted(mailbox.Maildir(tmp_path / "outbox"), key=len)[::-1]
    assert (kept["X-Envelope-To"], kept["X-Envelope-From"]) == ("<anna@example.com Bcc: x>", "<>")
    assert kept["Subject"] == "hi"
    assert kept.get_payload(decode=True) == "hello é\n".encode()
    assert other.get_payload(decode=True) == b"\xe9\n.\n"
