"""Makes the router ready for tests: nothing is received, sent, logged or kept.

Import it in place of `config.boot`, then talk to the router with
`salmon.testing.RouterConversation`.
"""

import logging
from email.message import Message
from typing import NamedTuple

from salmon.routing import Router

from config import settings
from examples.mailing_list import settings as lists
from examples.mailing_list import subscribers
from salmon_state import MemoryStorage, attach


class Sent(NamedTuple):
    """A mail that a handler sent."""

    message: Message
    recipient: str
    sender: str


class SentMail(list[Sent]):
    """A relay that remembers what it was given."""

    def deliver(self, message: Message, To: str, From: str) -> None:  # noqa: N803 - as in Salmon
        """Remembers a message."""
        self.append(Sent(message, To, From))


settings.receiver = None
lists.relay = SentMail()
lists.list_names = settings.list_names
lists.list_domain = settings.list_domain
lists.list_secret = b"known to everybody, for tests only"

Router.STATE_STORE = MemoryStorage()
# Against another store: Router.STATE_STORE = salmon_state.open_storage("sqlite:///run/tests.db")
attach(Router)
subscribers.prepare()

# Not to hear on the terminal that states in memory are not shared: here they need not be.
logging.getLogger("salmon_state").addHandler(logging.NullHandler())

Router.RELOAD = False
Router.LOG_EXCEPTIONS = False  # a test must see them
Router.defaults(**settings.router_defaults)
Router.load(settings.handlers)
