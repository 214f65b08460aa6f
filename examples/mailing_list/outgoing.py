"""The mails that a list sends.

Our own have a null sender in their envelope, so that nothing can come back and start a loop. A
post has a different one for each recipient, so that a bounce tells whose address is dead (VERP).

What is sent here is recorded: it leaves when what the handler did is committed, or never.
"""

from __future__ import annotations

import logging
import re
from email.errors import MessageError
from email.header import Header
from email.message import EmailMessage, Message
from email.utils import formataddr, formatdate, make_msgid
from typing import Any

from salmon.server import SMTPError

from examples.mailing_list import settings, tokens
from examples.mailing_list.incoming import author_name, parsed, readable
from examples.mailing_list.roster import Subscriber
from examples.mailing_list.subscribers import bounce_token, on_list, once_an_hour

__all__ = ["address_of", "ask_to_confirm", "distribute", "say_goodbye", "say_welcome"]

LOG = logging.getLogger("examples.mailing_list")

CONFIRM = """\
Somebody, hopefully you, wants to be on the mailing list

    {list}

To confirm that, just reply to this mail. If it was not you, do nothing:
you will receive nothing.
"""

WELCOME = """\
You are now on the mailing list {list}.

Write to {list} and everybody on it will read it.
To leave, write to {unsubscribe}.
"""

GOODBYE = """\
You have left the mailing list {list}.

If it was not you who wanted that, write to {subscribe}.
"""


def address_of(list_name: str, request: str = "") -> str:
    """Returns a list's address, or the one for a request such as ``-subscribe``."""
    return f"{list_name}{request}@{settings.list_domain}"


def ask_to_confirm(list_name: str, recipient: str) -> bool:
    """Sends the mail whose reply confirms a subscription, unless one was sent within the hour.

    Returns:
        Whether it is sent.
    """
    token = once_an_hour("confirm", list_name, recipient)
    if token:
        sender = address_of(list_name, f"-confirm-{token}")
        _send_own(list_name, recipient, sender, f"Please confirm: {list_name}", CONFIRM)
    return token is not None


def say_welcome(list_name: str, recipient: str) -> None:
    """Sends a greeting."""
    if once_an_hour("welcome", list_name, recipient):
        sender = address_of(list_name)
        _send_own(list_name, recipient, sender, f"Welcome to {list_name}", WELCOME)


def say_goodbye(list_name: str, recipient: str) -> None:
    """Sends a farewell, which also tells people that somebody unsubscribed them."""
    if once_an_hour("goodbye", list_name, recipient):
        sender = address_of(list_name)
        _send_own(list_name, recipient, sender, f"You have left {list_name}", GOODBYE)


def distribute(list_name: str, message: Any) -> int:
    """Sends a post to all subscribers, each with an envelope of its own.

    Returns:
        The number of copies.

    Raises:
        SMTPError: 554, the post cannot be understood.
    """
    try:
        post = _as_post(list_name, parsed(message), message.From)
    except (MessageError, ValueError, LookupError, TypeError) as error:
        LOG.warning("%s: post from %r not understood: %s", list_name, message.From, error)
        raise SMTPError(554, "5.6.0 This mail cannot be understood") from None
    copies = on_list(list_name)
    settings.relay.fan_out(post, ((each.address, _bounces(each)) for each in copies))
    LOG.info("%s: post from %r goes to %d subscribers", list_name, message.From, len(copies))
    return len(copies)


def _bounces(subscriber: Subscriber) -> str:
    """Returns the address that a post to a subscriber comes back to."""
    bounced = f"{bounce_token(subscriber)}-{tokens.escape(subscriber.address)}"
    return address_of(subscriber.list_name, f"-bounce-{bounced}")


def _as_post(list_name: str, mail: Message, author: str) -> Message:
    """Makes a received mail into a post: its content stays, its headers become the list's.

    Only headers known to be harmless are kept. Salmon's ``MailResponse`` would recode the text
    and lose some kinds of attachments.
    """
    kept = {
        "Subject": Header(readable(mail["Subject"]) or "(no subject)").encode(),
        "From": formataddr((f"{author_name(mail)} via {list_name}", address_of(list_name))),
        "Reply-To": author,
        "Date": readable(mail["Date"]) or formatdate(),
        "Message-ID": _message_ids(mail["Message-ID"])[:998] or make_msgid(),
        "In-Reply-To": _message_ids(mail["In-Reply-To"]),
        "References": _message_ids(mail["References"]),
    }
    for name in set(mail.keys()):
        if not name.lower().startswith("content-") and name.lower() != "mime-version":
            del mail[name]
    mail["To"] = address_of(list_name)
    for name, value in kept.items():
        if value:
            mail[name] = value
    mail["Precedence"] = "list"
    _add_list_headers(list_name, mail)
    mail.as_bytes()  # raises now what it would raise when it is recorded
    return mail


def _message_ids(header: Any) -> str:
    # No character but the @ may match in two places: a header may be long, and all of it @.
    return "\n ".join(re.findall(r"<[!-;=?A-~]+@[!-;=?A-~]+>", str(header or ""))[-20:])


def _add_list_headers(list_name: str, mail: Message) -> None:
    mail["X-Loop"] = address_of(list_name)
    mail["List-Id"] = f"<{list_name}.{settings.list_domain}>"
    mail["List-Post"] = f"<mailto:{address_of(list_name)}>"
    mail["List-Subscribe"] = f"<mailto:{address_of(list_name, '-subscribe')}>"
    mail["List-Unsubscribe"] = f"<mailto:{address_of(list_name, '-unsubscribe')}>"


def _send_own(list_name: str, recipient: str, sender: str, subject: str, text: str) -> None:
    mail = EmailMessage()
    mail["From"] = formataddr((list_name, sender))
    mail["To"] = recipient
    mail["Subject"] = subject
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain=settings.list_domain)
    mail["Auto-Submitted"] = "auto-replied"
    mail["Precedence"] = "bulk"
    _add_list_headers(list_name, mail)
    mail.set_content(
        text.format(
            list=address_of(list_name),
            subscribe=address_of(list_name, "-subscribe"),
            unsubscribe=address_of(list_name, "-unsubscribe"),
        )
    )
    settings.relay.deliver(mail, To=recipient, From="")
