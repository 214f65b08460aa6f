"""What this Salmon application is configured with; every value can come from the environment.

| variable | meaning | default |
|---|---|---|
| ``SALMON_STATE_URL`` | where the states are, see `salmon_state.open_storage` | run/states.db |
| ``SALMON_RECEIVER`` | how mail comes in: ``smtp``, ``lmtp`` or ``queue`` | ``smtp`` |
| ``SALMON_HOST``, ``SALMON_PORT`` | where SMTP and LMTP listen | 127.0.0.1, 8823 |
| ``SALMON_STATE_PATIENCE`` | seconds to wait at the start for a store that is away | 60 |
| ``SALMON_ONCE_WITHIN`` | days in which a mail that comes again is not handled again; 0: none | 7 |
| ``SALMON_SOCKET`` | the path of a Unix socket on which LMTP listens instead | none |
| ``SALMON_SOCKET_MODE`` | who may connect to it: its permissions | 660 |
| ``SALMON_PROCESSES`` | how many processes receive by SMTP or LMTP | 1 |
| ``SALMON_WORKERS`` | how many mails each of them handles at a time | 16 |
| ``SALMON_TLS_CERTIFICATE`` | a PEM file, for clients who want STARTTLS | none |
| ``SALMON_TLS_KEY`` | its key | in the same file |
| ``SALMON_SIZE_LIMIT`` | bytes that a mail may have; a larger one is refused | 10485760 |
| ``SALMON_…_LIMIT`` | the other limits: see `salmon_state.mail.receivers.Limits` | see there |
| ``SALMON_QUEUE`` | the Maildir that ``queue`` watches | run/queue |
| ``SALMON_RELAY`` | ``host:port`` of the server that sends our mail | none: see below |
| ``SALMON_RELAY_TLS`` | ``none``, ``starttls`` or ``tls`` | ``none`` |
| ``SALMON_RELAY_CONNECTIONS`` | how many are open to it, at most | 32 |
| ``SALMON_DISPATCHER`` | what sends: a ``process`` beside it, or a ``thread`` | ``process`` |
| ``SALMON_RELAY_USER``, ``SALMON_RELAY_PASSWORD`` | how to log in there | no login |
| ``SALMON_LISTS`` | names of the mailing lists, separated by commas | ``news`` |
| ``SALMON_LIST_DOMAIN`` | the part of their addresses behind the @ | lists.example.com |
| ``SALMON_LIST_SECRET`` | signs the lists' tokens; at least 32 characters | in run/list.secret |

Without a relay nothing leaves this machine: mail goes to the Maildir ``run/outbox``, to be read.
Relative paths start at the working directory of the server. Servers that share their states must
share the secret as well.
"""

import re
from dataclasses import fields
from datetime import timedelta
from typing import Any

from config.environment import SettingsError, choice, host_and_port, number, port, text, word, words
from salmon_state.mail.receivers import Limits

state_url = text("SALMON_STATE_URL", "sqlite:///run/states.db")

receiver_kind = choice("SALMON_RECEIVER", ("smtp", "lmtp", "queue"))
state_patience = number("SALMON_STATE_PATIENCE", 60, least=0)
once_within = timedelta(days=min(number("SALMON_ONCE_WITHIN", 7, least=0), 36_500)) or None
receiver_host = text("SALMON_HOST", "127.0.0.1")
receiver_port = port("SALMON_PORT", 8823)
receiver_socket = text("SALMON_SOCKET")
if receiver_socket and receiver_kind != "lmtp":
    raise SettingsError("SALMON_SOCKET: expected SALMON_RECEIVER=lmtp beside it")
socket_mode = int(word("SALMON_SOCKET_MODE", "660", "[0-7]{3}", "permissions such as 660"), 8)
processes = number("SALMON_PROCESSES", 1)
workers = number("SALMON_WORKERS", 16)
tls_certificate = text("SALMON_TLS_CERTIFICATE")
tls_key = text("SALMON_TLS_KEY")
limits = Limits(
    **{
        each.name: number(f"SALMON_{each.name.upper()}_LIMIT", int(getattr(Limits(), each.name)))
        for each in fields(Limits)
    }
)
queue_directory = text("SALMON_QUEUE", "run/queue")
undeliverable_directory = "run/undeliverable"

relay_address = host_and_port("SALMON_RELAY")
relay_connections = number("SALMON_RELAY_CONNECTIONS", 32)
dispatcher_kind = choice("SALMON_DISPATCHER", ("process", "thread"))
relay_tls = choice("SALMON_RELAY_TLS", ("none", "starttls", "tls"))
relay_user = text("SALMON_RELAY_USER")
relay_password = text("SALMON_RELAY_PASSWORD")
if bool(relay_user) != bool(relay_password):
    # Neither value is shown: one of them may be the password in the wrong place.
    raise SettingsError("SALMON_RELAY_USER and SALMON_RELAY_PASSWORD: expected both or neither")
outbox_directory = "run/outbox"

# What a list's addresses are made of must not be part of its name, or they would be ambiguous.
list_names = words(
    "SALMON_LISTS",
    "news",
    r"(?!.*-(?:subscribe|unsubscribe|confirm|bounce)\b)[a-z0-9]+(?:[._-][a-z0-9]+)*",
    "names such as news,book-club, none of them with -subscribe, -unsubscribe, -confirm, -bounce",
)
list_domain = word(
    "SALMON_LIST_DOMAIN",
    "lists.example.com",
    r"(?!.*\.\.)[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?",
    "one domain name such as lists.example.com",
)
list_secret_file = "run/list.secret"  # noqa: S105 - the name of a file
list_secret_given = text("SALMON_LIST_SECRET").encode("utf-8", "surrogateescape")
if list_secret_given and len(list_secret_given) < 32:
    raise SettingsError("SALMON_LIST_SECRET: expected at least 32 characters, got fewer")

handlers = ["examples.mailing_list.handlers"]
router_defaults = {
    "host": re.escape(list_domain),
    "list_name": "|".join(re.escape(name) for name in list_names),
}

# Made by config.boot when the process is ready for them.
receiver: Any = None
