"""Attacks on the double opt-in."""

from __future__ import annotations

import pytest
from salmon.routing import Router
from salmon.server import SMTPError

from config.testing import SentMail
from examples.mailing_list import settings, subscribers, tokens
from salmon_state import StorageUnavailable
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


def refuse(person: str, address: str) -> None:
    """Sends a confirmation that is none; whoever sent it is told at once what to do."""
    with pytest.raises(SMTPError) as refused:
        write(person, address)
    assert str(refused.value) == (
        "550 5.7.1 This does not confirm, or not any more: reply to the newest request; for "
        f"another one, write to {address.partition('-confirm-')[0]}-subscribe@{DOMAIN} in an hour"
    )


def asked(person: str, sent: SentMail, list_name: str = "news") -> str:
    write(person, f"{list_name}-subscribe@{DOMAIN}")
    return confirm_address(sent[-1])


@pytest.mark.parametrize("token", ["x", "0" * 33, "a" * 33, "9" * 500, "0" * 13 + "a" * 20])
def test_a_token_that_was_made_up(token: str, sent: SentMail) -> None:
    asked(ANNA, sent)
    refuse(ANNA, f"news-confirm-{token}@{DOMAIN}")
    assert (state_of(ANNA), len(sent)) == ("CONFIRMING", 1)


def test_every_part_of_a_token_counts(sent: SentMail) -> None:
    address = asked(ANNA, sent)
    token = address.removeprefix("news-confirm-").removesuffix(f"@{DOMAIN}")
    for position in range(len(token)):
        changed = "2" if token[position] != "2" else "3"
        forged = token[:position] + changed + token[position + 1 :]
        refuse(ANNA, f"news-confirm-{forged}@{DOMAIN}")
        assert state_of(ANNA) == "CONFIRMING"


def test_a_token_of_another_address(sent: SentMail) -> None:
    asked(ANNA, sent)
    refuse(ANNA, asked(BEN, sent))
    assert (state_of(ANNA), state_of(BEN)) == ("CONFIRMING", "CONFIRMING")


def test_a_token_of_another_list(sent: SentMail) -> None:
    asked(ANNA, sent)
    other = asked(ANNA, sent, "book-club")
    refuse(ANNA, other.replace("book-club", "news"))
    assert state_of(ANNA) == "CONFIRMING"


def test_a_token_of_another_purpose(sent: SentMail) -> None:
    asked(ANNA, sent)
    refuse(ANNA, f"news-confirm-{tokens.make('bounce', 'news', ANNA)}@{DOMAIN}")
    assert state_of(ANNA) == "CONFIRMING"


def test_a_token_of_another_server(sent: SentMail, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(settings, "list_secret", b"x" * 32)
        address = asked(ANNA, sent)
    refuse(ANNA, address)
    assert state_of(ANNA) == "CONFIRMING"


def test_without_a_secret_there_are_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "list_secret", b"")
    with pytest.raises(RuntimeError, match="list_secret is not set"):
        write(ANNA, SUBSCRIBE)


def test_a_token_that_nobody_asked_for(sent: SentMail) -> None:
    refuse(ANNA, f"news-confirm-{tokens.make('confirm', 'news', ANNA)}@{DOMAIN}")
    assert (state_of(ANNA), list(sent)) == ("START", [])


def test_a_token_that_has_expired(sent: SentMail, later: Later) -> None:
    address = asked(ANNA, sent)
    later(days=3, seconds=1)
    refuse(ANNA, address)
    assert state_of(ANNA) == "CONFIRMING"


def test_a_token_from_a_server_whose_clock_is_ahead(sent: SentMail, later: Later) -> None:
    later(hours=5)
    address = asked(ANNA, sent)
    later(hours=-5)
    write(ANNA, address)
    assert state_of(ANNA) == "POSTING"


def test_a_confirmation_that_comes_twice(sent: SentMail) -> None:
    """Its sender's server has not heard the answer to the first."""
    address = asked(ANNA, sent)
    write(ANNA, address)
    write(ANNA, address)
    assert (state_of(ANNA), len(sent)) == ("POSTING", 2)


