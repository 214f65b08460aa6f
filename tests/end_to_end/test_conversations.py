"""Whole conversations with the real server, by every way in."""

from __future__ import annotations

import contextlib
import signal
import smtplib
import threading

import pytest

from tests.end_to_end.conftest import AllSent, Serve, States
from tests.end_to_end.conversation import ask, bounce, confirm, leave, post
from tests.end_to_end.mail_server import wait_until

ANNA, BEN = "anna@example.com", "ben@example.com"


@pytest.mark.parametrize(
    ("receiver", "how"),
    [
        ("smtp", "serve"),
        ("lmtp", "serve"),
        ("queue", "serve"),
        ("smtp", "foreground"),
        ("lmtp", "debug"),
    ],
)
def test_a_whole_conversation(receiver: str, how: str, serve: Serve, states: States) -> None:
    server = serve(receiver=receiver, how=how)
    confirm(server, ANNA, ask(server, ANNA))
    confirm(server, BEN, ask(server, BEN))
    post(server, ANNA, "Dear all", ANNA, BEN)
    leave(server, BEN)
    post(server, ANNA, "Where is Ben?", ANNA)

    assert not [mail for mail in server.mail_to(BEN) if "Where is Ben" in mail.as_string()]
    assert "Traceback" not in server.output(), server.output()
    assert states() == {ANNA: "POSTING"}


def test_a_stranger_is_refused_while_on_the_line(serve: Serve) -> None:
    server = serve()
    with pytest.raises(smtplib.SMTPDataError) as refused:
        server.send(ANNA, "news")
    assert refused.value.smtp_code == 550
    assert server.mail_to(ANNA) == []


@pytest.mark.parametrize("receiver", ["smtp", "lmtp"])
def test_a_mail_with_a_null_sender_is_not_answered(
    receiver: str, serve: Serve, states: States
) -> None:
    server = serve(receiver=receiver)
    with server.connection() as connection:
        mail = f"From: {ANNA}\r\n\r\nYour mail could not be delivered.\r\n"
        connection.sendmail("", [server.address("news-subscribe")], mail)
    assert (server.mail_to(ANNA), states()) == ([], {})


def test_the_mail_of_a_queue_is_from_whom_its_envelope_says(serve: Serve) -> None:
    server = serve(receiver="queue")
    new = server.directory / "run" / "queue" / "new"
    head = "From: Anna Ek <Anna@Example.com>\nTo: The list <x@y>\n"
    envelope = f"Return-Path: <{BEN}>\nDelivered-To: {server.address('news-subscribe')}\n"
    (server.directory / "mail").write_text(envelope + head + "\nhello\n")
    (server.directory / "mail").rename(new / "1")
    server.wait_for_mail(BEN, "Please confirm")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_conversation_goes_on_after_a_restart(
    end: signal.Signals, serve: Serve, all_sent: AllSent
) -> None:
    server = serve()
    address = ask(server, ANNA)
    all_sent()
    assert server.stop(end) == (-end if end == signal.SIGKILL else 0)

    server.start()
    confirm(server, ANNA, address)
    all_sent()
    server.stop(end)

    server.start()
    post(server, ANNA, "Still here", ANNA)
    assert "Traceback" not in server.output(), server.output()


@pytest.mark.parametrize("receiver", ["smtp", "lmtp"])
def test_whoever_heard_250_is_known_after_a_sigkill(
    receiver: str, serve: Serve, states: States
) -> None:
    server = serve(receiver=receiver)
    heard: list[str] = []

    def write() -> None:
        with contextlib.suppress(OSError):  # smtplib's errors are of this kind
            for number in range(100_000):
                server.send(f"{number}@example.com", "news-subscribe")
                heard.append(f"{number}@example.com")

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: len(heard) >= 20, "some mails to be taken")
    server.kill()
    writer.join()

    found = states()
    assert [person for person in heard if found.get(person) != "CONFIRMING"] == []
    server.start()
    server.send("0@example.com", "news-unsubscribe")


def test_two_servers_continue_each_others_conversations(serve: Serve) -> None:
    one, other = serve(), serve(receiver="lmtp")
    confirm(other, ANNA, ask(one, ANNA))
    confirm(one, BEN, ask(other, BEN))
    post(one, BEN, "from one", ANNA, BEN)
    post(other, ANNA, "from the other", ANNA, BEN)
    leave(other, ANNA)
    with pytest.raises(smtplib.SMTPDataError, match="Only subscribers can post"):
        one.send(ANNA, "news")


def test_an_address_whose_mail_bounces_is_suspended(serve: Serve, states: States) -> None:
    server = serve()
    confirm(server, ANNA, ask(server, ANNA))
    post(server, ANNA, "hello", ANNA)
    bounce(server, ANNA)
    with pytest.raises(smtplib.SMTPDataError, match="Only subscribers can post"):
        server.send(ANNA, "news")
    assert states() == {ANNA: "SUSPENDED"}
