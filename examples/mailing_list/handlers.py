"""The conversations of a mailing list with double opt-in.

==========================  ===============================================================
mail to                     does
==========================  ===============================================================
news-subscribe@…            sends back a mail that asks to confirm
news-confirm-TOKEN@…        a reply to it: the sender is on the list
news@…                      goes to everybody on the list
news-unsubscribe@…          the sender leaves
news-bounce-TOKEN-ADDR@…    a mail to this address bounced: it is suspended on all lists
==========================  ===============================================================

::

    START ──subscribe──▶ CONFIRMING ──confirm──▶ POSTING ──bounce──▶ SUSPENDED
      ▲                       ▲                     │                  │   │
      └──────unsubscribe──────┼─────────────────────┴──────────────────┘   │
                              └─────────────────subscribe──────────────────┘

ERROR is where Salmon puts a conversation whose handler failed; the sender is a stranger again.

What all states share: a mail that a machine wrote gets no answer and goes to nobody, what cannot
be posted is refused while the mail server is still on the line rather than answered later (the
answer would go to whoever's address was forged), and every token is signed. Whatever is refused
is refused in the same words in all states: nobody learns from them who is subscribed.

A function that returns ``None`` leaves the state, and the time at which it was set, as they are.
All that happens for one mail is one conversation (see `salmon_state.attach`): the next state, the
subscriber and a used token are kept together, or, when the mail must come again, not at all. The
mails of one sender are handled one after the other, and those of different senders share nothing
but the store; so Salmon's lock around all handlers is not needed (``@nolocking``).
"""

# ruff: noqa: N802 - Salmon's states are in capitals

from __future__ import annotations

import logging
from typing import Any

from salmon.routing import nolocking, route, route_like, state_key_generator, stateless
from salmon.server import SMTPError

from examples.mailing_list import outgoing, settings, subscribers, tokens
from examples.mailing_list.incoming import has_failed, is_automatic, is_from_its_author
from examples.mailing_list.subscribers import in_step

LOG = logging.getLogger("examples.mailing_list")

NextState = Any
"""The function that handles the sender's next mail, or ``None``."""


@state_key_generator
def list_key(module_name: str, message: Any) -> str:
    """Keeps a sender's conversations with different lists apart.

    `salmon.testing.assert_in_state` gives a dict in place of the message.
    """
    address = getattr(message, "To", None) or message["to"]
    local = str(address).lower().rpartition("@")[0]
    for name in sorted(settings.list_names, key=len, reverse=True):
        if local == name or local.startswith(f"{name}-"):
            return subscribers.state_key(name)
    return module_name


@route("(list_name)(request)@(host)", request="|-subscribe|-unsubscribe|-confirm-[0-9a-z]+")
@nolocking
@in_step
def START(message: Any, list_name: str, request: str, host: str) -> NextState:
    """Somebody who is not on the list, and whom we have not asked."""
    return _as_stranger(message, list_name, request)


@route_like(START)
@nolocking
@in_step
def CONFIRMING(message: Any, list_name: str, request: str, host: str) -> NextState:
    """Somebody whom we have asked to confirm, or in whose name somebody else subscribed."""
    token = request.removeprefix("-confirm-")
    if token == request or is_automatic(message):
        return _as_stranger(message, list_name, request)
    if not subscribers.confirm(list_name, message.From, token):
        return _refused(message, list_name, request)
    outgoing.say_welcome(list_name, message.From)
    LOG.info("%s: %r has subscribed", list_name, message.From)
    return POSTING


@route_like(START)
@nolocking
@in_step
def POSTING(message: Any, list_name: str, request: str, host: str) -> NextState:
    """A subscriber. Leaving works for mail that a program wrote, too; posting does not."""
    automatic = is_automatic(message)
    if request == "-unsubscribe":
        if not automatic:
            outgoing.say_goodbye(list_name, message.From)
        LOG.info("%s: %r has left", list_name, message.From)
        return START
    token = request.removeprefix("-confirm-")
    if (
        automatic
        or request == "-subscribe"
        or subscribers.was_asked(list_name, message.From, token)
    ):
        return _ignored(message)
    if request != "" or not is_from_its_author(message):
        return _refused(message, list_name, request)
    outgoing.distribute(list_name, message)
    # Not POSTING: the time of this state tells this subscription from others of the same address.
    return None


@route_like(START)
@nolocking
@in_step
def SUSPENDED(message: Any, list_name: str, request: str, host: str) -> NextState:
    """A subscriber to whom mail bounced, until they confirm again."""
    if request == "-unsubscribe":
        return START
    return _as_stranger(message, list_name, request)


@route_like(START)
@nolocking
@in_step
def ERROR(message: Any, list_name: str, request: str, host: str) -> NextState:
    """Somebody whose last mail a bug of ours met; that mail is in the undeliverable queue.

    Whether they were subscribed is forgotten.
    """
    if request == "-unsubscribe":
        return START
    return _as_stranger(message, list_name, request)


@route("(list_name)-bounce-(token)-(bounced)@(host)", token="[0-9a-z]+", bounced=".+")  # noqa: S106
@stateless
@nolocking
@in_step
def BOUNCE(message: Any, list_name: str, token: str, bounced: str, host: str) -> None:
    """A mail server that could not deliver a post.

    The sender is a mail daemon and has no state; it is the recipient whose state changes, in
    every conversation that they have.
    """
    address = tokens.unescape(bounced.lower())
    if has_failed(message) and subscribers.suspend(list_name, address, token):
        LOG.warning("%s: mail to %r bounced, suspended", list_name, address)
    else:
        _ignored(message)


def _as_stranger(message: Any, list_name: str, request: str) -> NextState:
    if is_automatic(message):
        return _ignored(message)
    if request != "-subscribe":
        return _refused(message, list_name, request)
    if outgoing.ask_to_confirm(list_name, message.From):
        LOG.info("%s: asked %r to confirm", list_name, message.From)
    return CONFIRMING


def _refused(message: Any, list_name: str, request: str) -> NextState:
    subscribe = outgoing.address_of(list_name, "-subscribe")
    if request == "":
        reason = "5.7.2 Only subscribers can post, and only with their own address in From"
        raise SMTPError(550, f"{reason}; to subscribe, write to {subscribe}")
    if request.startswith("-confirm-"):
        reason = "5.7.1 This does not confirm, or not any more: reply to the newest request"
        raise SMTPError(550, f"{reason}; for another one, write to {subscribe} in an hour")
    return _ignored(message)


def _ignored(message: Any) -> NextState:
    LOG.info("ignored a mail from %r to %r", message.From, message.To)
    return None
