"""What becomes of recipients, by what the relay said: who is sent it at once, later, and never."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

from salmon_state.entries import SECOND
from salmon_state.mail.answers import Answer, ConnectionLost
from salmon_state.mail.batches import Batch, Group
from salmon_state.mail.domains import domain_of

__all__ = ["Schedule", "Verdict"]

_TOO_MANY = (452, 552)
"""What a relay says to recipients who are too many for one transaction (RFC 5321, 4.5.3.1.10)."""


class Verdict(NamedTuple):
    """What becomes of those who were not sent it."""

    at_once: list[Group]
    later: list[Group]
    never: list[Group]


class Schedule(NamedTuple):
    """When those are tried again who were refused for now (RFC 5321, 4.5.4.1)."""

    first_retry: float
    """Seconds after the first time; after each further time twice as many, give or take a
    quarter."""
    longest_retry: float
    """Seconds that are the most."""
    give_up: int
    """Microseconds after it was recorded, after which it is not tried again."""

    def judge(self, batch: Batch, group: Group, refused: Mapping[str, Answer], now: int) -> Verdict:
        """Returns what becomes of those who were refused.

        Args:
            batch: Of which they are a group.
            group: Who was to be sent it in one transaction.
            refused: Why, by recipient.
            now: In microseconds since 1970.
        """
        verdict = Verdict([], [], [])
        by_answer: dict[Answer, list[str]] = {}
        for recipient, answer in refused.items():
            by_answer.setdefault(answer, []).append(recipient)
        for answer, recipients in by_answer.items():
            each = group._replace(recipients=recipients, answer=answer.words)
            tried = each._replace(attempts=group.attempts + 1)
            if answer.code in _TOO_MANY and len(refused) < len(group.recipients):
                verdict.at_once.append(each)
            elif 500 <= answer.code < 600 or self._is_over(batch, now):
                verdict.never.append(tried)
            else:
                wait = min(self.first_retry * 2.0**group.attempts, self.longest_retry)
                verdict.later.append(tried._replace(due=now + _about(wait)))
        return verdict

    def without_relay(self, batch: Batch, group: Group, error: OSError, now: int) -> Verdict:
        """Returns what becomes of a group while the relay is down, which is nobody's attempt."""
        waiting = [group._replace(answer=_words(error))]
        return Verdict([], [], waiting) if self._is_over(batch, now) else Verdict([], waiting, [])

    def after_error(self, batch: Batch, group: Group, error: Exception, now: int) -> Verdict:
        """Returns what becomes of a group of which nobody said anything."""
        if isinstance(error, ConnectionLost) and error.hung and not error.uncertain:
            domains: dict[str, list[str]] = {}
            for recipient in group.recipients:
                domains.setdefault(domain_of(recipient), []).append(recipient)
            if len(domains) > 1:  # whose domain it was that hung, shows when each is asked alone
                alone = [group._replace(recipients=each) for each in domains.values()]
                return Verdict([], alone, [])
        return self.judge(
            batch, group, dict.fromkeys(group.recipients, Answer(0, _words(error))), now
        )

    def _is_over(self, batch: Batch, now: int) -> bool:
        return now - batch.since > self.give_up


def _about(seconds: float) -> int:
    """Returns microseconds, give or take a quarter, so that not all come at once."""
    return round(seconds * random.uniform(0.75, 1.25) * SECOND)  # noqa: S311 - no secret


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]
