"""Sending what is claimed, and writing down what became of it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

from salmon_state.entries import Entry, Kind, Write
from salmon_state.log import log
from salmon_state.mail.answers import RelayDown
from salmon_state.mail.batches import Batch, Group, Mail
from salmon_state.mail.bodies import Bodies
from salmon_state.mail.claims import Claim, ClaimLost
from salmon_state.mail.domains import Domains, domain_of, domains_of
from salmon_state.mail.outbox import Outbox
from salmon_state.mail.sessions import Line
from salmon_state.mail.turns import Turns
from salmon_state.mail.verdicts import Schedule, Verdict

__all__ = ["Pause", "Sending"]

_SECOND = 1_000_000
_LONGEST_PAUSE = 60.0
_KEPT = "+"
"""Ends the name of a message that is kept for what was given up."""


class Pause:
    """Lets the relay be while it is down, all connections of this process.

    Attributes:
        failures: How often it has been down since it last took something.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._until = 0.0
        self._changing = threading.Lock()

    def is_on(self) -> bool:
        """Returns whether nobody shall try now."""
        return time.monotonic() < self._until

    def begin(self, error: RelayDown) -> None:
        """Lets it be for a while, each time for longer, unless somebody else has found out."""
        with self._changing:
            if self.is_on():
                return
            wait = min(2.0 ** min(self.failures, 10), _LONGEST_PAUSE)
            self.failures += 1
            self._until = time.monotonic() + wait * random.uniform(0.75, 1.25)  # noqa: S311
        log().warning("the relay is down, tried again in %.0f s: %s", wait, error)

    def end(self) -> None:
        """Notes that it takes something again."""
        self.failures = 0


class _Progress:
    """How far a batch was sent over a connection.

    Attributes:
        todo: What is to be sent now.
        later: What has to wait.
        following: The first of `todo`, if the relay may have been told its envelope.
        places: The domains at which this connection has a place.
        stays: Whether it keeps them for the first of `todo`.
    """

    def __init__(self, claim: Claim, line: Line, message: bytes | None, now: int) -> None:
        self.claim = claim
        self.line = line
        self.message = message
        self.todo = [group for group in claim.batch.groups if group.due <= now]
        self.later = [group for group in claim.batch.groups if group.due > now]
        self.following: Group | None = None
        self.places: set[str] = set()
        self.stays = False


