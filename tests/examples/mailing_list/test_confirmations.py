"""Attacks on the double opt-in."""

from __future__ import annotations

import pytest
from salmon.routing import Router
from salmon.server import SMTPError

from config import settings
from config.testing import SentMail
from examples.mailing_list import subscribers, tokens
from tests.examples.mailing_list.conftest import ALL_STORES, Later
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

SUBSCRIBE = f"news-subscribe@{DOMAIN}"
UNSUBSCRIBE = f"news-unsubscribe@{DOMAIN}"


def asked(person: str, sent: SentMail, list_name: str = "news") -> str:
    write(person, f"{list_name}-subscribe@{DOMAIN}")
    return confirm_address(sent[-1])


@pytest.mark.parametrize("token", ["x", "0" * 33, "a" * 33, "9" * 2000, "0" * 13 + "a" * 20])
def test_a_token_that_was_made_up(token: str, sent: SentMail) -> None:
    asked(ANNA, sent)
    write(ANNA, f"news-confirm-{token}@{DOMAIN}")
    assert (state_of(ANNA), len(sent)) == ("CONFIRMING", 1)


def test_every_part_of_a_token_counts(sent: SentMail) -> None:
    address = asked(ANNA, sent)
    token = address.removeprefix("news-confirm-").removesuffix(f"@{DOMAIN}")
    for position in range(len(token)):
        changed = "2" if token[position] != "2" else "3"
        forged = token[:position] + changed + token[position + 1 :]
        write(ANNA, f"news-confirm-{forged}@{DOMAIN}")
        assert state_of(ANNA) == "CONFIRMING"


def test_a_token_of_another_address(sent: SentMail) -> None:
    asked(ANNA, sent)
    write(ANNA, asked(BEN, sent))
    assert (state_of(ANNA), state_of(BEN)) == ("CONFIRMING", "CONFIRMING")


def test_a_token_of_another_list(sent: SentMail) -> None:
    asked(ANNA, sent)
    other = asked(ANNA, sent, "book-club")
    write(ANNA, other.replace("book-club", "news"))
    assert state_of(ANNA) == "CONFIRMING"


def test_a_token_of_another_purpose(sent: SentMail) -> None:
    asked(ANNA, sent)
    write(ANNA, f"news-confirm-{tokens.make('bounce', 'news', ANNA)}@{DOMAIN}")
    assert state_of(ANNA) == "CONFIRMING"


def test_a_token_of_another_server(sent: SentMail, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(settings, "list_secret", b"x" * 32)
        address = asked(ANNA, sent)
    write(ANNA, address)
    assert state_of(ANNA) == "CONFIRMING"


def test_without_a_secret_there_are_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "list_secret", b"")
    with pytest.raises(RuntimeError, match="list_secret is not set"):
        write(ANNA, SUBSCRIBE)


def test_a_token_that_nobody_asked_for(sent: SentMail) -> None:
    write(ANNA, f"news-confirm-{tokens.make('confirm', 'news', ANNA)}@{DOMAIN}")
    assert (state_of(ANNA), sent) == ("START", [])


def test_a_token_that_has_expired(sent: SentMail, later: Later) -> None:
    address = asked(ANNA, sent)
    later(days=3, seconds=1)
    write(ANNA, address)
    assert state_of(ANNA) == "CONFIRMING"


def test_a_token_from_the_future(sent: SentMail, later: Later) -> None:
    later(hours=1)
    address = asked(ANNA, sent)
    later(hours=-1)
    write(ANNA, address)
    assert state_of(ANNA) == "CONFIRMING"


def test_a_token_after_its_owner_has_left(sent: SentMail) -> None:
    address = asked(ANNA, sent)
    write(ANNA, address)
    write(ANNA, UNSUBSCRIBE)
    write(ANNA, address)
    assert state_of(ANNA) == "START"


def test_an_old_token_for_a_new_subscription_at_once(sent: SentMail) -> None:
    address = asked(ANNA, sent)
    write(ANNA, address)
    write(ANNA, UNSUBSCRIBE)
    asked(ANNA, sent)
    write(ANNA, address)
    assert state_of(ANNA) == "CONFIRMING"


def test_an_old_unused_token_for_a_new_subscription(sent: SentMail, later: Later) -> None:
    old = asked(ANNA, sent)
    later(hours=2)
    write(ANNA, asked(ANNA, sent))
    write(ANNA, UNSUBSCRIBE)
    later(hours=2)
    new = asked(ANNA, sent)
    write(ANNA, old)
    assert state_of(ANNA) == "CONFIRMING"
    write(ANNA, new)
    assert state_of(ANNA) == "POSTING"


def test_a_holiday_notice_confirms_nothing(sent: SentMail) -> None:
    address = asked(ANNA, sent)
    write(ANNA, address, Auto_Submitted="auto-replied")
    write(ANNA, address, return_path="")
    write(ANNA, address, Precedence="bulk")
    assert state_of(ANNA) == "CONFIRMING"


def test_posting_before_confirming(sent: SentMail) -> None:
    asked(ANNA, sent)
    with pytest.raises(SMTPError, match="reply to the confirmation first"):
        write(ANNA, NEWS)
    assert state_of(ANNA) == "CONFIRMING"


def test_a_flood_of_subscriptions_is_one_mail_an_hour(sent: SentMail, later: Later) -> None:
    for _ in range(20):
        write(ANNA, SUBSCRIBE)
        write(ANNA, UNSUBSCRIBE)  # would start afresh if it led to START
    assert len(sent) == 1

    later(minutes=61)
    for _ in range(20):
        write(ANNA, SUBSCRIBE)
    assert len(sent) == 2
    write(ANNA, confirm_address(sent[-1]))
    assert state_of(ANNA) == "POSTING"


def test_what_nobody_confirmed_is_forgotten(sent: SentMail, later: Later) -> None:
    subscribe(BEN)
    asked(ANNA, sent)
    later(days=4)
    asked("carl@example.com", sent)

    assert subscribers.forget_unconfirmed() == 2  # Anna, and Ben's used token
    assert {record.sender for record in Router.STATE_STORE} == {BEN, "carl@example.com"}
