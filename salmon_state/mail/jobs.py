"""What a dispatcher has claimed, handed out so that one sender's mails to one leave in order."""

from __future__ import annotations

import queue
import threading
from collections import deque

from salmon_state.entries import Entry
from salmon_state.keys import Sender
from salmon_state.mail.claims import Claim

__all__ = ["Job", "Jobs"]

_LONGEST = 4


class Job:
    """Claims that one connection handles one after the other, as they have recipients in common."""

    def __init__(self) -> None:
        self._claims: deque[Claim] = deque()
        self._theirs: set[tuple[Sender, str]] = set()


class Jobs:
    """Hands out claims; of those that share a sender and a recipient, the earlier one first."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._claims: dict[tuple[Sender, str], Claim] = {}
        self._meeting: dict[tuple[Sender, str], Job] = {}  # by sender and recipient
        self._changing = threading.Lock()

    def __len__(self) -> int:
        return len(self._claims)

    @property
    def are_waiting(self) -> bool:
        """Whether there are some that nobody has begun."""
        return not self._waiting.empty()

    def claims(self) -> list[Claim]:
        """Returns all that are not done with."""
        with self._changing:
            return list(self._claims.values())

    def renew(self, entry: Entry) -> bool:
        """Notes that what is still being handled was claimed anew; returns whether it is."""
        with self._changing:
            known = self._claims.get((entry.sender, entry.name))
            if known is not None:  # who has it looks whether it is held when he is done
                known.renew(entry)
            return known is not None

    def add(self, claim: Claim) -> None:
        """Hands out a claim; those of one sender must come in the order of their names."""
        with self._changing:
            self._claims[claim.sender, claim.name] = claim
            theirs = {(claim.sender, recipient) for recipient in claim.batch.recipients}
            job = next((self._meeting[each] for each in theirs if each in self._meeting), None)
            if job is None or len(job._claims) >= _LONGEST:  # then it finds out that it must wait
                job = Job()
                self._waiting.put(job)
            job._claims.append(claim)
            for each in theirs:
                if self._meeting.setdefault(each, job) is job:
                    job._theirs.add(each)

    def take(self, timeout: float) -> Job | None:
        """Returns what somebody may begin; ``None`` when there will be nothing more.

        Raises:
            queue.Empty: There was nothing for so many seconds.
        """
        return self._waiting.get(timeout=timeout)

    def next_of(self, job: Job) -> Claim | None:
        """Returns what of a job is to be handled next; ``None`` when it is done."""
        with self._changing:
            if job._claims:
                return job._claims[0]
            for each in job._theirs:
                del self._meeting[each]
            return None

    def is_over(self, claim: Claim) -> bool:
        """Returns whether it was given back, and not claimed anew meanwhile; then it is let go."""
        with self._changing:
            if not claim.is_held:
                del self._claims[claim.sender, claim.name]
            return not claim.is_held

    def leave(self, job: Job, claim: Claim) -> None:
        """Notes that nothing more happens to what is handled now."""
        with self._changing:
            job._claims.popleft()
            if self._claims.get((claim.sender, claim.name)) is claim:
                del self._claims[claim.sender, claim.name]

    def end(self, takers: int) -> None:
        """Makes each of so many who `take` hear that there will be nothing more."""
        for _ in range(takers):
            self._waiting.put(None)
