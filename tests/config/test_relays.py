"""Where mail goes."""

from __future__ import annotations

import mailbox
import smtplib
from email import message_from_bytes
from email.message import EmailMessage
from pathlib import Path

import pytest

from config.relays import Outbox, SMTPRelay
from tests.end_to_end.smtp_sink import SMTPSink

DATA = b"Subject: hi\nContent-Type: text/plain; charset=latin-1\n\n\xe9\n.\n"


def test_a_relay_sends_a_mail_as_it_is() -> None:
    with SMTPSink() as sink:
        host, _, port = sink.address.partition(":")
        relay = SMTPRelay(host, int(port))
        relay.deliver(message_from_bytes(DATA), To="anna@example.com", From="")
    [(sender, recipient, data)] = sink.mails
    assert (sender, recipient) == ("<>", "<anna@example.com>")
    assert data == DATA.replace(b"\n", b"\r\n").replace(b"\r\n.", b"\r\n..")


def test_what_was_taken_is_sent_however_the_farewell_goes() -> None:
    with SMTPSink() as sink:
        sink.farewell = "500 never heard of it"
        host, _, port = sink.address.partition(":")
        SMTPRelay(host, int(port)).deliver(message_from_bytes(DATA), To="a@x", From="")
    assert len(sink.mails) == 1


def test_a_login_that_the_relay_does_not_offer_is_an_error() -> None:
    with SMTPSink() as sink:
        host, _, port = sink.address.partition(":")
        relay = SMTPRelay(host, int(port), user="me", password="hunter2")
        assert "hunter2" not in repr(relay)
        with pytest.raises(smtplib.SMTPNotSupportedError):
            relay.deliver(message_from_bytes(DATA), To="a@x", From="")
    assert sink.mails == []


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_without_tls_nothing_is_sent_to_a_relay_that_must_have_it(tls: str) -> None:
    with SMTPSink() as sink:
        host, _, port = sink.address.partition(":")
        relay = SMTPRelay(host, int(port), tls=tls)
        relay.timeout = 5
        with pytest.raises(OSError):  # noqa: PT011 - each of the two has its own
            relay.deliver(message_from_bytes(DATA), To="a@x", From="")
    assert sink.mails == []


def test_the_outbox_records_the_envelope(tmp_path: Path) -> None:
    mail = EmailMessage()
    mail["Subject"] = "hi"
    mail.set_content("hello é")
    Outbox(tmp_path / "outbox").deliver(mail, To="anna@example.com\nBcc: x", From="")
    [kept] = mailbox.Maildir(tmp_path / "outbox")
    assert (kept["X-Envelope-To"], kept["X-Envelope-From"]) == ("<anna@example.com Bcc: x>", "<>")
    assert kept["Subject"] == "hi"
    assert kept.get_payload(decode=True) == "hello é\n".encode()
