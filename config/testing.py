"""Makes the router ready for tests: nothing is received, sent, logged or kept.

Import it in place of `config.boot`, then talk to the router with
`salmon.testing.RouterConversation`.
"""

import logging
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from typing import Any, NamedTuple

from salmon.routing import Router

from config import settings
from examples.mailing_list import settings as lists
from examples.mailing_list import subscribers
from salmon_state import MemoryStorage, attach
from salmon_state.entries import Kind
from salmon_state.mail.batches import decode
from salmon_state.mail.outbox import Outbox


class Sent(NamedTuple):
    """A mail that a handler sent to somebody."""

    message: Message
    recipient: str
    sender: str


class SentMail(Outbox, Sequence[Sent]):
    """An outbox whose mails are read and not sent: those that are committed, in their order."""

    def _all(self) -> list[Sent]:
        sent: list[Sent] = []
        for mail in sorted(self.pending(), key=lambda mail: mail.name):
            body = self.storage._find(Kind.BODY, mail.sender, decode(mail.entry).body)
            sent += [
                Sent(message_from_bytes(body), to, group.sender)
                for group in mail.groups
                for to in group.recipients
            ]
        return sent

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())

    def clear(self) -> None:
        """Forgets what was sent so far."""
        for mail in self.pending():
            self.drop(mail)


settings.receiver = None
lists.list_names = settings.list_names
lists.list_domain = settings.list_domain
lists.list_secret = b"known to everybody, for tests only"

Router.STATE_STORE = MemoryStorage()
# Against another store: Router.STATE_STORE = salmon_state.open_storage("sqlite:///run/tests.db")
lists.relay = SentMail(Router.STATE_STORE)
attach(Router)
subscribers.prepare()

# Not to hear on the terminal that states in memory are not shared: here they need not be.
logging.getLogger("salmon_state").addHandler(logging.NullHandler())

Router.RELOAD = False
Router.LOG_EXCEPTIONS = False  # a test must see them
Router.defaults(**settings.router_defaults)
Router.load(settings.handlers)
