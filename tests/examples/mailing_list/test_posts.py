"""What a list sends on, and what it does not."""

from __future__ import annotations

import contextlib
from email import message_from_bytes
from email.message import EmailMessage, Message

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from salmon.server import SMTPError

from config.testing import Sent, SentMail
from examples.mailing_list import settings
from tests.examples.mailing_list.correspondence import (
    ANNA,
    BEN,
    DOMAIN,
    NEWS,
    post,
    state_of,
    subscribe,
    write,
    write_raw,
)

HEADERS = {
    "From",
    "To",
    "Reply-To",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Precedence",
    "X-Loop",
    "List-Id",
    "List-Post",
    "List-Subscribe",
    "List-Unsubscribe",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
}


def as_received(mail: Sent) -> Message:
    """Parses the bytes that went out: what counts is what the next server reads."""
    return message_from_bytes(mail.message.as_bytes())


def test_every_subscriber_gets_a_copy_with_an_envelope_of_its_own() -> None:
    subscribe(BEN, ANNA)
    copies = post(ANNA)

    assert [copy.recipient for copy in copies] == [ANNA, BEN]
    assert copies[0].sender.startswith("news-bounce-")
    assert copies[0].sender.endswith(f"-anna=40example.com@{DOMAIN}")
    assert len(copies[0].sender.partition("@")[0]) <= 64  # RFC 5321, section 4.5.3.1.1
    for copy, other in zip(copies, (BEN, ANNA), strict=True):
        assert other not in copy.sender
        assert BEN not in copy.message.as_string()  # nobody sees who else is on the list


def test_the_headers_of_a_post() -> None:
    subscribe(ANNA)
    [copy] = post(
        ANNA,
        From_="Anna Ek <anna@example.com>",
        Subject="Crème brûlée",
        Message_ID="<1@example.com>",
        References="<0@example.com> <00@example.com>",
    )
    mail = as_received(copy)

    assert mail["From"] == '"Anna Ek via news" <news@lists.example.com>' or (
        mail["From"] == "Anna Ek via news <news@lists.example.com>"
    )
    assert (mail["To"], mail["Reply-To"]) == (NEWS, ANNA)
    assert mail["Subject"] == "=?utf-8?b?Q3LDqG1lIGJyw7tsw6ll?="
    assert mail["Message-ID"] == "<1@example.com>"
    assert mail["References"].split() == ["<0@example.com>", "<00@example.com>"]
    assert (mail["Precedence"], mail["X-Loop"]) == ("list", NEWS)
    assert mail["List-Id"] == "<news.lists.example.com>"
    assert mail["List-Post"] == "<mailto:news@lists.example.com>"
    assert mail["List-Unsubscribe"] == "<mailto:news-unsubscribe@lists.example.com>"


def test_an_attachment_survives_byte_for_byte() -> None:
    subscribe(ANNA)
    data = bytes(range(256)) * 300
    mail = EmailMessage()
    mail["From"] = ANNA
    mail.set_content("plain: é")
    mail.add_alternative("<p>html: é</p>", subtype="html")
    mail.add_attachment(data, maintype="image", subtype="png", filename="bild å.png")
    mail.add_attachment("text\r\n.\r\nFrom x\r\n", filename="t.txt")
    write_raw(ANNA, NEWS, mail.as_bytes())

    [copy] = settings.relay
    sent = message_from_bytes(copy.message.as_bytes(), policy=mail.policy)
    assert isinstance(sent, EmailMessage)
    image, text = sent.iter_attachments()
    assert image.get_payload(decode=True) == data
    assert image.get_filename() == "bild å.png"
    assert text.get_payload(decode=True) == b"text\n.\nFrom x\n"
    body = sent.get_body(("html",))
    assert body is not None
    assert "html: é" in body.get_content()


def test_eight_bit_text_survives() -> None:
    subscribe(ANNA)
    head = f"From: {ANNA}\nContent-Type: text/plain; charset=iso-8859-1\n"
    write_raw(
        ANNA, NEWS, f"{head}Content-Transfer-Encoding: 8bit\n\n".encode() + "é".encode("latin-1")
    )
    [copy] = settings.relay
    assert as_received(copy).get_payload(decode=True) == "é".encode("latin-1")


def test_headers_in_utf_8_as_some_programs_write_them() -> None:
    subscribe(ANNA)
    write_raw(ANNA, NEWS, f"From: Änna <{ANNA}>\nSubject: Grüße\n\nhello\n".encode())
    mail = message_from_bytes(settings.relay[0].message.as_bytes(), policy=EmailMessage().policy)
    assert mail["Subject"] == "Grüße"
    assert mail["From"].addresses[0].display_name == "Änna via news"


