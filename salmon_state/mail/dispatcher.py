"""Dispatcher: sends what an outbox holds, whoever else sends from the same store."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from salmon_state.entries import MICROSECOND, Entry, Kind, Where, Write
from salmon_state.errors import StorageError
from salmon_state.keys import Sender
from salmon_state.log import log
from salmon_state.mail.batches import Batch, Group, Mail, decode
from salmon_state.mail.claims import Claim, ClaimLost, Commits
from salmon_state.mail.outbox import LOOK_AFTER, Outbox
from salmon_state.mail.relays import (
    Answer,
    ConnectionLost,
    RelayDown,
    Session,
    is_mail_server,
    open_session,
)
from salmon_state.mail.turns import Domains, Turns, domain_of

__all__ = ["Dispatcher"]

_SECOND = 1_000_000
_TIDY_EVERY = 60.0
_IDLE = 60.0
"""Seconds after which a connection is closed that nobody needs."""
_LONGEST_PAUSE = 60.0
_LONGEST_JOB = 4
_MOST_BODIES = 10
_MOST_LEFT = 1_000
_TOO_MANY = (452, 552)
"""What a relay says to recipients who are too many for one transaction (RFC 5321, 4.5.3.1.10)."""


class Dispatcher:
    """Sends the mails of an outbox through its relay, over several connections that stay open.

    Any number of them, in any number of processes and on any number of machines, share an outbox:
    each batch is claimed by one. When that dies, it is free again after `lease`. A recipient is
    marked as done as soon as the relay has taken the mail; after a crash between the final dot of
    a transaction and that mark, those of this transaction are sent it once more.

    Args:
        outbox: What to send, through its relay.
        connections: How many at the same time; one of them is kept from each domain that has the
            others waiting.
        poll: Seconds between two looks for what other processes recorded; what this process
            records is seen at once.
        lease: Seconds for which a claim lasts unless it is extended, as it is while this lives.
        first_retry: Seconds after which a recipient who was refused for now is tried again; each
            further time it is twice as long, give or take a quarter.
        longest_retry: Seconds that are the most.
        give_up: How long to try.
        keep: How long what was given up is kept for `Outbox.retry`.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        connections: int = 8,
        poll: float = 1.0,
        lease: float = 60.0,
        first_retry: float = 300.0,
        longest_retry: float = 4 * 3600.0,
        give_up: timedelta = timedelta(days=5),
        keep: timedelta = timedelta(days=30),
    ) -> None:
        if outbox.relay is None:
            raise ValueError("the outbox has no relay to send through")
        self._outbox = outbox
        self._store = outbox.storage
        self._connections = connections
        self._poll = poll
        self._lease = round(lease * _SECOND)
        self._first_retry = first_retry
        self._longest_retry = longest_retry
        self._give_up = give_up // MICROSECOND
        self._keep = keep // MICROSECOND
        self._turns = Turns(self._store)
        self._domains = Domains(max(1, connections - 1))
        self._commits = Commits(self._store)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._claims: dict[tuple[Sender, str], Claim] = {}
        self._meeting: dict[tuple[Sender, str], _Job] = {}  # by sender and recipient
        self._changing = threading.Lock()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._resume_at = 0.0  # while the relay is down, when to try again
        self._failures = 0
        self._tidy_at = 0.0
        # Messages: those kept for dead letters, and those that nobody may need any more.
        self._buried: set[tuple[Sender, str]] = set()
        self._left: set[tuple[Sender, str]] = set()

    # ---------------------------------------------------------------- its life

    def start(self) -> None:
        """Starts its threads and returns."""
        self._outbox.listeners.append(self.wake)
        for number in range(self._connections):
            self._run(self._work, f"connection {number}")
        self._run(self._feed, "claims")

    def _run(self, target: Any, name: str) -> None:
        thread = threading.Thread(target=target, name=f"outbox {name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def wake(self) -> None:
        """Makes it look at once for what there is to send."""
        self._woken.set()

    def stop(self, timeout: float = 10.0) -> bool:
        """Ends when the transactions in hand have had their answer; what is left stays for others.

        Args:
            timeout: Seconds to wait for that.

        Returns:
            Whether it has ended. If not, its claims end after the lease.
        """
        self._stopping.set()
        self._woken.set()
        if self.wake in self._outbox.listeners:
            self._outbox.listeners.remove(self.wake)
        for _ in range(self._connections):
            self._jobs.put(None)
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> Dispatcher:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # ---------------------------------------------------------------- claiming

    def _feed(self) -> None:
        """Claims what is due as long as there is room, and extends what is claimed."""
        rest = 0.0
        while not self._stopping.is_set() or self._claims:
            self._woken.clear()
            try:
                self._extend()
                if not self._stopping.is_set() and self._claim_some():
                    continue
                self._tidy()
                rest = 0.0
            except StorageError:  # which is logged
                rest = min(5.0, 2 * rest or 0.1)
            except Exception:  # noqa: BLE001 - without this thread nothing would be sent
                self._store._log_traceback("the outbox could not be looked into")
                rest = 5.0
            self._woken.wait(rest or min(self._poll, self._lease / _SECOND / 4))
            if rest:
                self._stopping.wait(rest)

    def _claim_some(self) -> bool:
        """Claims and hands out; returns whether there may be more, and room for it."""
        if time.monotonic() < self._resume_at:
            return False
        room = 1 if self._failures else 2 * self._connections
        room -= len(self._claims)
        if room <= 0:
            return False
        until = self._store._clock() + self._lease
        entries = self._store._call(self._store._claim, Kind.OUTGOING, until, room)
        for job in self._in_jobs(entries):
            self._jobs.put(job)
        return len(entries) == room

    def _in_jobs(self, entries: Sequence[Entry]) -> list[_Job]:
        """Returns the new jobs: what has a recipient in common with another joins that one's."""
        jobs: list[_Job] = []
        for entry in sorted(entries, key=lambda entry: entry.name):
            place = entry.sender, entry.name
            with self._changing:
                known = self._claims.get(place)
                if known is not None:  # who has it looks whether it is held when he is done
                    known.renew(entry)
                    continue
            try:
                claim = Claim(self._commits, entry, decode(entry))
            except StorageError as error:
                self._store._log_traceback(str(error))
                continue
            with self._changing:
                self._claims[place] = claim
                job = self._job_of(claim)
                job.claims.append(claim)
                if job.is_new:
                    job.is_new = False
                    jobs.append(job)
        return jobs

    def _job_of(self, claim: Claim) -> _Job:
        theirs = {(claim.sender, recipient) for recipient in claim.batch.recipients}
        job = next((self._meeting[each] for each in theirs if each in self._meeting), None)
        if job is None or len(job.claims) >= _LONGEST_JOB:  # then it finds out that it must wait
            job = _Job()
        for each in theirs:
            if self._meeting.setdefault(each, job) is job:
                job.keys.add(each)
        return job

    def _next_of(self, job: _Job) -> Claim | None:
        """Returns what is to be handled next; ``None`` when the job is done."""
        with self._changing:
            if job.claims:
                return job.claims[0]
            for each in job.keys:
                del self._meeting[each]
            return None

    def _extend(self) -> None:
        now = self._store._clock()
        for claim in list(self._claims.values()):
            if claim.at - now < self._lease * 2 // 3:
                claim.extend(now + self._lease)

    def _tidy(self) -> None:
        """Removes, a few at a time, what is needed no more."""
        is_due = time.monotonic() >= self._tidy_at
        if self._claims and not is_due:
            return
        while self._left:
            self._remove_unused(*self._left.pop())
        if not is_due:
            return
        now = self._store._clock()
        bodies = self._store._call(self._store._claim, Kind.BODY, now + LOOK_AFTER, _MOST_BODIES)
        for body in bodies:
            self._remove_unused(body.sender, body.name)
        self._store._call(self._store._sweep, Kind.DEAD, Where(before=now), None)
        if len(bodies) < _MOST_BODIES:
            self._tidy_at = time.monotonic() + _TIDY_EVERY
        self._buried.clear()

    def _remove_unused(self, sender: Sender, body: str) -> None:
        if not self._turns.is_used(sender, body):
            self._commits.make([Write(Kind.BODY, sender, body, None)])

    # ---------------------------------------------------------------- sending

    def _work(self) -> None:
        line = _Line(self._outbox.relay)
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE)
            except queue.Empty:
                line.close()
                continue
            if job is None:
                line.close()
                return
            while (claim := self._next_of(job)) is not None:
                try:
                    self._finish(claim, line)
                except ClaimLost:
                    log().warning("%r: the claim of %s was lost", self._outbox, claim.name)
                except StorageError:  # which is logged; the claim ends by itself
                    pass
                except Exception:  # noqa: BLE001 - the others must be sent
                    self._store._log_traceback(f"{claim.name} of the outbox was not sent")
                finally:
                    with self._changing:
                        job.claims.popleft()
                        if self._claims.get((claim.sender, claim.name)) is claim:
                            del self._claims[claim.sender, claim.name]
                    self._woken.set()

    def _finish(self, claim: Claim, line: _Line) -> None:
        while True:
            self._handle(claim, line)
            with self._changing:
                if not claim.is_held:
                    del self._claims[claim.sender, claim.name]
                    return

    def _handle(self, claim: Claim, line: _Line) -> None:
        """Sends a batch as far as it can be sent now, and gives it back."""
        batch, now = claim.batch, self._store._clock()
        place = Kind.BODY, claim.sender, batch.body
        message = self._store._call(self._store._find, *place)
        todo = [group for group in batch.groups if group.due <= now]
        later = [group for group in batch.groups if group.due > now]
        while todo and self._may_send(claim):
            group = todo.pop(0)
            if line.one_by_one and len(group.recipients) > 1:
                todo[:0] = [group._replace(recipients=[each]) for each in group.recipients]
                continue
            group, waiting = self._let_through(claim, group)
            later += waiting
            if not group.recipients:
                continue
            try:
                again, more, dead = self._try(batch, group, message, line)
            finally:
                self._domains.leave({domain_of(each) for each in group.recipients})
            todo[:0] = again
            later += more
            self._mark(claim, todo, later, dead, message)
        if claim.is_held:
            self._mark(claim, [], [*todo, *later], [], message)

    def _may_send(self, claim: Claim) -> bool:
        """Returns whether another transaction may begin."""
        if self._stopping.is_set() or time.monotonic() < self._resume_at:
            return False
        now = self._store._clock()
        if claim.at - now < self._lease // 3:  # this process stood still, or the store was away
            claim.extend(now + self._lease, wait=True)
            if claim.at - now < self._lease // 3:
                raise ClaimLost
        return not claim.lost

    def _let_through(self, claim: Claim, group: Group) -> tuple[Group, list[Group]]:
        """Returns who may be sent it now, having a place at their domains, and who waits."""
        soon = self._store._clock() + _SECOND
        behind = self._turns.behind(claim.sender, claim.name, group.recipients)
        domains = {domain_of(each) for each in group.recipients if each not in behind}
        full = self._domains.enter(domains)
        slow = {each for each in group.recipients if domain_of(each) in full} - behind.keys()
        going = [each for each in group.recipients if each not in behind and each not in slow]
        waiting = []
        if behind:
            due = min(behind.values())
            waiting.append(group._replace(recipients=sorted(behind), due=due))
        if slow:
            due = soon + round(random.uniform(2, 6) * _SECOND)  # noqa: S311 - no secret
            waiting.append(group._replace(recipients=sorted(slow), due=due))
        return group._replace(recipients=going), waiting

    # ---------------------------------------------------------------- what becomes of a group

    def _try(self, batch: Batch, group: Group, message: bytes | None, line: _Line) -> _Outcome:
        if message is None:
            return [], [], [group._replace(answer="its message is not in the store")]
        try:
            refused = line.send(group, message)
        except RelayDown as error:
            self._pause(error)
            again, later, dead = self._judge(batch, group, _all(group, error))
            return (
                again,
                [each._replace(due=group.due, attempts=group.attempts) for each in later],
                dead,
            )
        except ConnectionLost as error:
            return self._after_loss(batch, group, error)
        except Exception as error:  # noqa: BLE001 - the relay is the application's
            self._store._log_traceback(f"{self._outbox!r}: a mail was not sent")
            return self._judge(batch, group, _all(group, error))
        self._failures = 0
        return self._judge(batch, group, refused)

    def _judge(self, batch: Batch, group: Group, refused: dict[str, Answer]) -> _Outcome:
        """Returns what is to become of those who were refused."""
        again, later, dead = [], [], []
        by_answer: dict[Answer, list[str]] = {}
        for recipient, answer in refused.items():
            by_answer.setdefault(answer, []).append(recipient)
        now = self._store._clock()
        for answer, recipients in by_answer.items():
            each = group._replace(recipients=recipients, answer=answer.words)
            if answer.code in _TOO_MANY and len(refused) < len(group.recipients):
                again.append(each)
            elif 500 <= answer.code < 600 or now - batch.since > self._give_up:
                dead.append(each._replace(attempts=group.attempts + 1))
            else:
                wait = min(self._first_retry * 2.0**group.attempts, self._longest_retry)
                due = now + round(wait * random.uniform(0.75, 1.25) * _SECOND)  # noqa: S311
                later.append(each._replace(due=due, attempts=group.attempts + 1))
        return again, later, dead

    def _after_loss(self, batch: Batch, group: Group, error: ConnectionLost) -> _Outcome:
        """Returns the same after the connection broke: whose domain it was that hung, shows."""
        domains: dict[str, list[str]] = {}
        for recipient in group.recipients:
            domains.setdefault(domain_of(recipient), []).append(recipient)
        if error.hung and not error.uncertain and len(domains) > 1:
            return [], [group._replace(recipients=each) for each in domains.values()], []
        return self._judge(batch, group, _all(group, error))

    def _pause(self, error: RelayDown) -> None:
        """Lets the relay be for a while, all connections of this process."""
        with self._changing:
            if time.monotonic() < self._resume_at:
                return
            wait = min(2.0 ** min(self._failures, 10), _LONGEST_PAUSE)
            self._failures += 1
            self._resume_at = time.monotonic() + wait * random.uniform(0.75, 1.25)  # noqa: S311
        log().warning("%r: the relay is down, tried again in %.0f s: %s", self._outbox, wait, error)

    def _mark(
        self,
        claim: Claim,
        todo: Sequence[Group],
        later: Sequence[Group],
        dead: Sequence[Group],
        message: bytes | None,
    ) -> None:
        """Writes down what is done: after this it is certain that it is not sent again."""
        before, batch = claim.batch, claim.batch._replace(groups=[*todo, *later])
        place = claim.sender, batch.body
        beside = [write for each in dead for write in self._bury(claim, each, message)]
        is_last = not batch.groups and self._turns.is_alone(*place)
        if is_last:
            beside.append(Write(Kind.BODY, *place, None))
        claim.write(batch, beside, hold=bool(todo), until=self._store._clock() + self._lease)
        self._turns.leave(claim.sender, claim.name, before.recipients - batch.recipients)
        if dead:
            self._buried.add(place)
        if not batch.groups and not is_last and len(self._left) < _MOST_LEFT:
            self._left.add(place)

    def _bury(self, claim: Claim, group: Group, message: bytes | None) -> list[Write]:
        """Returns what keeps a group that is given up, and tells the application."""
        now = self._store._clock()
        body = f"{claim.batch.body}+"  # one of its own: the other goes with those who are sent it
        value = Batch(body, claim.batch.since, [group]).encode()
        name = f"{claim.name}-{now:x}{random.getrandbits(32):08x}"
        entry = Entry(Kind.DEAD, claim.sender, name, value, now + self._keep)
        log().error(
            "%r: gave up a mail to %d recipients, %r and so on: %s",
            *(self._outbox, len(group.recipients), group.recipients[0], group.answer),
        )
        if self._outbox.given_up is not None:
            try:
                self._outbox.given_up(Mail.of(entry))
            except Exception:  # noqa: BLE001 - it is the application's
                self._store._log_traceback("what is called for a mail that is given up failed")
        writes = [Write(*entry)]
        if message is not None and (claim.sender, claim.batch.body) not in self._buried:
            kept = now + self._keep + self._give_up
            writes.append(Write(Kind.BODY, claim.sender, body, message, kept))
        return writes


