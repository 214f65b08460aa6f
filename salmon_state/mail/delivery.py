"""attach(): every mail that Salmon's router delivers becomes one conversation."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from salmon.routing import RoutingBase
from salmon.server import SMTPError

from salmon_state.checks import check_seconds
from salmon_state.conversation import Conversation, current_conversation
from salmon_state.entries import Kind
from salmon_state.errors import StorageError, StorageUnavailable
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.log import log
from salmon_state.mail.expiry import Expiry
from salmon_state.mail.inbox import NO_MARKS, Inbox, fingerprint
from salmon_state.mail.origins import Origins
from salmon_state.storage import StateStorage
from salmon_state.stores.foreign import adapted

__all__ = ["attach", "detach", "is_attached", "knows_mails"]

_DEEPEST = 100
"""Parts within parts: with 300, Python's generator has no stack left to write the mail with."""

_ERROR = "ERROR"
"""What Salmon sets when a handler raises."""


def attach(
    router: RoutingBase,
    storage: Any = None,
    *,
    lock_timeout: float = 2.0,
    queue_delay: float = 1.0,
    once_within: timedelta | None = None,
) -> None:
    """Makes each ``router.deliver(message)`` one conversation with the message's sender.

    The handler's transitions, and ERROR if it raises, are committed together just before the
    sending mail server hears ``250``. When the store cannot be read, locked or written, that
    server hears one line ``451 4.3.0 ...`` and sends the mail again, and the states are as if it
    had never come. A mail from a queue directory (`salmon.server.QueueReceiver`) has no client to
    send it again: it is put back into its queue.

    A mail with more than a hundred parts within parts is refused with 554, before any handler
    would run out of stack with it.

    With `once_within`, a mail that was handled and committed is known when it comes again, because
    its answer got lost on the way: it is answered ``250``, and no handler sees it. It is the same
    mail if its envelope sender, its recipient and its content are, but for what mail servers add
    on the way (``Received``, ``Return-Path``, ``Delivered-To`` and the like). A handler that raised
    has handled it; a mail that was answered with an `SMTPError` was not, and neither is one that
    goes to a handler's own ``router.deliver``. ``router.deliver(message, again=True)`` handles a
    mail whether it is known or not, and does not mark it.

    Harmless when repeated; the last call's arguments hold. It survives ``Router.reload()``, and a
    store that is put into ``router.STATE_STORE`` afterwards is used from the next mail on. A
    store that has only ``get``, ``set`` and ``clear``, such as Salmon's own, gets the lock
    between the threads of this process and nothing else: no mail is known there.

    Args:
        router: ``salmon.routing.Router``.
        storage: Put into ``router.STATE_STORE`` if given.
        lock_timeout: How long a mail waits, in seconds, while another one of the same sender is
            handled. Salmon's receivers have one thread: all their clients wait as well.
        queue_delay: How long a queue's worker rests, in seconds, after it has put a mail back, so
            that an outage is no busy loop.
        once_within: How long a mail that was handled is known, such as ``timedelta(days=7)``,
            longer than mail servers try again; ``None`` handles each mail whenever it comes.

    Raises:
        TypeError: `router` is no router, or a time is none.
        ValueError: A time is negative, or `once_within` is not positive or too long.
        ConfigurationError: `storage` cannot keep what `once_within` needs.
    """
    if not isinstance(router, RoutingBase):
        raise TypeError(f"router must be salmon.routing.Router, not {type(router).__name__}")
    check_seconds("lock_timeout", lock_timeout)
    check_seconds("queue_delay", queue_delay)
    inbox = None if once_within is None else Inbox(once_within)
    if inbox is not None and storage is not None:
        inbox.check(adapted(storage))
    if storage is not None:
        router.STATE_STORE = storage
    delivery = _delivery_of(router)
    if delivery is None:
        delivery = Delivery(router)
        router.deliver = delivery
    delivery.lock_timeout = lock_timeout
    delivery.queue_delay = queue_delay
    delivery.inbox = inbox


def detach(router: RoutingBase) -> None:
    """Undoes `attach`; harmless when there is nothing to undo. The store stays in the router."""
    delivery = _delivery_of(router)
    if delivery is not None:
        delivery.restore()


def is_attached(router: RoutingBase) -> bool:
    """Returns whether each mail that a router delivers is a conversation."""
    return _delivery_of(router) is not None


def knows_mails(router: RoutingBase) -> bool:
    """Returns whether a router knows a mail that comes again: ``attach(…, once_within=…)``."""
    delivery = _delivery_of(router)
    return delivery is not None and delivery.knows_mails()


def _delivery_of(router: RoutingBase) -> Delivery | None:
    deliver = vars(router).get("deliver")
    return deliver if isinstance(deliver, Delivery) else None


