"""Bounces, true and forged."""

from __future__ import annotations

import pytest
from salmon.routing import Router
from salmon.server import SMTPError

from config.testing import SentMail
from examples.mailing_list import settings, tokens
from tests.examples.mailing_list.conftest import ALL_STORES, Later
from tests.examples.mailing_list.correspondence import (
    ANNA,
    BEN,
    DOMAIN,
    NEWS,
    confirm_address,
    failure_report,
    post,
    state_of,
    subscribe,
    write,
    write_raw,
)

pytestmark = pytest.mark.parametrize("state_url", ALL_STORES, indirect=True)

DAEMON = "mailer-daemon@example.com"


def bounce_address(author: str, recipient: str) -> str:
    return {copy.recipient: copy.sender for copy in post(author)}[recipient]


def test_an_address_that_bounces_is_suspended_everywhere_and_let_back_in(sent: SentMail) -> None:
    subscribe(ANNA, BEN)
    subscribe(ANNA, list_name="book-club")
    write_raw(DAEMON, bounce_address(BEN, ANNA), failure_report())

    assert (state_of(ANNA), state_of(ANNA, "book-club")) == ("SUSPENDED", "SUSPENDED")
    assert state_of(BEN) == "POSTING"
    assert [copy.recipient for copy in post(BEN)] == [BEN]
    with pytest.raises(SMTPError, match="Only subscribers can post"):
        write(ANNA, NEWS)

    write(ANNA, f"news-subscribe@{DOMAIN}")
    write(ANNA, confirm_address(sent[-1]))
    assert (state_of(ANNA), state_of(ANNA, "book-club")) == ("POSTING", "SUSPENDED")
    assert [copy.recipient for copy in post(BEN)] == [ANNA, BEN]


def test_the_daemon_that_reports_it_gets_neither_a_state_nor_an_answer(sent: SentMail) -> None:
    subscribe(ANNA)
    address = bounce_address(ANNA, ANNA)
    sent.clear()
    write_raw(DAEMON, address, failure_report())
    assert list(sent) == []
    assert list(Router.STATE_STORE.records(sender=DAEMON)) == []


def test_a_suspended_address_can_leave(sent: SentMail) -> None:
    Router.STATE_STORE.set("examples.mailing_list.handlers:news", ANNA, "SUSPENDED")
    with pytest.raises(SMTPError, match="does not confirm"):
        write(ANNA, f"news-confirm-{tokens.make('confirm', 'news', ANNA)}@{DOMAIN}")
    write(ANNA, f"news-subscribe@{DOMAIN}", Precedence="bulk")
    assert state_of(ANNA) == "SUSPENDED"
    write(ANNA, f"news-unsubscribe@{DOMAIN}")
    assert (state_of(ANNA), list(sent)) == ("START", [])


@pytest.mark.parametrize("token", ["x", "a" * 33, "0" * 13 + "a" * 20])
def test_a_token_that_was_made_up(token: str) -> None:
    subscribe(ANNA)
    write_raw(DAEMON, f"news-bounce-{token}-anna=40example.com@{DOMAIN}", failure_report())
    assert state_of(ANNA) == "POSTING"


def test_a_token_of_another_address() -> None:
    subscribe(ANNA, BEN)
    address = bounce_address(BEN, BEN)
    write_raw(DAEMON, address.replace("-ben=", "-anna="), failure_report())
    assert (state_of(ANNA), state_of(BEN)) == ("POSTING", "POSTING")


def test_a_token_of_another_list() -> None:
    subscribe(ANNA)
    subscribe(ANNA, list_name="book-club")
    address = bounce_address(ANNA, ANNA)
    write_raw(DAEMON, address.replace("news-", "book-club-"), failure_report())
    assert state_of(ANNA) == "POSTING"


def test_a_token_that_has_expired(later: Later) -> None:
    subscribe(ANNA)
    address = bounce_address(ANNA, ANNA)
    later(days=15)
    write_raw(DAEMON, address, failure_report())
    assert state_of(ANNA) == "POSTING"


@pytest.mark.parametrize("seconds", [0, 1, 3600])
def test_a_bounce_from_before_the_last_subscription(seconds: int, later: Later) -> None:
    subscribe(ANNA)
    address = bounce_address(ANNA, ANNA)
    write(ANNA, f"news-unsubscribe@{DOMAIN}")
    if seconds:
        later(seconds=seconds)
    subscribe(ANNA)
    write_raw(DAEMON, address, failure_report())
    assert state_of(ANNA) == "POSTING"
    write_raw(DAEMON, bounce_address(ANNA, ANNA), failure_report())
    assert state_of(ANNA) == "SUSPENDED"


def test_a_bounce_to_a_server_whose_clock_is_behind(later: Later) -> None:
    subscribe(ANNA)
    address = bounce_address(ANNA, ANNA)
    later(hours=-5)
    write_raw(DAEMON, address, failure_report())
    assert state_of(ANNA) == "SUSPENDED"


def test_only_subscribers_are_suspended() -> None:
    token = tokens.make("bounce", "news", ANNA)
    write(ANNA, f"news-subscribe@{DOMAIN}")
    write_raw(DAEMON, f"news-bounce-{token}-anna=40example.com@{DOMAIN}", failure_report())
    assert state_of(ANNA) == "CONFIRMING"


@pytest.mark.parametrize(
    "report",
    [
        failure_report(action="delayed", status="4.4.1"),
        failure_report(action="failed", status="4.4.7"),
        failure_report(action="delivered", status="2.0.0"),
        b"Return-Path: <>\nAuto-Submitted: auto-replied\nSubject: on holiday\n\nback on Monday\n",
        b"Return-Path: <>\nSubject: Undelivered\n\nAction: failed\nStatus: 5.1.1\n",
        b"Content-Type: multipart/report\n\n",
    ],
)
def test_not_every_mail_to_the_bounce_address_is_a_failure(report: bytes) -> None:
    subscribe(ANNA)
    write_raw(DAEMON, bounce_address(ANNA, ANNA), report)
    assert state_of(ANNA) == "POSTING"


def test_a_holiday_notice_to_the_bounce_address_is_not_answered(sent: SentMail) -> None:
    subscribe(ANNA)
    address = bounce_address(ANNA, ANNA)
    settings.relay.clear()
    write(ANNA, address, body="back on Monday")
    assert (list(sent), state_of(ANNA)) == ([], "POSTING")