class _Job:
    """Claims that one connection handles one after the other, as they have recipients in common."""

    def __init__(self) -> None:
        self.claims: deque[Claim] = deque()
        self.is_new = True
        self.keys: set[tuple[Sender, str]] = set()


_Outcome = tuple[list[Group], list[Group], list[Group]]
"""Who is sent it at once, later, and never."""


def _all(group: Group, error: Exception) -> dict[str, Answer]:
    words = f"{type(error).__name__}: {error}"
    return {each: Answer(0, words[:500]) for each in group.recipients}


class _Line:
    """One connection to the relay, opened when it is needed."""

    def __init__(self, relay: Any) -> None:
        self._relay = relay
        self._session: Session | None = None
        self.one_by_one = not is_mail_server(relay)

    def send(self, group: Group, message: bytes) -> dict[str, Answer]:
        """Sends a message to a group; as `Session.send`."""
        used = self._session is not None
        try:
            return self._send(group, message)
        except RelayDown:
            if not used:
                raise
        except ConnectionLost as error:
            if not used or error.hung or error.uncertain:
                raise
        return self._send(group, message)  # the relay had closed a connection that it knew

    def _send(self, group: Group, message: bytes) -> dict[str, Answer]:
        if self._session is None:
            self._session = open_session(self._relay)
        try:
            return self._session.send(group.sender, group.recipients, message)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Says goodbye, if there is anybody."""
        if self._session is not None:
            session, self._session = self._session, None
            session.close()