class Sending:
    """Sends batches as far as they can be sent now; any number of threads at the same time.

    Args:
        outbox: Whose.
        turns: Who must wait for an earlier mail.
        bodies: Told of messages that a batch does not need any more.
        schedule: When those are tried again who were refused.
        keep: Microseconds for which what was given up is kept.
        connections: How many there are; one is kept from each domain that has the others waiting.

    Attributes:
        pause: While the relay is down.
        stopping: Set when no further transaction shall begin.
    """

    def __init__(
        self,
        outbox: Outbox,
        turns: Turns,
        bodies: Bodies,
        schedule: Schedule,
        keep: int,
        connections: int,
    ) -> None:
        self.pause = Pause()
        self.stopping = threading.Event()
        self._outbox = outbox
        self._store = outbox.storage
        self._turns = turns
        self._bodies = bodies
        self._schedule = schedule
        self._keep = keep
        self._domains = Domains(max(1, connections - 1))

    def send(self, claim: Claim, line: Line) -> None:
        """Sends a batch as far as it can be sent now, and gives it back.

        Raises:
            ClaimLost: Another dispatcher has it.
            StorageError: The store is away, or damaged; the claim ends by itself.
        """
        now = self._store._clock()
        place = Kind.BODY, claim.sender, claim.batch.body
        message = self._store._call(self._store._find, *place)
        progress = _Progress(claim, line, message, now)
        try:
            while progress.todo and self._may_go_on(claim):
                self._send_next(progress)
        finally:
            line.abandon()
            self._give_back(progress)
        if claim.is_held:
            self._mark(claim, [], [*progress.todo, *progress.later], [])

    def _send_next(self, progress: _Progress) -> None:
        """Sends the next group as far as it can be sent now, and marks whom it was sent."""
        claim, line, todo, later = progress.claim, progress.line, progress.todo, progress.later
        group = todo.pop(0)
        if line.one_by_one and len(group.recipients) > 1:
            todo[:0] = [group._replace(recipients=[each]) for each in group.recipients]
            progress.stays = False
            return
        if not progress.stays:
            self._give_back(progress)
            group, waiting = self._let_through(progress, group)
            later += waiting
            if group is not progress.following:
                line.abandon()
            if not group.recipients:
                return
        following = progress.following = self._next(progress)
        verdict = self._try(progress, group)
        progress.stays = progress.stays and self._domains.may_stay(progress.places)
        if not progress.stays:
            self._give_back(progress)
        begin = 1 if following else 0  # what is announced must be the next
        todo[begin:begin] = verdict.at_once
        later += verdict.later
        beside = self._bury(claim, verdict.never, progress.message) if verdict.never else []
        self._mark(claim, todo, later, beside)
        claim.is_buried = claim.is_buried or bool(verdict.never)
        left = {recipient for each in (*todo, *later) for recipient in each.recipients}
        self._turns.leave(claim.sender, claim.name, set(group.recipients) - left)

    def _next(self, progress: _Progress) -> Group | None:
        """Returns the group after this one, if all of it can probably be sent right then."""
        progress.stays = False
        if not progress.todo:
            return None
        claim, following = progress.claim, progress.todo[0]
        domains = domains_of(following.recipients)
        if domains != progress.places and not self._domains.have_room(domains, progress.places):
            return None
        if self._turns.behind(claim.sender, claim.name, following.recipients):
            return None
        progress.stays = domains == progress.places  # and nobody can get ahead of it any more
        return following

    def _give_back(self, progress: _Progress) -> None:
        """Gives the places at domains back that a connection has."""
        if progress.places:
            self._domains.leave(progress.places)
            progress.places = set()

    def _may_go_on(self, claim: Claim) -> bool:
        """Returns whether another transaction may begin."""
        if self.stopping.is_set() or self.pause.is_on():
            return False
        if claim.is_old(2 / 3):  # this process stood still, or the store was away
            claim.extend(wait=True)
            if claim.is_old(2 / 3):
                raise ClaimLost
        return not claim.lost

    def _let_through(self, progress: _Progress, group: Group) -> tuple[Group, list[Group]]:
        """Returns who may be sent it now, having a place at their domains, and who waits."""
        claim = progress.claim
        behind = self._turns.behind(claim.sender, claim.name, group.recipients)
        domains = domains_of(each for each in group.recipients if each not in behind)
        full = self._domains.enter(domains)
        progress.places = domains - full
        if not behind and not full:
            return group, []
        slow = [e for e in group.recipients if e not in behind and domain_of(e) in full]
        going = [e for e in group.recipients if e not in behind and domain_of(e) not in full]
        waiting = []
        if behind:
            due = min(behind.values())
            waiting.append(group._replace(recipients=sorted(behind), due=due))
        if slow:
            wait = random.uniform(3, 7)  # noqa: S311 - no secret
            due = self._store._clock() + round(wait * _SECOND)
            waiting.append(group._replace(recipients=slow, due=due))
        return group._replace(recipients=going), waiting

    def _try(self, progress: _Progress, group: Group) -> Verdict:
        """Sends a group its message; returns what becomes of those who do not have it then."""
        batch, following = progress.claim.batch, progress.following
        if progress.message is None:
            return Verdict([], [], [group._replace(answer="its message is not in the store")])
        try:
            refused = progress.line.send(
                group.sender,
                group.recipients,
                progress.message,
                following and (following.sender, following.recipients),
            )
        except RelayDown as error:
            self.pause.begin(error)
            return self._schedule.without_relay(batch, group, error, self._store._clock())
        except Exception as error:  # noqa: BLE001 - the relay is the application's
            if not isinstance(error, OSError):
                self._store._log_traceback(f"{self._outbox!r}: a mail was not sent")
            return self._schedule.after_error(batch, group, error, self._store._clock())
        self.pause.end()
        if not refused:
            return Verdict([], [], [])
        return self._schedule.judge(batch, group, refused, self._store._clock())

    # ---------------------------------------------------------------- what is written down

    def _mark(
        self, claim: Claim, todo: Sequence[Group], later: Sequence[Group], beside: list[Write]
    ) -> None:
        """Writes down what is done: after this it is certain that it is not sent again."""
        batch = claim.batch._replace(groups=[*todo, *later])
        place = claim.sender, batch.body
        is_last = not (batch.groups or _is_kept(batch.body)) and self._turns.is_alone(*place)
        if is_last:
            beside.append(Write(Kind.BODY, *place, None))
        claim.write(batch, beside, hold=bool(todo))
        if not batch.groups and not is_last:
            self._bodies.leave(*place)

    def _bury(self, claim: Claim, groups: Sequence[Group], message: bytes | None) -> list[Write]:
        """Returns what keeps groups that are given up, and tells the application."""
        now, body = self._store._clock(), claim.batch.body
        is_there = claim.is_buried or _is_kept(body)
        if not _is_kept(body):  # one of its own: the other goes with those who are sent it
            body += _KEPT
        writes = []
        for group in groups:
            value = Batch(body, claim.batch.since, [group]).encode()
            name = f"{claim.name}-{now:x}{random.getrandbits(32):08x}"
            entry = Entry(Kind.DEAD, claim.sender, name, value, now + self._keep)
            writes.append(Write(*entry))
            self._tell(group, Mail.of(entry))
        if groups and message is not None and not is_there:
            writes.append(Write(Kind.BODY, claim.sender, body, message, now + self._keep))
        return writes

    def _tell(self, group: Group, mail: Mail) -> None:
        """Tells the log and the application who was given up."""
        log().error(
            "%r: gave up a mail to %d recipients, %r and so on: %s",
            *(self._outbox, len(group.recipients), group.recipients[0], group.answer),
        )
        if self._outbox.given_up is not None:
            try:
                self._outbox.given_up(mail)
            except Exception:  # noqa: BLE001 - it is the application's
                self._store._log_traceback("what is called for a mail that is given up failed")


def _is_kept(body: str) -> bool:
    """Returns whether a message is that of dead letters, of which there may be more."""
    return body.endswith(_KEPT)