class Delivery(Forkable):
    """What stands in a router's ``deliver`` while it is attached.

    An attribute of the instance: Salmon's receivers and its `RouterConversation` look it up for
    every mail, and a reload of the handlers does not touch it.
    """

    def __init__(self, router: RoutingBase) -> None:
        self.lock_timeout = 2.0
        self.queue_delay = 1.0
        self.inbox: Inbox | None = None
        self._expiry = Expiry()
        self._router = router
        self._replaced = vars(router).get("deliver")
        self._deliver = router.deliver
        self._origins = Origins()
        # By identity, because stores that are none of ours compare and hash as they like.
        self._known: dict[int, tuple[Callable[[], Any], StateStorage | None]] = {}
        self._renew_locks()
        _watch.add(self)

    def _renew_locks(self) -> None:
        self._meeting = threading.Lock()
        self._origins.renew_locks()

    def after_fork(self, *, child: bool) -> None:
        """Frees the child of locks that other threads of its parent held.

        What they were in the middle of concerns nobody else: the mails that a child puts into a
        Maildir have names with its process id.
        """
        if child:
            self._renew_locks()

    def restore(self) -> None:
        """Puts back what `attach` found."""
        del self._router.deliver
        if self._replaced is not None:
            self._router.deliver = self._replaced

    def __call__(self, message: Any, *, again: bool = False) -> None:
        """Delivers one message, in a conversation with its sender.

        Args:
            message: The message.
            again: Whether it is handled even if it is known.
        """
        if message.base.mime_part.is_multipart() and _is_too_deep(message):
            log().warning(
                "a mail from %r has parts within parts within parts: refused", message.From
            )
            raise SMTPError(554, "5.6.0 This mail has too many parts within parts")
        outermost = current_conversation() is None
        try:
            store = self._store()
            # A handler that passes its mail on is not done with it yet.
            inbox = None if again or not outermost or not store._has_hooks else self.inbox
            self._converse(store, message, inbox)
        except SMTPError as error:
            if (
                outermost
                and 400 <= int(error.code) < 500
                and self._origins.put_back(message, error, self.queue_delay)
            ):
                return
            raise
        except StorageError as error:
            # Trying again cannot mend it, but an operator can, before the sender gives up.
            failure = StorageUnavailable(str(error))
            if outermost and self._origins.put_back(message, failure, self.queue_delay):
                return
            raise failure from error
        except BaseException as error:
            if outermost and not isinstance(error, Exception):  # the process or this thread ends
                self._origins.put_back(message, error, self.queue_delay)
            raise
        else:
            if outermost and time.monotonic() >= self._expiry.due:
                self._expiry.step(store)

    def _converse(self, store: StateStorage, message: Any, inbox: Inbox | None) -> None:
        """Lets Salmon deliver a message in its conversation, unless the inbox knows it."""
        name = "" if inbox is None else fingerprint(message)
        wants = () if inbox is None else ((Kind.HANDLED, name),)
        with store._converse(message.From, self.lock_timeout, wants) as conversation:
            receipt = None if inbox is None else inbox.look(conversation, name)
            if receipt is not None and receipt.is_known:
                log().info(
                    "a mail from %r to %r was handled before, and is not again",
                    *(message.From, message.To),
                )
                return
            raised: list[BaseException] = []
            conversation.before_set = partial(_watch_for_error, raised)
            try:
                self._deliver(message)
            except Exception as error:
                if receipt is not None and _has_handled(error, raised):
                    receipt.sign()
                raise
            if receipt is not None:
                receipt.sign()

    def knows_mails(self) -> bool:
        """Returns whether there is an inbox, and a store that can keep it."""
        return self.inbox is not None and self._store()._has_hooks

    def _store(self) -> StateStorage:
        found = self._router.STATE_STORE
        known = self._known.get(id(found))
        if known is None or known[0]() is not found:
            with self._meeting:
                known = self._meet(found)
        return known[1] or found

    def _meet(self, found: Any) -> tuple[Callable[[], Any], StateStorage | None]:
        """Returns what is known about the router's store; once, it is told what it cannot do."""
        known = self._known.get(id(found))
        if known is not None and known[0]() is found:  # another thread was first
            return known
        store = adapted(found)
        try:
            reference: Callable[[], Any] = weakref.ref(found)
        except TypeError:
            reference = partial(_same, found)
        self._known[id(found)] = reference, None if store is found else store
        if self.inbox is not None and not store._has_hooks:
            log().warning(NO_MARKS, store)
        if not store.locks_processes:
            log().warning(
                "%r keeps mails of one sender apart between the threads of this process only", store
            )
        return self._known[id(found)]


def _is_too_deep(message: Any) -> bool:
    """Returns whether handlers may run out of stack with a mail.

    They would end in ERROR, and anybody could bring that upon whoever's address they forge.
    """
    level = [message.base.mime_part]
    for _ in range(_DEEPEST):
        level = [part for whole in level if whole.is_multipart() for part in whole.get_payload()]
        if not level:
            return False
    return True


def _has_handled(error: Exception, raised: list[BaseException]) -> bool:
    """Returns whether a mail is done with although an error came out of the router.

    If it is none of a handler's, it may have kept Salmon from keeping the mail at all.
    """
    if isinstance(error, SMTPError):
        return int(error.code) < 400
    return any(error is each for each in raised)


def _same(value: Any) -> Any:
    return value


def _watch_for_error(
    raised: list[BaseException], conversation: Conversation, state: str | None
) -> None:
    """Looks at what Salmon sets because a handler raised, and notes what that was.

    Raises:
        StorageUnavailable: A `StorageError`: Salmon would answer 250, but the store's failure is
            no reason to lose a mail. Or whatever else, and nothing can be committed any more:
            Salmon would keep a copy of a mail that comes again.
    """
    error = sys.exc_info()[1]
    if state != _ERROR or error is None:
        return
    if isinstance(error, StorageError):
        raise StorageUnavailable(f"a handler was stopped: {error}")
    conversation.fail()
    raised.append(error)


_watch = ForkWatch()
