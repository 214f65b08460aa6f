"""Who is on which list: those whose conversation is in the state POSTING.

A store that is a SQL database has a table of them as well (see roster.py), in which an application
may keep more than a state. It cannot disagree with the states: both are written in one
transaction. Every other store is asked for its conversations in the state POSTING.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar

from salmon.routing import ROUTE_FIRST_STATE, Router
from salmon.server import SMTPError

from examples.mailing_list import roster, tokens
from examples.mailing_list.roster import Subscriber
from salmon_state import Record, SQLAlchemyStorage

__all__ = [
    "addresses",
    "asked_recently",
    "confirm",
    "forget_unconfirmed",
    "in_step",
    "prepare",
    "state_key",
    "suspend",
]

CONFIRM_WITHIN = timedelta(days=3)
ASK_AGAIN_AFTER = timedelta(hours=1)
BOUNCE_WITHIN = timedelta(days=14)

_USED_TOKENS = "examples.mailing_list.tokens"
_STATE_KEY = "examples.mailing_list.handlers:"

_Handler = TypeVar("_Handler", bound=Callable[..., Any])


def state_key(list_name: str) -> str:
    """Returns what stands for a list in the store: each has conversations of its own."""
    return f"{_STATE_KEY}{list_name}"


def prepare() -> None:
    """Makes the store that is in the router ready; call it before the first mail.

    A table that is made for a store with subscribers in it begins with these.
    """
    if _have_a_table():
        roster.prepare(_posting())


def addresses(list_name: str) -> list[str]:
    """Returns the addresses of a list's subscribers, in alphabetical order."""
    if _have_a_table():
        return sorted(roster.addresses(list_name))
    return sorted({each.address for each in _posting(state_key(list_name))})


def in_step(handler: _Handler) -> _Handler:
    """Makes the subscribers follow the state that a handler leads its sender to.

    Last of all, when the handler has sent its mails: whoever has written on SQLite keeps others
    from writing until the mail is done.
    """

    @wraps(handler)
    def handle(message: Any, list_name: str, **captures: str) -> Any:
        try:
            next_state = handler(message, list_name=list_name, **captures)
        except SMTPError:  # leaves the state as it is
            raise
        except Exception:
            _moves(list_name, message.From, "ERROR")  # Salmon does, now
            raise
        if next_state is not None:
            _moves(list_name, message.From, next_state.__name__)
        return next_state

    return handle  # type: ignore[return-value]


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
    # That a token is spent is a state as well: kept by every server, through every restart. And
    # when this mail must come again, it is not spent.
    used = Router.STATE_STORE.compare_and_set(_USED_TOKENS, token, ROUTE_FIRST_STATE, "USED")
    return bool(used)


def suspend(list_name: str, address: str, token: str) -> int:
    """Suspends an address to which mail bounced, on all lists.

    Only a token that a mail of this list carried to this address, after it last subscribed, is
    good for that.

    Returns:
        The number of lists it was moved on; 0 if the token proves nothing.

    Raises:
        ConversationBusy: A mail from that address is in hand, which may subscribe it to another
            list: the bounce comes again.
    """
    issued = tokens.issued_at(token, "bounce", list_name, address, lifetime=BOUNCE_WITHIN)
    if issued is None:
        return 0
    with Router.STATE_STORE.conversation(address):
        record = _record(list_name, address)
        if record is None or record.state != "POSTING":
            return 0
        subscribed = record.updated_at or issued
        if issued < subscribed - tokens.CLOCK_TOLERANCE:
            return 0
        if _have_a_table():
            roster.remove_everywhere(address)
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


def _have_a_table() -> bool:
    return isinstance(Router.STATE_STORE, SQLAlchemyStorage)


def _moves(list_name: str, address: str, state: str) -> None:
    posted = Router.STATE_STORE.get(state_key(list_name), address) == "POSTING"
    if posted == (state == "POSTING") or not _have_a_table():
        return
    if posted:
        roster.remove(list_name, address)
    else:
        roster.add(Subscriber(list_name, address, tokens.now()))


def _posting(module: str | None = None) -> Iterator[Subscriber]:
    for record in Router.STATE_STORE.records(module=module, state="POSTING"):
        if record.module.startswith(_STATE_KEY) and record.sender:
            list_name = record.module.removeprefix(_STATE_KEY)
            yield Subscriber(list_name, record.sender, record.updated_at)


def _record(list_name: str, address: str) -> Record | None:
    records = Router.STATE_STORE.records(module=state_key(list_name), sender=address)
    return next(iter(records), None)
