"""Whole conversations, as Salmon's documentation teaches to test them."""

from __future__ import annotations

import pytest
from salmon.routing import Router
from salmon.server import SMTPError
from salmon.testing import RouterConversation, assert_in_state

from config.testing import SentMail
from examples.mailing_list import handlers, outgoing, subscribers
from tests.examples.mailing_list.conftest import ALL_STORES
from tests.examples.mailing_list.correspondence import (
    ANNA,
    BEN,
    DOMAIN,
    NEWS,
    confirm_address,
    state_of,
    subscribe,
    write,
)

pytestmark = pytest.mark.parametrize("state_url", ALL_STORES, indirect=True)


def test_subscribe_confirm_post_unsubscribe(sent: SentMail) -> None:
    client = RouterConversation(ANNA, "hello")
    client.begin()
    module = handlers.__name__

    client.say(f"news-subscribe@{DOMAIN}", "I want to")
    assert_in_state(module, NEWS, ANNA, "CONFIRMING")
    assert [(mail.recipient, mail.sender) for mail in sent] == [(ANNA, "")]

    client.say(confirm_address(sent[-1]), "I do")
    assert_in_state(module, NEWS, ANNA, "POSTING")
    assert [mail.message["Subject"] for mail in sent[1:]] == ["Welcome to news"]
    sent.clear()

    client.say(NEWS, "Dear all")
    assert_in_state(module, NEWS, ANNA, "POSTING")
    assert [mail.recipient for mail in sent] == [ANNA]
    assert "Dear all" in sent[0].message.as_string()

    client.say(f"news-unsubscribe@{DOMAIN}", "Farewell")
    assert_in_state(module, NEWS, ANNA, "START")
    assert [mail.message["Subject"] for mail in sent[1:]] == ["You have left news"]
    assert subscribers.on_list("news") == []


def test_each_list_has_conversations_of_its_own(sent: SentMail) -> None:
    subscribe(ANNA)
    write(ANNA, f"book-club-subscribe@{DOMAIN}")

    assert (state_of(ANNA, "news"), state_of(ANNA, "book-club")) == ("POSTING", "CONFIRMING")
    assert_in_state(handlers.__name__, f"book-club@{DOMAIN}", ANNA, "CONFIRMING")
    assert subscribers.on_list("book-club") == []


def test_an_address_is_the_same_however_it_is_written(sent: SentMail) -> None:
    subscribe(ANNA)
    write("Anna@Example.COM", f"NEWS-Unsubscribe@{DOMAIN.upper()}")
    assert state_of(ANNA) == "START"


def test_who_is_subscribed_already_gets_no_mail_for_asking(sent: SentMail) -> None:
    subscribe(ANNA)
    write(ANNA, f"news-subscribe@{DOMAIN}")
    assert (state_of(ANNA), list(sent)) == ("POSTING", [])


def test_a_stranger_can_neither_leave_nor_post(sent: SentMail) -> None:
    subscribe(BEN)
    write(ANNA, f"news-unsubscribe@{DOMAIN}")
    with pytest.raises(SMTPError) as refused:
        write(ANNA, NEWS)

    assert str(refused.value) == (
        "550 5.7.2 Only subscribers can post, and only with their own address in From; to "
        "subscribe, write to news-subscribe@lists.example.com"
    )
    assert (len(Router.STATE_STORE), list(sent)) == (1, [])


def test_a_program_can_leave_but_is_not_answered(sent: SentMail) -> None:
    subscribe(ANNA)
    write(ANNA, f"news-unsubscribe@{DOMAIN}", Auto_Submitted="auto-generated")
    assert (state_of(ANNA), list(sent)) == ("START", [])


def test_a_bug_of_ours_makes_a_stranger(sent: SentMail, monkeypatch: pytest.MonkeyPatch) -> None:
    subscribe(ANNA)
    with monkeypatch.context() as broken:
        broken.setattr(outgoing, "distribute", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(ANNA, NEWS)
    assert state_of(ANNA) == "ERROR"

    write(ANNA, NEWS, Auto_Submitted="auto-replied")
    assert (state_of(ANNA), list(sent)) == ("ERROR", [])
    with pytest.raises(SMTPError, match="Only subscribers can post"):
        write(ANNA, NEWS)
    write(ANNA, f"news-subscribe@{DOMAIN}")
    assert state_of(ANNA) == "CONFIRMING"
    write(ANNA, confirm_address(sent[-1]))
    assert state_of(ANNA) == "POSTING"


def test_after_a_bug_one_can_still_leave(sent: SentMail) -> None:
    Router.STATE_STORE.set("examples.mailing_list.handlers:news", ANNA, "ERROR")
    write(ANNA, f"news-unsubscribe@{DOMAIN}")
    assert (state_of(ANNA), list(sent)) == ("START", [])