@pytest.mark.parametrize(
    "header",
    [
        b"Subject: =?utf-8?q?hi=0D=0ABcc:_victim@example.org=0D=0A=0D=0Abody?=",
        b"Subject: hi\rBcc: victim@example.org",
        b"Subject: hi\x0bBcc: victim@example.org\x0c\x1c\x85",
        b"Subject: =?utf-8?b?aGkKQmNjOiB2aWN0aW1AZXhhbXBsZS5vcmc=?=",
        b"Message-ID: <1@x>\n Bcc: victim@example.org",
        b"Message-ID: <1@x\n\tBcc: victim@example.org>",
        b"References: <1@x>\r\n \r Bcc: victim@example.org",
        b"Date: now\r Bcc: victim@example.org",
        b"Bcc: victim@example.org\nCc: victim@example.org\nResent-To: victim@example.org",
        b"Disposition-Notification-To: victim@example.org\nReturn-Receipt-To: victim@example.org",
        b"Errors-To: victim@example.org\nSender: victim@example.org\nApproved: yes\nControl: x",
    ],
)
def test_no_header_can_be_smuggled_in(header: bytes) -> None:
    subscribe(ANNA)
    write_raw(ANNA, NEWS, b"From: anna@example.com\n" + header + b"\n\nhello\n")
    [copy] = settings.relay
    mail = as_received(copy)

    assert set(mail.keys()) <= HEADERS
    assert len(mail.keys()) == len(set(mail.keys()))
    assert mail.get_payload() == "hello\n"


@pytest.mark.parametrize(
    "name",
    [
        "=?utf-8?q?A=0D=0ABcc=3A_victim=40example.org?=",
        '"A <victim@example.org>"',
        '"A, victim@example.org"',
        r'"A \" <victim@example.org>, \""',
        "=?utf-8?q?A=22_=3Cvictim=40example.org=3E=2C?=",
        "=?nonsense?q?x?=",
        "=?utf-8?b?/////w==?=",
        "A" * 5000,
        "",
    ],
)
def test_a_display_name_is_only_a_name(name: str) -> None:
    subscribe(ANNA)
    write_raw(ANNA, NEWS, f"From: {name} <{ANNA}>\n\nhello\n".encode())
    [copy] = settings.relay
    mail = message_from_bytes(copy.message.as_bytes(), policy=EmailMessage().policy)

    assert [address.addr_spec for address in mail["From"].addresses] == [NEWS]
    assert "Bcc" not in mail


@pytest.mark.parametrize(
    "author",
    [
        "ben@example.com",
        "Anna <anna@example.com>, ben@example.com",
        "ben@example.com\nFrom: anna@example.com",
        '"anna@example.com" <ben@example.com>',
        "",
    ],
)
def test_a_post_in_somebody_elses_name_is_refused(author: str) -> None:
    subscribe(ANNA, BEN)
    with pytest.raises(SMTPError) as refused:
        write_raw(ANNA, NEWS, f"From: {author}\n\nhello\n".encode())
    assert refused.value.code == 550
    assert (list(settings.relay), state_of(ANNA)) == ([], "POSTING")


def test_what_this_list_has_sent_is_not_sent_again() -> None:
    subscribe(ANNA)
    [copy] = post(ANNA)
    write_raw(ANNA, NEWS, copy.message.as_bytes())
    assert len(settings.relay) == 1


def test_what_a_machine_wrote_is_not_sent_on(sent: SentMail) -> None:
    subscribe(ANNA)
    write(ANNA, NEWS, Auto_Submitted="auto-replied")
    write(ANNA, NEWS, return_path="")
    assert (list(sent), state_of(ANNA)) == ([], "POSTING")


def test_a_mail_for_which_there_is_no_stack_is_refused_and_its_sender_stays() -> None:
    subscribe(ANNA)
    with pytest.raises(SMTPError) as refused:
        write_raw(ANNA, NEWS, b"From: " + b"(" * 5_000 + b")" * 5_000 + b"\n\nhello\n")
    assert str(refused.value) == "554 5.6.0 This mail cannot be understood"
    assert state_of(ANNA) == "POSTING"


@pytest.mark.parametrize("header", ["References", "Message-ID", "Subject", "From"])
def test_a_long_header_is_no_work(header: str) -> None:
    """Each of these took minutes."""
    subscribe(ANNA)
    for bomb in (b"<" + b"@" * 1_000_000, b"=?utf-8?q?x?= " * 100_000, b"<a@" * 300_000):
        with contextlib.suppress(SMTPError):  # two From headers are refused
            write_raw(ANNA, NEWS, header.encode() + b": " + bomb + b"\nFrom: anna@example.com\n\nx")
    assert state_of(ANNA) == "POSTING"


@given(
    fields=st.lists(
        st.tuples(
            st.sampled_from(sorted(HEADERS | {"X-Other"} - {"From"})),
            st.one_of(
                st.binary(max_size=40),
                st.sampled_from(
                    [
                        b"multipart/mixed; boundary=x",
                        b"text/plain; charset=utf-16",
                        b"text/plain; charset*=x''%zz",
                        b"message/rfc822",
                        b"base64",
                        b"quoted-printable",
                        b"=?utf-8?b?=?=",
                        b"x\r\n y",
                        b"x\r y\x00",
                    ]
                ),
            ),
        ),
        max_size=6,
    ),
    body=st.binary(max_size=100),
)
@hypothesis_settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_mail_is_too_strange(fields: list[tuple[str, bytes]], body: bytes) -> None:
    """Whatever is posted, it is sent, or refused; never is it a crash, which would cost Anna."""
    if state_of(ANNA) != "POSTING":
        subscribe(ANNA)
    settings.relay.clear()
    head = b"".join(name.encode() + b": " + value + b"\n" for name, value in fields)
    code = 250
    try:
        write_raw(ANNA, NEWS, b"From: anna@example.com\n" + head + b"\n" + body)
    except SMTPError as refused:
        code = refused.code
    assert code in (250, 550, 554)
    assert state_of(ANNA) == "POSTING"
