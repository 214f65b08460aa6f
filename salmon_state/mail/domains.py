"""Recipients' domains, of which one that hangs must not hold up the others."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable

__all__ = ["Domains", "domain_of", "domains_of"]


class Domains:
    """Keeps a domain that hangs from taking all connections.

    Args:
        most: How many connections may send to one domain at the same time.
    """

    patience = 1.0
    """Seconds to wait for one of them; if none is free by then, the domain is slow."""
    politeness = 0.1
    """Seconds for which others wait while somebody keeps his place from mail to mail."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._busy: Counter[str] = Counter()
        self._slow: set[str] = set()
        self._waiting: list[float] = []  # since when
        self._changed = threading.Condition()

    def enter(self, domains: set[str]) -> set[str]:
        """Takes a place at each domain that has one; returns the others.

        Whoever calls it gives the places back by `leave`.
        """
        began = time.monotonic()
        with self._changed:
            while True:
                full = {each for each in domains if self._busy[each] >= self._most}
                if full <= self._slow:
                    break
                self._waiting.append(began)
                if not self._changed.wait(began + self.patience - time.monotonic()):
                    self._slow |= full
                self._waiting.remove(began)
            self._busy.update(domains - full)
            return full

    def enter_now(self, domains: set[str]) -> bool:
        """Takes a place at each domain, if all have one; returns whether they have."""
        if domains:
            with self._changed:
                if any(self._busy[each] >= self._most for each in domains):
                    return False
                self._busy.update(domains)
        return True

    def may_stay(self, domains: set[str]) -> bool:
        """Returns whether somebody may keep his places for his next mail: nobody waits for long."""
        waits = time.monotonic() - min(self._waiting, default=math.inf)
        return waits < self.politeness and self._slow.isdisjoint(domains)

    def have_room(self, domains: set[str], leaving: set[str]) -> bool:
        """Returns whether each has a place, were those left."""
        with self._changed:
            return all(self._busy[each] - (each in leaving) < self._most for each in domains)

    def leave(self, domains: Iterable[str]) -> None:
        """Gives the places back."""
        with self._changed:
            for domain in domains:
                self._busy[domain] -= 1
                if not self._busy[domain]:
                    del self._busy[domain]
                self._slow.discard(domain)
            self._changed.notify_all()


def domains_of(recipients: Iterable[str]) -> set[str]:
    """Returns the domains of addresses."""
    return {domain_of(each) for each in recipients}


def domain_of(recipient: str) -> str:
    """Returns the domain of an address."""
    return recipient.rpartition("@")[2].lower()
