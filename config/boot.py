"""Makes the server ready; ``salmon start`` and ``make run`` import it.

``salmon start`` becomes a daemon first and imports this module then. That order matters: sockets
and database connections made earlier would not survive becoming a daemon.
"""

import os
import sys

# Python would import these with the first mail, and after ``salmon start --uid`` might not be
# allowed to.
from email import contentmanager, feedparser, headerregistry, parser, policy  # noqa: F401

from salmon.queue import Queue
from salmon.routing import Router

from config import settings
from config.environment import SettingsError
from config.logs import log_to_file
from config.patience import when_there
from config.receiving import make_receiver
from config.run_directory import private_directory, private_maildir, private_secret
from config.sending import Sending, make_relay
from examples.mailing_list import settings as lists
from examples.mailing_list import subscribers
from salmon_state import StorageError, attach, open_storage
from salmon_state.mail.outbox import Outbox

# A Salmon daemon has umask 0, with which the mails in the queues and the log would be everybody's.
os.umask(0o077)

private_directory("run")
private_directory("logs")
log_to_file()

lists.list_names = settings.list_names
lists.list_domain = settings.list_domain
lists.list_secret = settings.list_secret_given or private_secret(settings.list_secret_file)


def _open_store() -> None:
    Router.STATE_STORE = open_storage(settings.state_url)
    attach(Router, once_within=settings.once_within)
    subscribers.prepare()
    subscribers.forget_unconfirmed()


try:
    when_there(_open_store, settings.state_patience)
except StorageError as error:
    raise SettingsError(f"SALMON_STATE_URL: {error.detail}") from None

lists.relay = Outbox(Router.STATE_STORE, make_relay())

Router.UNDELIVERABLE_QUEUE = Queue(str(private_maildir(settings.undeliverable_directory)))
Router.RELOAD = False  # re-importing the handlers before every mail is for development
Router.defaults(**settings.router_defaults)
Router.load(settings.handlers)
for handler in settings.handlers:
    if handler not in sys.modules:  # Salmon logs it and would go on without it
        raise SettingsError(f"handlers: {handler} cannot be imported, see logs/salmon.log")

settings.receiver = Sending(make_receiver(), lists.relay)
