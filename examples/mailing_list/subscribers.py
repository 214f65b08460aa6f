"""Who is on which list: a question to the state store, and to nothing else.

A subscriber is a conversation in the state POSTING. There is no second table that could disagree.
"""

from __future__ import annotations

from datetime import timedelta

from salmon.routing import ROUTE_FIRST_STATE, Router

from examples.mailing_list import tokens
from salmon_state import Record

__all__ = [
    "addresses",
    "asked_recently",
    "confirm",
    "forget_unconfirmed",
    "state_key",
    "suspend",
]

CONFIRM_WITHIN = timedelta(days=3)
ASK_AGAIN_AFTER = timedelta(hours=1)
BOUNCE_WITHIN = timedelta(days=14)

_USED_TOKENS = "examples.mailing_list.tokens"


def state_key(list_name: str) -> str:
    """Returns what stands for a list in the store: each has conversations of its own."""
    return f"examples.mailing_list.handlers:{list_name}"


def addresses(list_name: str) -> list[str]:
    """Returns the addresses of a list's subscribers, in alphabetical order."""
    records = Router.STATE_STORE.records(module=state_key(list_name), state="POSTING")
    return sorted({record.sender for record in records if record.sender})


def asked_recently(list_name: str, address: str) -> bool:
    """Returns whether a confirmation mail went to this address within the last hour.

    Anybody can send subscriptions in somebody else's name. This is what keeps us from passing
    all of them on.
    """
    record = _record(list_name, address)
    if record is None or record.state != "CONFIRMING" or record.updated_at is None:
        return False
    return tokens.now() - record.updated_at < ASK_AGAIN_AFTER


def confirm(list_name: str, address: str, token: str) -> bool:
    """Returns whether a token confirms this subscription; it does so once.

    It must have been made for this list and address, and for the confirmation that is pending
    now: a token from before the subscriber left must not bring the address back.
    """
    issued = tokens.issued_at(token, "confirm", list_name, address, lifetime=CONFIRM_WITHIN)
    record = _record(list_name, address)
    if issued is None or record is None or record.state != "CONFIRMING":
        return False
    asked = record.updated_at or issued
    if abs(asked - issued) > tokens.CLOCK_TOLERANCE:
        return False
    # That a token is spent is a state as well: kept by every server, through every restart.
    used = Router.STATE_STORE.compare_and_set(_USED_TOKENS, token, ROUTE_FIRST_STATE, "USED")
    return bool(used)


def suspend(list_name: str, address: str, token: str) -> int:
    """Suspends an address to which mail bounced, on all lists.

    Only a token that a mail of this list carried to this address, after it last subscribed, is
    good for that.

    Returns:
        The number of lists it was moved on; 0 if the token proves nothing.
    """
    issued = tokens.issued_at(token, "bounce", list_name, address, lifetime=BOUNCE_WITHIN)
    record = _record(list_name, address)
    if issued is None or record is None or record.state != "POSTING":
        return 0
    subscribed = record.updated_at or issued
    if issued < subscribed - tokens.CLOCK_TOLERANCE:
        return 0
    return int(Router.STATE_STORE.set_all(address, "SUSPENDED"))


def forget_unconfirmed() -> int:
    """Removes subscriptions that nobody confirmed, and used tokens that have expired.

    Returns:
        How many were removed.
    """
    store = Router.STATE_STORE
    removed = store.purge(older_than=CONFIRM_WITHIN, state="CONFIRMING")
    removed += store.purge(older_than=CONFIRM_WITHIN, module=_USED_TOKENS)
    return int(removed)


def _record(list_name: str, address: str) -> Record | None:
    records = Router.STATE_STORE.records(module=state_key(list_name), sender=address)
    return next(iter(records), None)
