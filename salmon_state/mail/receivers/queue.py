"""QueueReceiver: mail from a Maildir, each handled in its conversation, and none lost."""

from __future__ import annotations

import mailbox
import random
import threading
import time
from collections import deque
from datetime import timedelta
from email.message import Message
from email.utils import parseaddr
from pathlib import Path

from salmon import routing, server
from salmon.mail import MailRequest

from salmon_state.log import log
from salmon_state.mail.receivers.complexity import TOO_COMPLEX, is_too_complex
from salmon_state.mail.receivers.ending import Ending
from salmon_state.mail.receivers.handling import same_case
from salmon_state.mail.receivers.limits import SIZE
from salmon_state.mail.receivers.repeated import Repeated
from salmon_state.mail.receivers.spool import Claim, Spool

__all__ = ["QueueReceiver", "envelope_of"]

_MOST_CRASHES = 5
"""After so many ends of a process that had it in hand, a mail is taken for the cause."""

_repeated = Repeated()


class QueueReceiver(Ending, server.QueueReceiver):
    """Receives mail from a Maildir into which another mail server puts it.

    Salmon's own removes a mail before it is handled, so that the mails in hand are lost with the
    process. Here a mail is claimed, and removed when its handler's changes are committed: after
    SIGKILL, a power failure or on a full disk it is still there, and free for whoever comes next.
    Any number of processes may share a Maildir on one machine. Killed between the commit and the
    removal, a mail comes again; `salmon_state.attach` with ``once_within`` knows it by then.

    Mails of one sender are handled one after the other, in the order of their names, which begin
    with the time, and wait without keeping a worker from others. What cannot be handled now (a
    4xx, as while the store is away) is tried again after 1 to 2 seconds, then ever later, at most
    after five minutes, until `give_up_after`. It goes into Salmon's undeliverable queue then; as
    does what cannot be parsed, what is refused with a 5xx, and what has ended five processes.

    What is no mail (a FIFO, a link, a directory, a file that is too large or that may not be read)
    stays where it is, with one line in the log.

    Args:
        queue_dir: The Maildir, on a file system of this machine; made if it is not there.
        sleep: Seconds between two looks into an empty directory.
        workers: Mails in hand at the same time.
        size_limit: Bytes that a mail may have.
        give_up_after: How long a mail is tried that cannot be handled.

    Attributes:
        pause: Seconds that a worker rests after a mail that could not be handled, so that an
            outage is no busy loop.
    """

    pause = 1.0
    longest_delay = 300.0

    def __init__(
        self,
        queue_dir: str,
        sleep: float = 0.1,
        workers: int = 10,
        *,
        size_limit: int = SIZE,
        give_up_after: timedelta = timedelta(days=5),
    ) -> None:
        super().__init__(queue_dir, sleep=sleep, workers=workers)
        self._spool = Spool(Path(queue_dir).absolute(), size_limit)
        self._give_up_after = give_up_after.total_seconds()
        self._free = threading.BoundedSemaphore(workers)
        self._lock = threading.Lock()  # of the three below
        self._in_hand: set[str] = set()
        self._waiting: dict[str, deque[Path]] = {}
        self._ready: deque[str] = deque()

    def start(self, one_shot: bool = False) -> None:
        """Blocks until `stop`, or with `one_shot` until nothing is there to be taken now."""
        self.stop_at_signals()
        log().info("QueueReceiver started on %s", self.queue.dir)
        try:
            while not self._stopping:
                if not self._take_one():
                    if one_shot and not self._in_hand and not self._ready:
                        break
                    time.sleep(self.sleep)
            self.workers.close()
            self.workers.join()
        finally:
            self.has_ended()

    # ---------------------------------------------------------------- taking

    def _take_one(self) -> bool:
        self._free.acquire()
        try:
            taken = self._next()
        except OSError as error:  # as for want of descriptors: it may be well a moment later
            _repeated.say("no mail can be taken from %s: %s", self.queue.dir, error)
            taken = None
        if taken is None:
            self._free.release()
            return False
        self.workers.apply_async(self._process, args=taken)
        return True

    def _next(self) -> tuple[Claim, MailRequest] | None:
        """Claims the next mail whose sender has none in hand."""
        while not self._stopping:
            path, waited = self._next_path()
            if path is None:
                return None
            try:
                claim = self._spool.claim(path)
            except OSError:
                self._put_back(path, waited)
                raise
            mail = self._parse(claim) if claim else None
            if claim is None or mail is None:  # another process was faster, or it is no mail
                self._go_on(waited)
                continue
            with self._lock:
                if self._has_turn(mail.From, waited):
                    self._in_hand.add(mail.From)
                    return claim, mail
                # Behind those that wait already, and to be read again: not kept in memory.
                self._waiting.setdefault(mail.From, deque()).append(path)
                self._spool.skip.add(path)
            claim.release()
        return None

    def _has_turn(self, sender: str, waited: str) -> bool:
        """Returns whether none of a sender's mails is in hand, or has waited for longer."""
        if not sender:
            return True
        return sender not in self._in_hand and (sender == waited or sender not in self._waiting)

    def _next_path(self) -> tuple[Path | None, str]:
        """Returns a path, and the sender whose turn it was if the mail had to wait for it."""
        with self._lock:
            if not self._ready:
                return self._spool.next(), ""
            sender = self._ready.popleft()
            path = self._waiting[sender].popleft()
            if not self._waiting[sender]:
                del self._waiting[sender]
            self._spool.skip.discard(path)
            return path, sender

    def _put_back(self, path: Path, waited: str) -> None:
        """Makes a path the next one again."""
        if not waited:
            self._spool.put_back(path)
            return
        with self._lock:
            self._waiting.setdefault(waited, deque()).appendleft(path)
            self._spool.skip.add(path)
            self._ready.appendleft(waited)

    def _go_on(self, sender: str) -> None:
        """Makes it the turn of a sender's next mail, if there is one: none is in hand."""
        with self._lock:
            self._in_hand.discard(sender)
            if sender in self._waiting:
                self._ready.append(sender)

    def _parse(self, claim: Claim) -> MailRequest | None:
        """Makes a mail, with the envelope that the other mail server recorded.

        Salmon takes the headers as they stand, with display names and capitals; the same person
        would be somebody else than by SMTP.
        """
        try:
            if is_too_complex(claim.data):
                raise ValueError(TOO_COMPLEX)
            # A tuple as by SMTP, and no str: attach() need not put the mail back.
            mail = MailRequest((self.queue.dir, claim.path.name), None, None, claim.data)
            mail.From, mail.To = envelope_of(mail.base.mime_part)
        except Exception:  # noqa: BLE001 - Python's parser lets out whatever a mail provokes
            log().exception("%s cannot be parsed", claim.path)
            self._set_aside(claim, "it cannot be parsed")
            claim.release()
            return None
        return mail

    # ---------------------------------------------------------------- handling

    def _process(self, claim: Claim, mail: MailRequest) -> None:
        try:
            self._deliver(claim, mail)
        except Exception:  # noqa: BLE001 - the worker is needed for the next one
            log().exception("%s stays in the queue", claim.path)
            time.sleep(self.pause)
        finally:
            claim.release()
            self._go_on(mail.From)
            self._free.release()

    def _deliver(self, claim: Claim, mail: MailRequest) -> None:
        if claim.crashes >= _MOST_CRASHES:
            self._set_aside(claim, f"{claim.crashes} processes ended with it in hand")
            return
        claim.begin()
        try:
            routing.Router.deliver(mail)
        except server.SMTPError as error:
            if 400 <= int(error.code) < 500:
                self._postpone(claim, error)
            else:
                self._set_aside(claim, str(error))
        except Exception as error:  # noqa: BLE001 - Salmon's router lets out what it likes
            log().exception("a mail from %r cannot be handled", mail.From)
            self._set_aside(claim, f"{type(error).__name__}: {error}")
        else:
            claim.remove()

    def _postpone(self, claim: Claim, error: Exception) -> None:
        age = time.time() - claim.arrived
        if age > self._give_up_after:
            self._set_aside(claim, f"not handled for {age:.0f} s: {error}")
            return
        delay = min(2.0**claim.tries, self.longest_delay) * random.uniform(0.5, 1.0)  # noqa: S311
        claim.postpone(delay)
        log().warning("%s will be tried again in %.1f s: %s", claim.path, delay, error)
        time.sleep(self.pause)

    def _set_aside(self, claim: Claim, reason: str) -> None:
        if routing.Router.UNDELIVERABLE_QUEUE is None:
            self._spool.leave_alone(claim.path, f"{reason}, and there is no undeliverable queue")
            return
        try:
            server.undeliverable_message(claim.data, reason)
        except (OSError, mailbox.Error):
            log().exception("%s stays in the queue, although %s", claim.path, reason)
            time.sleep(self.pause)
        else:
            claim.remove()


def envelope_of(headers: Message) -> tuple[str, str]:
    """Returns the sender and the recipient that another mail server wrote into the headers."""
    return (
        _address(headers, "Return-Path", "From"),
        _address(headers, "Delivered-To", "X-Original-To", "To"),
    )


def _address(headers: Message, *names: str) -> str:
    for name in names:
        if name in headers:
            return same_case(parseaddr(str(headers[name]))[1])
    return ""
