"""Sending what is claimed, and writing down what became of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence

from salmon_state.entries import SECOND, Entry, Kind, Write
from salmon_state.log import log
from salmon_state.mail.answers import NoRoom, RelayDown
from salmon_state.mail.batches import Batch, Group, Mail
from salmon_state.mail.bodies import Bodies
from salmon_state.mail.claims import Claim, ClaimLost
from salmon_state.mail.domains import Domains, domain_of, domains_of
from salmon_state.mail.outbox import Outbox
from salmon_state.mail.pause import Pause
from salmon_state.mail.sessions import Line, Outcome
from salmon_state.mail.turns import Turns
from salmon_state.mail.verdicts import Schedule, Verdict

__all__ = ["Sending"]

_KEPT = "+"
"""Ends the name of a message that is kept for what was given up."""
_GONE = LookupError("its message is not in the store")


class _Progress:
    """How far a batch was sent over a connection.

    Attributes:
        todo: What is to be sent now.
        in_hand: What is being sent.
        later: What has to wait.
        following: The first of `todo`, if the relay may have been told their envelopes.
        places: The domains at which this connection has a place.
        stays: Whether it keeps them for `following`.
    """

    def __init__(self, claim: Claim, line: Line, message: bytes | None, now: int) -> None:
        self.claim = claim
        self.line = line
        self.message = message
        self.todo = [group for group in claim.batch.groups if group.due <= now]
        self.in_hand: dict[int, Group] = {}
        self.later = [group for group in claim.batch.groups if group.due > now]
        self.following: list[Group] = []
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
        """Sends the next groups as far as they can be sent now, and marks whom they were sent."""
        groups = self._take(progress)
        if not groups:
            return
        progress.following = self._next(progress)
        progress.in_hand = dict(enumerate(groups))
        for outcomes in self._transact(progress):
            self._settle(progress, outcomes)
        progress.stays = progress.stays and self._domains.may_stay(progress.places)

    def _take(self, progress: _Progress) -> list[Group]:
        """Returns what is to be sent now, side by side."""
        line, todo = progress.line, progress.todo
        if progress.stays:
            del todo[: len(progress.following)]
            return progress.following
        self._give_back(progress)
        group = todo.pop(0)
        if line.one_by_one and len(group.recipients) > 1:
            todo[:0] = [group._replace(recipients=[each]) for each in group.recipients]
            return []
        group, waiting = self._let_through(progress, group)
        progress.later += waiting
        groups = [group, *self._beside(progress)] if group.recipients else []
        if groups[: len(progress.following)] != progress.following:
            line.abandon()
        return groups

    def _beside(self, progress: _Progress) -> list[Group]:
        """Takes the next groups that can be sent beside one, having places at their domains."""
        groups: list[Group] = []
        for group in progress.todo[: progress.line.width - 1]:
            domains = domains_of(group.recipients) - progress.places
            if self._is_behind(progress, group) or not self._domains.enter_now(domains):
                break
            progress.places |= domains
            groups.append(group)
        del progress.todo[: len(groups)]
        return groups

    def _next(self, progress: _Progress) -> list[Group]:
        """Returns the groups after those, if all of them can probably be sent right then."""
        groups: list[Group] = []
        domains: set[str] = set()
        for group in progress.todo[: progress.line.width]:
            domains |= domains_of(group.recipients)
            is_free = self._domains.have_room(domains, progress.places)
            if not is_free or self._is_behind(progress, group):
                break
            groups.append(group)
        # Nobody can get ahead of them any more.
        progress.stays = bool(groups) and domains == progress.places
        return groups

    def _is_behind(self, progress: _Progress, group: Group) -> bool:
        claim = progress.claim
        return bool(self._turns.behind(claim.sender, claim.name, group.recipients))

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
            due = self._store._clock() + round(wait * SECOND)
            waiting.append(group._replace(recipients=slow, due=due))
        return group._replace(recipients=going), waiting

    def _transact(self, progress: _Progress) -> Iterator[dict[int, Outcome]]:
        """Sends what is in hand its message; yields what became of each, as soon as it is known."""
        if progress.message is None:
            return iter([dict.fromkeys(progress.in_hand, _GONE)])
        now = [(group.sender, group.recipients) for group in progress.in_hand.values()]
        following = [(group.sender, group.recipients) for group in progress.following]
        return progress.line.send(now, progress.message, following)

    def _settle(self, progress: _Progress, outcomes: Mapping[int, Outcome]) -> None:
        """Writes down what became of some groups in hand."""
        claim, todo, later = progress.claim, progress.todo, progress.later
        done: set[str] = set()
        never: list[Group] = []
        for number, outcome in outcomes.items():
            group = progress.in_hand.pop(number)
            done.update(group.recipients)
            verdict = self._judge(claim.batch, group, outcome)
            begin = len(progress.following)  # what is announced must be the next
            todo[begin:begin] = verdict.at_once
            later += verdict.later
            never += verdict.never
        beside = self._bury(claim, never, progress.message)
        waiting = [*progress.in_hand.values(), *todo]
        self._mark(claim, waiting, later, beside)
        claim.is_buried = claim.is_buried or bool(never)
        left = {recipient for each in (*waiting, *later) for recipient in each.recipients}
        self._turns.leave(claim.sender, claim.name, done - left)

    def _judge(self, batch: Batch, group: Group, outcome: Outcome) -> Verdict:
        """Returns what becomes of those of a group who do not have it."""
        now = self._store._clock()
        if outcome is _GONE:
            return Verdict([], [], [group._replace(answer=str(outcome))])
        if isinstance(outcome, NoRoom):
            return Verdict([group], [], [])
        if isinstance(outcome, RelayDown):
            self.pause.begin(outcome)
            return self._schedule.without_relay(batch, group, outcome, now)
        if isinstance(outcome, Exception):
            if not isinstance(outcome, OSError):
                self._store._log_traceback(f"{self._outbox!r}: a mail was not sent", outcome)
            return self._schedule.after_error(batch, group, outcome, now)
        self.pause.end()
        return self._schedule.judge(batch, group, outcome, now)

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
