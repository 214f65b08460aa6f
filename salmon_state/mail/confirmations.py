"""Confirmations: what Salmon's ConfirmationEngine waits for, kept in a store."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from salmon.confirm import ConfirmationEngine
from salmon.mail import MailRequest

from salmon_state.checks import check_lifetime, plain_sender
from salmon_state.entries import (
    EVER,
    MICROSECOND,
    Entry,
    Kind,
    Seen,
    Where,
    Write,
    from_microseconds,
)
from salmon_state.errors import ConfigurationError, StorageError
from salmon_state.keys import Sender
from salmon_state.mail.expiry import Expiry
from salmon_state.storage import StateStorage

__all__ = ["Confirmations", "PendingMails", "Waiting"]

_SECRET = "secret "  # noqa: S105 - what the names of such entries begin with


class Waiting(NamedTuple):
    """What somebody is to confirm, without the secret that confirms it."""

    target: str
    """What is to be confirmed, such as ``"subscribe"``."""
    from_address: Sender
    """Who must confirm."""
    expires: datetime | None
    """After what time nobody can any more."""


class Confirmations:
    """Stands where `salmon.confirm.ConfirmationStorage` does in Salmon's ``ConfirmationEngine``.

    >>> from salmon.confirm import ConfirmationEngine
    >>> from salmon_state import MemoryStorage
    >>> confirmations = Confirmations(MemoryStorage())
    >>> confirmations.store("subscribe", "zoë@example.com", "a secret", "the id of a mail")
    >>> confirmations.get("subscribe", "zoë@example.com")
    ('a secret', 'the id of a mail')
    >>> engine = confirmations.engine()  # or ConfirmationEngine("run/pending", confirmations)

    There is one for each target and address, whatever characters they have, and it expires. What a
    handler does with them is part of its conversation (see `salmon_state.attach`): the
    confirmation is used up when the next state is there, and not before. Two mails that confirm
    the same thing at the same moment do not both succeed: one of them comes again, and finds
    nothing. Outside of a conversation each call is a commit of its own.

    They belong to the address as the sender. Where one commit cannot span senders (Redis Cluster),
    a conversation can only deal with those of its own sender.

    Args:
        storage: Where they are kept.
        expires: After what time nobody can confirm any more.

    Attributes:
        pending: Keeps the mails that wait for a confirmation, as a `salmon.queue.Queue` does for
            an engine, in the same store.

    Raises:
        TypeError, ValueError: `expires` is no ``timedelta``, or not positive, or too long.
        ConfigurationError: The store keeps states only.
    """

    def __init__(self, storage: StateStorage, *, expires: timedelta = timedelta(days=7)) -> None:
        check_lifetime("expires", expires)
        self._entries = _Entries(storage, expires)
        self.pending = PendingMails(self._entries)

    def engine(self) -> ConfirmationEngine:
        """Returns Salmon's engine, with its pending mails in the store instead of a Maildir."""
        engine = ConfirmationEngine.__new__(ConfirmationEngine)  # whose own makes the Maildir
        engine.pending, engine.storage = self.pending, self
        return engine

    def store(
        self,
        target: str,
        from_address: Sender,
        expected_secret: str,
        pending_message_id: str | None,
    ) -> None:
        """Keeps the secret that confirms a target, in place of an earlier one.

        Args:
            target: What is to be confirmed, such as ``"subscribe"``.
            from_address: Who must confirm.
            expected_secret: What only they can know.
            pending_message_id: What the mail that waits for it is called in the engine's queue;
                ``None`` if none does.

        Raises:
            TypeError: One of them is no ``str``.
            StorageUnavailable: The store cannot be written now.
        """
        _check_text(expected_secret, "a secret")
        if pending_message_id is not None:
            _check_text(pending_message_id, "the id of a message")
        about = [expected_secret, pending_message_id]
        self._entries.put(plain_sender(from_address), _name_of(target), about)

    def get(self, target: str, from_address: Sender) -> tuple[str | None, str | None]:
        """Returns the secret and the id of the pending message, or twice ``None``.

        Raises:
            TypeError: As for `store`.
            StorageUnavailable: The store cannot be read now.
        """
        found = self._entries.find(plain_sender(from_address), _name_of(target))
        if found is None:
            return None, None
        secret, pending_message_id = found.about
        return secret, pending_message_id

    def delete(self, target: str, from_address: Sender) -> None:
        """Removes what `get` returns; harmless if there is nothing.

        Raises:
            TypeError: As for `store`.
            ConversationBusy: Somebody else was quicker; of a conversation, at its end.
            StorageUnavailable: The store cannot be written now.
        """
        self._entries.remove(plain_sender(from_address), _name_of(target))

    def waiting(self) -> Iterator[Waiting]:
        """Yields what is to be confirmed, what expires first at first, a page at a time.

        Raises:
            StorageUnavailable: The store cannot be read now; also while iterating.
        """
        return self._entries.waiting()

    def clear(self) -> None:
        """Removes all confirmations and all pending mails; meant for tests.

        Raises:
            StorageError: The store was made with ``protect=True``.
            StorageUnavailable: The store cannot be written now.
        """
        self._entries.clear()


