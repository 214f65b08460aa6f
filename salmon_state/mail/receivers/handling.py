"""What becomes of a mail that has been received: Salmon's router, and an answer."""

from __future__ import annotations

import mailbox
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from salmon import routing, server
from salmon.mail import MailRequest

from salmon_state.log import log
from salmon_state.mail.delivery import is_attached
from salmon_state.mail.receivers.complexity import TOO_COMPLEX, is_too_complex
from salmon_state.mail.receivers.repeated import Repeated
from salmon_state.stores.disk import Synced, put_off

__all__ = ["Handled", "ReceivedMail", "handle", "one_answer", "refusal", "same_case", "settle"]

HANDLED = "250 2.0.0 OK"
NO_SUCH_RECIPIENT = "550 5.1.1 Nobody has this address here"
NOT_NOW = "451 4.3.0 This mail cannot be handled now, please try again"

_repeated = Repeated()


@dataclass(frozen=True)
class ReceivedMail:
    """A mail with its envelope.

    Args:
        peer: Whose mail server it came from: host and port.
        sender: The envelope's, without angle brackets; ``''`` is the null sender.
        recipients: The envelope's.
        data: What was sent.
    """

    peer: tuple[Any, ...]
    sender: str
    recipients: Sequence[str]
    data: bytes


@dataclass
class Handled:
    """A mail that the router is done with.

    Args:
        answers: One for each of its recipients, in order.
        owed: The files that must be brought to the disk before anybody hears them.
    """

    answers: list[str]
    owed: set[Synced]


def same_case(address: str) -> str:
    r"""Returns an address with small ASCII letters, as Salmon has them, and else as it is.

    Salmon makes all letters small, by which two different addresses may become the same.

    >>> ascii(same_case("\u212aNNA@Example.COM"))
    "'\\u212anna@example.com'"
    """
    return address.encode("utf-8", "surrogateescape").lower().decode("utf-8", "surrogateescape")


def refusal(recipient: str) -> str | None:
    """Returns what to answer if no route of the router is for a recipient, otherwise ``None``.

    Mail to a postmaster must be taken (RFC 5321, section 4.5.1): without a route it goes into
    Salmon's undeliverable queue, where an operator looks.
    """
    router = routing.Router
    if any(True for _ in router.match(recipient)):
        return None
    if re.fullmatch("postmaster(@.*)?", recipient) and router.UNDELIVERABLE_QUEUE is not None:
        return None
    return NO_SUCH_RECIPIENT


def handle(mail: ReceivedMail) -> Handled:
    """Lets the router deliver a mail; `settle` must see what comes of it before its client."""
    try:
        return _handle_all(mail)
    except MemoryError:  # already to look at it took too much; the worker is needed
        log().exception("there is no memory for a mail from %r", mail.sender)
        return Handled([NOT_NOW] * len(mail.recipients), set())


def _handle_all(mail: ReceivedMail) -> Handled:
    data = _with_return_path(mail.sender, mail.data)
    if is_too_complex(data):
        _repeated.say(
            "mails that are too complex to be parsed are refused, one from %r", mail.sender
        )
        return Handled([TOO_COMPLEX] * len(mail.recipients), set())
    # What handlers write outside of a conversation is none of what may be put off.
    attached = is_attached(routing.Router)
    with put_off() if attached else nullcontext(set[Synced]()) as owed:
        return Handled([_handle(mail, recipient, data) for recipient in mail.recipients], owed)


def settle(mails: Sequence[Handled]) -> None:
    """Brings to the disk what several mails have written; if it fails, they are to come again."""
    lost = set()
    for file in set[Synced]().union(*(mail.owed for mail in mails)):
        try:
            file.sync()
        except OSError as error:
            log().error("what mails have written is not on the disk: %s", error)
            lost.add(file)
    for mail in mails:
        if mail.owed & lost:
            mail.answers = [NOT_NOW] * len(mail.answers)


def _handle(mail: ReceivedMail, recipient: str, data: bytes) -> str:
    try:
        request = MailRequest(mail.peer, mail.sender, recipient, data)
        # Not as Salmon reads them. With a null sender it takes the one of the header.
        request.From = mail.sender or request.From
        request.To = recipient
        routing.Router.deliver(request)
    except server.SMTPError as error:
        return _one_line(str(error))
    except Exception:  # noqa: BLE001 - Salmon's router and Python's parser let out what they like
        log().exception("a mail from %r to %r cannot be handled", mail.sender, recipient)
        return _keep(data, f"a mail from {mail.sender!r} to {recipient!r} cannot be handled")
    except BaseException:  # noqa: BLE001 - such as CancelledError; the worker is needed
        log().exception("a mail from %r to %r was not handled", mail.sender, recipient)
        return NOT_NOW  # as its conversation has kept nothing
    return HANDLED


def _keep(data: bytes, reason: str) -> str:
    if routing.Router.UNDELIVERABLE_QUEUE is None:
        return NOT_NOW
    try:
        server.undeliverable_message(data, reason)
    except (OSError, mailbox.Error):
        log().exception("a mail cannot be kept as undeliverable")
        return NOT_NOW
    return HANDLED


def one_answer(answers: Sequence[str]) -> str:
    """Returns what to say where there is one answer for all recipients, as in SMTP.

    If it failed for now for one of them, the mail is to come again, and the inbox knows for whom
    it was handled. If it was refused for one, its sender must hear that.
    """
    for bad in "45":
        for answer in answers:
            if answer.startswith(bad):
                return answer
    return answers[0]


def _one_line(answer: str) -> str:
    """Returns an answer as it can be sent: a handler may have written anything."""
    text = re.sub(r"[^\x20-\x7e]+", " ", answer)[:500].strip()
    return text if re.match("[245][0-9][0-9] ", text) else f"451 4.3.0 {text}"


def _with_return_path(sender: str, data: bytes) -> bytes:
    """Adds the ``Return-Path`` that RFC 5321 (section 4.4) wants from whoever delivers a mail.

    Salmon hides from a handler whether a mail has a null sender: it then sees the ``From:`` header.
    A list server must know, or two servers send each other automatic replies for ever. And a mail
    that starts with an mbox line would otherwise begin with a header called "From ".
    """
    return b"Return-Path: <" + sender.encode() + b">\r\n" + data
