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

from salmon.routing import Router
from salmon.server import SMTPError

from examples.mailing_list import roster, tokens
from examples.mailing_list.roster import Subscriber
from salmon_state import Confirmations, SQLAlchemyStorage

__all__ = [
    "bounce_token",
    "confirm",
    "forget_unconfirmed",
    "in_step",
    "on_list",
    "once_an_hour",
    "prepare",
    "state_key",
    "suspend",
    "was_asked",
]

CONFIRM_WITHIN = timedelta(days=3)
WRITE_AGAIN_AFTER = timedelta(hours=1)
BOUNCE_WITHIN = timedelta(days=14)

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


def on_list(list_name: str) -> list[Subscriber]:
    """Returns a list's subscribers, in the alphabetical order of their addresses."""
    found = roster.subscribers(list_name) if _have_a_table() else _posting(state_key(list_name))
    return sorted(found, key=lambda subscriber: subscriber.address)


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
        except RecursionError as error:
            # It is the mail that is to blame, and may have been forged: (((((((((((((((((((((((
            raise SMTPError(554, "5.6.0 This mail cannot be understood") from error
        except Exception:
            _moves(list_name, message.From, "ERROR")  # Salmon does, now
            raise
        if next_state is not None:
            _moves(list_name, message.From, next_state.__name__)
        return next_state

    return handle  # type: ignore[return-value]


def once_an_hour(purpose: str, list_name: str, address: str) -> str | None:
    """Returns a token if a mail for this purpose may be sent to an address now, or else ``None``.

    Anybody can write in somebody else's name; this is what keeps us from passing all of it on.
    That the mail is sent is committed together with the mail itself.
    """
    sent = _sent()
    earlier, _ = sent.get(f"{purpose} {list_name}", address)
    if earlier and _is_recent(earlier, purpose, list_name, address):
        return None
    token = tokens.make(purpose, list_name, address)
    sent.store(f"{purpose} {list_name}", address, token, None)
    return token


def was_asked(list_name: str, address: str, token: str) -> bool:
    """Returns whether a token was sent to an address, spent or not: who has it is the owner."""
    return tokens.is_valid(token, "confirm", list_name, address, lifetime=CONFIRM_WITHIN)


def confirm(list_name: str, address: str, token: str) -> bool:
    """Returns whether a token confirms this subscription; it does so once.

    It must be the one that was sent last: an older one, from before the subscriber left, must
    not bring the address back.
    """
    if not was_asked(list_name, address, token):
        return False
    sent, target = _sent(), f"confirm {list_name}"
    if sent.get(target, address) != (token, None):
        return False
    sent.delete(target, address)  # if the next state is committed
    return True


def bounce_token(subscriber: Subscriber) -> str:
    """Returns a token with which the bounce of a mail to a subscriber can be proven."""
    return tokens.make("bounce", subscriber.list_name, subscriber.address, _identity(subscriber))


def suspend(list_name: str, address: str, token: str) -> int:
    """Suspends an address to which mail bounced, on all lists.

    Only a token that a mail of this list carried to this address, in the subscription that it has
    now, is good for that.

    Returns:
        The number of lists it was moved on; 0 if the token proves nothing.

    Raises:
        ConversationBusy: A mail from that address is in hand, which may subscribe it to another
            list: the bounce comes again.
    """
    with Router.STATE_STORE.conversation(address):
        subscription = _subscription(list_name, address)
        if subscription is None or not tokens.is_valid(
            token, "bounce", list_name, address, _identity(subscription), lifetime=BOUNCE_WITHIN
        ):
            return 0
        if _have_a_table():
            roster.remove_everywhere(address)
        return int(Router.STATE_STORE.set_all(address, "SUSPENDED"))


def forget_unconfirmed() -> int:
    """Removes subscriptions that nobody confirmed; returns how many."""
    return int(Router.STATE_STORE.purge(older_than=CONFIRM_WITHIN, state="CONFIRMING"))


def _sent() -> Confirmations:
    """Returns the tokens that were sent last, by purpose and list; they are a sender's own."""
    return Confirmations(Router.STATE_STORE, expires=CONFIRM_WITHIN)


def _is_recent(token: str, purpose: str, list_name: str, address: str) -> bool:
    return (
        tokens.is_valid(token, purpose, list_name, address, lifetime=WRITE_AGAIN_AFTER)
        # Not for ever either, when a server's clock was wrong.
        and tokens.issued_at(token) - tokens.now() < WRITE_AGAIN_AFTER
    )


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


def _posting(module: str | None = None, sender: str | None = None) -> Iterator[Subscriber]:
    for record in Router.STATE_STORE.records(module=module, sender=sender, state="POSTING"):
        if record.module.startswith(_STATE_KEY) and record.sender:
            list_name = record.module.removeprefix(_STATE_KEY)
            yield Subscriber(list_name, record.sender, record.updated_at)


def _subscription(list_name: str, address: str) -> Subscriber | None:
    if _have_a_table():
        return next(iter(roster.subscribers(list_name, address)), None)
    return next(_posting(state_key(list_name), address), None)


def _identity(subscriber: Subscriber) -> str:
    """Returns what tells a subscription from an earlier one of the same address."""
    return str(subscriber.subscribed_at)