class PendingMails:
    """Keeps mails that wait for a confirmation; made by `Confirmations`.

    They expire like confirmations. As in Salmon's queue, a mail that was confirmed stays until it
    is removed or expires.
    """

    def __init__(self, entries: _Entries) -> None:
        self._entries = entries

    def push(self, message: Any) -> str:
        """Keeps a mail as it was received, with its envelope; returns what it is called."""
        if isinstance(message, MailRequest):
            envelope, data = [message.From, message.To], message.Data
        else:
            envelope, data = [None, None], str(message)
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogateescape")
        sender, number = plain_sender(envelope[0]), secrets.token_hex(16)
        self._entries.put(sender, _MAIL + number, envelope, data)
        return json.dumps([number, sender])

    def get(self, key: str | None) -> MailRequest | None:
        """Returns a mail, or ``None`` if there is none any more, or never was one here."""
        place = _place_of(key)
        found = None if place is None else self._entries.find(*place)
        if found is None:
            return None
        request = MailRequest("pending", None, None, found.data)
        request.From, request.To = (
            ours or its for ours, its in zip(found.about, (request.From, request.To), strict=True)
        )
        return request

    def remove(self, key: str | None) -> None:
        """Removes a mail; harmless if there is none."""
        place = _place_of(key)
        if place is not None:
            self._entries.remove(*place)

    def clear(self) -> None:
        """Does what `Confirmations.clear` does."""
        self._entries.clear()


class _Found(NamedTuple):
    """What an entry says."""

    until: int
    about: list[Any]
    data: bytes


class _Entries:
    """Entries that expire, as the conversation that this thread is in sees them, if it is in one.

    A value is a line of JSON, the moment at which it expires and what it is about; and some bytes.
    """

    def __init__(self, storage: StateStorage, expires: timedelta) -> None:
        if not (isinstance(storage, StateStorage) and storage._has_hooks):
            raise ConfigurationError(
                f"{storage!r} has get, set and clear only and cannot keep confirmations"
            )
        self._storage = storage
        self._expires = expires // MICROSECOND
        self._expiry = Expiry()

    def put(self, sender: Sender, name: str, about: list[Any], data: bytes = b"") -> None:
        until = self._storage._clock() + self._expires
        value = json.dumps([until, about]).encode() + b"\n" + data
        self._write(Write(Kind.CONFIRMATION, sender, name, value, until))

    def find(self, sender: Sender, name: str) -> _Found | None:
        """Returns what is there and has not expired."""
        conversation = self._storage._active.conversation
        if conversation is None:
            value = self._storage._call(self._storage._find, Kind.CONFIRMATION, sender, name)
        else:
            value = conversation.find(Kind.CONFIRMATION, sender, name)
        if value is None:
            return None
        line, _, data = value.partition(b"\n")
        try:
            until, about = json.loads(line)
        except (ValueError, TypeError):
            place = f"CONFIRMATION {name[:200]!a} of {(sender or '')[:200]!a}"
            raise StorageError(f"damaged entry: {place} holds what was not written there") from None
        return _Found(until, about, data) if until > self._storage._clock() else None

    def remove(self, sender: Sender, name: str) -> None:
        """Removes what was found, if it is still the same at the commit."""
        found = self.find(sender, name)
        if found is not None:
            expect = Seen(at=found.until)  # a mail of 20 MB need not be sent to be compared
            self._write(Write(Kind.CONFIRMATION, sender, name, None, None, expect))

    def waiting(self) -> Iterator[Waiting]:
        def secrets_of(entries: list[Entry]) -> Iterator[Waiting]:
            for _, sender, name, _, at in entries:
                if name.startswith(_SECRET):
                    yield Waiting(name.removeprefix(_SECRET), sender, from_microseconds(at))

        where = Where(before=EVER)
        return self._storage._go_through(Kind.CONFIRMATION, where, secrets_of)

    def clear(self) -> None:
        if self._storage._protect:
            raise StorageError(f"clear() refused: {self._storage!r} was made with protect=True")
        self._storage._call(self._storage._sweep, Kind.CONFIRMATION, Where(), None)

    def _write(self, write: Write) -> None:
        conversation = self._storage._active.conversation
        if conversation is None:
            self._storage._call(self._storage._commit, (write,))
            self._expiry.step(self._storage)
        else:  # whoever delivers its mail removes what has expired
            conversation.add(write)


_MAIL = "mail "


def _place_of(key: Any) -> tuple[Sender, str] | None:
    """Returns whose the mail is that has a key and what it is called; ``None`` if it is none."""
    try:
        number, sender = json.loads(key)
    except (TypeError, ValueError):  # a Maildir's, or none at all
        return None
    if not isinstance(number, str) or not isinstance(sender, (str, type(None))):
        return None
    return sender, _MAIL + number


def _name_of(target: object) -> str:
    _check_text(target, "a target")
    return f"{_SECRET}{target}"


def _check_text(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {ascii(value)[:60]} ({type(value).__name__})")