def test_a_token_after_its_owner_has_left(sent: SentMail) -> None:
    address = asked(ANNA, sent)
    write(ANNA, address)
    write(ANNA, UNSUBSCRIBE)
    refuse(ANNA, address)
    assert state_of(ANNA) == "START"


def test_an_old_token_for_a_new_subscription_at_once(sent: SentMail) -> None:
    address = asked(ANNA, sent)
    write(ANNA, address)
    write(ANNA, UNSUBSCRIBE)
    asked(ANNA, sent)
    refuse(ANNA, address)
    assert state_of(ANNA) == "CONFIRMING"


def test_an_old_unused_token_for_a_new_subscription(sent: SentMail, later: Later) -> None:
    old = asked(ANNA, sent)
    later(hours=2)
    write(ANNA, asked(ANNA, sent))
    write(ANNA, UNSUBSCRIBE)
    later(hours=2)
    new = asked(ANNA, sent)
    refuse(ANNA, old)
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
    with pytest.raises(SMTPError, match="Only subscribers can post"):
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

    assert subscribers.forget_unconfirmed() == 1
    assert {record.sender for record in Router.STATE_STORE} == {BEN, "carl@example.com"}


@pytest.mark.parametrize("request_", ["subscribe", "unsubscribe"])
def test_nothing_is_sent_before_that_is_committed(
    request_: str, sent: SentMail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a full disk nothing can be."""
    if request_ == "unsubscribe":
        subscribe(ANNA)
    with monkeypatch.context() as full:
        full.setattr(type(Router.STATE_STORE), "set", no_space_left)
        for _ in range(3):
            with pytest.raises(SMTPError, match="451"):
                write(ANNA, f"news-{request_}@{DOMAIN}")
    assert list(sent) == []
    write(ANNA, f"news-{request_}@{DOMAIN}")
    assert len(sent) == 1


def no_space_left(*_: object) -> None:
    raise StorageUnavailable("no space left on device")


def write_in_vain(person: str, to: str) -> None:
    with Router.STATE_STORE.conversation(person):
        write(person, to)
        raise StorageUnavailable("the commit failed")


@pytest.mark.parametrize("request_", ["subscribe", "confirm", "unsubscribe"])
def test_what_must_come_again_is_not_answered_again(
    request_: str, sent: SentMail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt would send a mail to whoever's address was forged."""
    to = f"news-{request_}@{DOMAIN}"
    if request_ == "confirm":
        to = asked(ANNA, sent)
    elif request_ == "unsubscribe":
        subscribe(ANNA)
    before, count = state_of(ANNA), len(sent)
    for _ in range(3):
        with pytest.raises(SMTPError, match="451"):
            write_in_vain(ANNA, to)
    assert (state_of(ANNA), len(sent)) == (before, count)
    write(ANNA, to)
    assert len(sent) == count + 1
    assert state_of(ANNA) == {"subscribe": "CONFIRMING", "confirm": "POSTING"}.get(
        request_, "START"
    )


STATES = ("START", "CONFIRMING", "POSTING", "SUSPENDED", "ERROR")


@pytest.mark.parametrize(
    ("local", "headers"),
    [
        ("news", {"From_": BEN}),
        ("news", {"From_": BEN, "Auto_Submitted": "auto-replied"}),
        ("news-confirm-x", {}),
        ("news-subscribe", {}),
        ("news-unsubscribe", {}),
    ],
)
def test_a_forged_sender_learns_nothing(local: str, headers: dict[str, str]) -> None:
    answers = set()
    for state in STATES:
        Router.STATE_STORE.set("examples.mailing_list.handlers:news", ANNA, state)
        try:
            write(ANNA, f"{local}@{DOMAIN}", **headers)
            answers.add("250")
        except SMTPError as refused:
            answers.add(str(refused))
    assert len(answers) == 1
