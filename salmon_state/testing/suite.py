"""StoreSuite: what all suites of the kit build on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from salmon_state.entries import Entry, Kind, Place, Where, Write, in_order
from salmon_state.keys import Sender
from salmon_state.storage import StateStorage
from salmon_state.testing.keys import LONGEST
from salmon_state.testing.tally import TALLY

__all__ = [
    "BESIDE",
    "NOON",
    "OpenStore",
    "StoreSuite",
    "contents",
    "everything",
    "fill",
    "moment",
    "outgoing",
    "set_clock",
    "write",
]

OpenStore = Callable[..., StateStorage]

NOON = 1_700_000_000_000_000
"""A moment in microseconds since 1970, for stores whose clock the kit holds."""

BESIDE = tuple(kind for kind in Kind if kind is not Kind.STATE)
"""The kinds of entries that there are beside the states."""


class StoreSuite:
    """Opens the store under test; a subclass of the suites overrides `open_store`.

    Attributes:
        left_out: What this store is not asked, and why: the names of tests, or of the fixtures
            that would be needed for them. They are skipped, and the summary shows the reason.
        limits: Which numbers of its class are as they are because the store can do no more, and
            why: the names of attributes, such as ``largest``. The summary shows them. What is
            longer than ``longest`` and larger than ``largest`` must then be refused.
        longest: The longest sender, and name, in characters.
        store_name: What the summary calls the store; ``None`` for the name of the class, without
            its ``Test``.
    """

    left_out: Mapping[str, str] = MappingProxyType({})
    limits: Mapping[str, str] = MappingProxyType({})
    store_name: str | None = None
    longest = LONGEST

    @pytest.fixture
    def open_store(self) -> OpenStore:
        """Returns a callable that opens the store, on a place that is fresh for this test.

        It is called without arguments, once more with ``protect=True``, and again whenever a
        suite reopens the store or opens a second one at the same place. For the suites that start
        processes it must be picklable, such as ``functools.partial(open_storage, url)``, a class,
        or a function of a module. What it opens, the kit closes; what lies at the place is the
        test's own to remove (``tmp_path`` does).
        """
        raise NotImplementedError(
            f"{type(self).__name__} must override the fixture open_store; "
            "see salmon_state.testing.StoreSuite.open_store"
        )

    @pytest.fixture(autouse=True)
    def _asked(self, request: pytest.FixtureRequest) -> None:
        """Skips what is left out, and knows every number that is a limit."""
        for limit in self.limits:
            if not hasattr(self, limit):
                raise AttributeError(
                    f"{type(self).__name__}.limits names {limit!r}, which is no attribute of it"
                )
        name = request.function.__name__
        if name in self.left_out:
            pytest.skip(f"left out: {self.left_out[name]}")

    @pytest.fixture(autouse=True)
    def _far_from_utc(self) -> Iterator[None]:
        """Has the test run in Asia/Kolkata: most machines are in UTC, where mistakes hide."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TZ", "Asia/Kolkata")
            time.tzset()
            yield
        time.tzset()

    @property
    def long_texts(self) -> tuple[str, str]:
        """Two as long as a sender may be, of which the last character is different."""
        return "a" * self.longest, "a" * (self.longest - 1) + "b"

    @pytest.fixture
    def store(self, open_store: OpenStore) -> Iterator[StateStorage]:
        """Opens the store, and closes it after the test."""
        with open_store() as store:
            yield store


def contents(store: StateStorage, **filters: Any) -> dict[tuple[str, Sender], str]:
    """Returns what `records` gives, after checking that nothing comes twice."""
    found: dict[tuple[str, Sender], str] = {}
    for record in store.records(**filters):
        key = (record.module, record.sender)
        assert key not in found, f"records() gave {key!r:.200} twice"
        found[key] = record.state
    TALLY["entries"] += len(found)
    return found


def everything(store: StateStorage, kind: Kind, where: Where = Where()) -> list[Entry]:  # noqa: B008 - immutable
    """Returns what pages give, after checking that nothing comes twice."""
    found: dict[Place, Entry] = {}
    for page in store._pages(kind, where):  # which may never end if one begins too early
        given = len(found) + len(page.entries)
        found.update((entry[:3], entry) for entry in page.entries)
        assert len(found) == given, "a page gave an entry twice"
    TALLY["entries"] += len(found)
    return list(found.values())


def moment(entry: Entry) -> int:
    """Returns the time of an entry, to sort by."""
    return entry.at or 0


def outgoing(sender: Sender, count: int, at: int = NOON) -> list[Write]:
    """Returns the writes of some mails of a sender that wait to be sent."""
    return [Write(Kind.OUTGOING, sender, str(n), b"value", at) for n in range(count)]


def fill(
    store: StateStorage,
    states: Iterable[tuple[str, Sender, str]],
    updated_at: int | None = NOON,
) -> None:
    """Sets many states in one write of the backend, which is what makes large tests quick."""
    write(store, (Write(Kind.STATE, sender, m, state, updated_at) for m, sender, state in states))


def write(store: StateStorage, writes: Iterable[Write]) -> None:
    """Commits any number of writes, at once if the store can."""
    ordered = in_order(writes)
    if store.spans_senders:
        store._commit(ordered)
        return
    parts: dict[Sender, list[Write]] = {}
    for each in ordered:
        parts.setdefault(each.sender, []).append(each)
    for part in parts.values():
        store._commit(part)


def set_clock(store: StateStorage, microseconds: int) -> None:
    """Makes a store believe that it is that many microseconds after 1970 began."""
    store._clock = lambda: microseconds
