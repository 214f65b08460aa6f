"""Who is answered, and who never is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from salmon.mail import MailRequest
from salmon.routing import Router

from config.testing import SentMail
from examples.mailing_list import tokens
from tests.examples.mailing_list.correspondence import (
    ANNA,
    DOMAIN,
    NEWS,
    confirm_address,
    failure_report,
    post,
    state_of,
    write,
    write_raw,
)

SUBSCRIBE = f"news-subscribe@{DOMAIN}"


@pytest.mark.parametrize(
    "headers",
    [
        {"Auto_Submitted": "auto-replied"},
        {"Auto_Submitted": "auto-generated; owner-email=x@y"},
        {"Auto_Submitted": "Auto-Notified"},
        {"Precedence": "bulk"},
        {"Precedence": "LIST"},
        {"Precedence": "junk"},
        {"Precedence": "auto_reply"},
        {"List_Id": "<x.example.org>"},
        {"List_Unsubscribe": "<mailto:x@example.org>"},
        {"List_Post": "NO"},
        {"X_Autoreply": "yes"},
        {"X_Autorespond": "x"},
        {"X_AutoReply_From": ANNA},
        {"X_Auto_Response_Suppress": "All"},
        {"X_Failed_Recipients": "x@example.org"},
        {"From_": "MAILER-DAEMON@example.com (Mail Delivery System)"},
        {"Subject": "Out of Office: Re: Please confirm"},
        {"Subject": "Automatic reply: Please confirm"},
        {"Subject": "=?utf-8?b?QWJ3ZXNlbmhlaXRzbm90aXo=?="},
        {"X_Loop": NEWS},
        {"List_Id": "The news <news.lists.example.com>"},
        {"return_path": ""},
        {"return_path": " "},
    ],
)
def test_what_a_machine_wrote_is_never_answered(headers: dict[str, str], sent: SentMail) -> None:
    write(ANNA, SUBSCRIBE, **headers)
    assert (state_of(ANNA), list(sent), len(Router.STATE_STORE)) == ("START", [], 0)


def test_one_mark_among_many_headers_is_enough(sent: SentMail) -> None:
    marks = b"Auto-Submitted: no\nAuto-Submitted: auto-replied\n"
    write_raw(ANNA, SUBSCRIBE, b"From: anna@example.com\n" + marks + b"\nhi\n")
    write_raw(ANNA, SUBSCRIBE, failure_report())
    assert (state_of(ANNA), list(sent)) == ("START", [])


@pytest.mark.parametrize(
    "headers",
    [{"Auto_Submitted": "no"}, {"X_Loop": "other@example.org"}, {"Subject": "Automatic doors"}],
)
def test_what_a_person_wrote_is(headers: dict[str, str], sent: SentMail) -> None:
    write(ANNA, SUBSCRIBE, **headers)
    assert (state_of(ANNA), len(sent)) == ("CONFIRMING", 1)


@pytest.mark.parametrize("local", ["mailer-daemon", "owner-x", "x-owner", "x-request", "x-bounces"])
def test_what_comes_from_the_address_of_a_machine_is_not_answered(
    local: str, sent: SentMail
) -> None:
    write(f"{local}@example.org", SUBSCRIBE)
    assert (list(sent), len(Router.STATE_STORE)) == ([], 0)


@pytest.mark.parametrize(
    "local",
    ["news", "news-subscribe", "news-confirm-x", "book-club-bounce-x-y", "NEWS-unsubscribe"],
)
def test_the_lists_do_not_talk_to_themselves(local: str, sent: SentMail) -> None:
    write(f"{local}@{DOMAIN}", SUBSCRIBE)
    assert (list(sent), len(Router.STATE_STORE)) == ([], 0)


def test_others_in_the_domain_of_the_lists_can_subscribe(sent: SentMail) -> None:
    write(f"newsreader@{DOMAIN}", SUBSCRIBE)
    assert len(sent) == 1


@pytest.mark.parametrize(
    "person",
    [
        "o'neil@example.com",
        '"anna ek"@example.com',
        '"anna@home"@example.com',
        r'"a\"b"@example.com',
        '"a..b"@example.com',
        "a+b=c%d!e/f{g}@example.com",
        "news-confirm-abc@example.com",
        "-@example.com",
        "a@b",
        "x" * 64 + "@" + "example." * 20 + "com",
    ],
)
def test_an_odd_address_takes_part_like_any_other(person: str, sent: SentMail) -> None:
    write(person, SUBSCRIBE, From_="x@y")
    assert sent[-1].recipient == person
    write(person, confirm_address(sent[-1]), From_="x@y")
    assert state_of(person) == "POSTING"
    sent.clear()

    [copy] = post(person, From_=person)
    assert copy.recipient == person
    assert copy.sender.encode("ascii")
    assert not set(copy.sender) & set("\"<>%, \\'")
    write_raw("mailer-daemon@example.com", copy.sender, failure_report())
    assert state_of(person) == "SUSPENDED"


@pytest.mark.parametrize(
    "person",
    [
        None,
        "",
        "anna",
        "@example.com",
        "anna@",
        "a@x, b@y",
        "a@x\r\nbcc: b@y",
        "a@x\n",
        "a b@x",
        "<a@x>",
        "anna ek <anna@example.com>",
        "é@example.com",
        '"\U0001f600"@example.com',
        "\udcff@example.com",
        "a\0@example.com",
        '"a\nb"@example.com',
        "a@exa mple.com",
        "a" * 300 + "@example.com",
    ],
)
def test_what_is_no_address_is_nobody(person: str | None, sent: SentMail) -> None:
    mail = MailRequest("localhost", "x@y", SUBSCRIBE, "Subject: hi\n\nhi\n")
    mail.From = person
    Router.deliver(mail)
    assert (list(sent), len(Router.STATE_STORE)) == ([], 0)


@given(address=st.text(st.characters(codec="utf-8"), max_size=50))
def test_an_escaped_address_is_safe_and_comes_back(address: str) -> None:
    escaped = tokens.escape(address.lower())
    assert tokens.unescape(escaped) == address.lower()
    assert ".." not in escaped
    assert set(escaped) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-~=")
