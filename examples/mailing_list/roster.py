"""The subscribers as a table beside the states, for stores that are SQL databases.

Every function here takes part in the conversation that is going on: what it writes is committed
together with the sender's new state, or not at all.
"""

from __future__ import annotations

import ast
import hashlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import NamedTuple

import sqlalchemy as sa
from salmon.routing import Router
from sqlalchemy.exc import SQLAlchemyError

from salmon_state import StorageUnavailable, current_conversation

__all__ = ["Subscriber", "add", "prepare", "remove", "remove_everywhere", "subscribers"]

LOG = logging.getLogger("examples.mailing_list")

NAME = "mailing_list_subscribers"

_BATCH = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


class Subscriber(NamedTuple):
    """One address on one list."""

    list_name: str
    address: str
    subscribed_at: datetime | None


def _table(name: str) -> sa.Table:
    """Returns the description of the table.

    A row is found by digests, so that two addresses never meet whatever a database's collation
    takes for equal; the texts are for people to read, and in ASCII.
    """
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("address_digest", sa.CHAR(64), primary_key=True),
        sa.Column("list_digest", sa.CHAR(64), primary_key=True, index=True),
        sa.Column("list_name", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("subscribed_at", sa.BigInteger),  # microseconds since 1970 UTC, like the states'
    )


TABLE = _table(NAME)


def prepare(known: Iterable[Subscriber]) -> None:
    """Makes the table, with the subscribers that are known already, unless it is there.

    Of servers that start together one makes it, and it appears complete or not at all: not every
    database can take a new table back, but all can rename one in a single step.
    """
    rows = map(_row, known)
    store = Router.STATE_STORE
    with store.conversation(None) as conversation:
        engine = conversation.connection.engine
    # The lock is a conversation's, and the connection is not: some databases commit before they
    # make a table.
    with store.conversation(NAME, timeout=60), _explained(), engine.connect() as connection:
        if sa.inspect(connection).has_table(NAME):
            return
        new = _table(f"{NAME}_new")
        new.drop(connection, checkfirst=True)
        new.create(connection)
        while batch := list(islice(rows, _BATCH)):
            connection.execute(new.insert().values(batch))
        connection.execute(sa.text(f"ALTER TABLE {new.name} RENAME TO {NAME}"))


def add(subscriber: Subscriber) -> None:
    """Adds a subscriber, in place of what there may be from a time before."""
    remove(subscriber.list_name, subscriber.address)
    with _transaction() as connection:
        connection.execute(TABLE.insert(), _row(subscriber))


def remove(list_name: str, address: str) -> None:
    """Removes an address from a list."""
    with _transaction() as connection:
        connection.execute(
            TABLE.delete().where(
                TABLE.c.address_digest == _digest(address),
                TABLE.c.list_digest == _digest(list_name),
            )
        )


def remove_everywhere(address: str) -> None:
    """Removes an address from all lists, those that are no longer configured included."""
    with _transaction() as connection:
        connection.execute(TABLE.delete().where(TABLE.c.address_digest == _digest(address)))


def subscribers(list_name: str, address: str | None = None) -> list[Subscriber]:
    """Returns who is on a list, in no particular order; only one address if it is given."""
    wanted = TABLE.c.list_digest == _digest(list_name)
    if address is not None:
        wanted &= TABLE.c.address_digest == _digest(address)
    found = sa.select(TABLE.c.address, TABLE.c.subscribed_at).where(wanted)
    with _transaction() as connection:
        return [
            Subscriber(list_name, ast.literal_eval(text), _moment(since))
            for text, since in connection.execute(found)
        ]


@contextmanager
def _transaction() -> Iterator[sa.Connection]:
    """Gives the connection of the conversation that is going on, or else of one for this."""
    with ExitStack() as ends:
        conversation = current_conversation()
        if conversation is None:
            conversation = ends.enter_context(Router.STATE_STORE.conversation(None))
        ends.enter_context(_explained())
        yield conversation.connection


@contextmanager
def _explained() -> Iterator[None]:
    """Turns an error of the database into one after which the mail comes again.

    As it is, it would pass for a bug of the handler, and leave the sender in ERROR.
    """
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        reason = f"the table {NAME}: {type(cause).__name__}: {' '.join(str(cause).split())}"
        LOG.error(reason)
        raise StorageUnavailable(reason) from error


def _row(subscriber: Subscriber) -> dict[str, object]:
    list_name, address, since = subscriber
    return {
        "address_digest": _digest(address),
        "list_digest": _digest(list_name),
        "list_name": ascii(list_name),
        "address": ascii(address),
        "subscribed_at": None if since is None else (since - _EPOCH) // _MICROSECOND,
    }


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + microseconds * _MICROSECOND


def _digest(text: str) -> str:
    return hashlib.sha256(ascii(text).encode()).hexdigest()
