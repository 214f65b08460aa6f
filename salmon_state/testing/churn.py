"""Churn: so many changes that a store may tidy itself up, which nobody shall notice.

A log that is written anew, or a table that is packed, is perhaps another file, in which everything
is elsewhere, in the middle of what others do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from salmon_state.entries import Entry, Kind, Where, Write
from salmon_state.storage import StateStorage
from salmon_state.testing import tasks
from salmon_state.testing.children import call_in_child
from salmon_state.testing.descriptors import open_files
from salmon_state.testing.keys import MODULE, SENDER
from salmon_state.testing.processes import StoreProcess
from salmon_state.testing.suite import NOON, OpenStore, StoreSuite, contents, everything, write

__all__ = ["ChurnTests", "SharedChurnTests"]

_LISTINGS = (
    (Kind.STATE, Where()),
    (Kind.OUTGOING, Where()),
    (Kind.OUTGOING, Where(before=NOON * 2)),
)


class ChurnTests(StoreSuite):
    """What whoever has the store open sees of its own changes."""

    def test_churn_touches_nothing_else(self, store: StateStorage) -> None:
        """What was there before is as it was, with its time or without one."""
        entries = _settled(store)
        tasks.churn(store, "ONE")
        for kind, where in _LISTINGS:
            left = [entry for entry in everything(store, kind, where) if _is_settled(entry)]
            assert sorted(left) == [entry for entry in entries if entry.kind is kind]

    def test_churn_beside_whoever_lists(self, store: StateStorage) -> None:
        """What is there all the time, and nobody touches, comes exactly once."""
        entries = _settled(store)
        listings = [store._pages(kind, where) for kind, where in _LISTINGS]
        found = [list(next(pages).entries) for pages in listings]
        tasks.churn(store, "ONE")
        for (kind, _), pages, given in zip(_LISTINGS, listings, found, strict=True):
            given += [entry for page in pages for entry in page.entries]
            assert sorted(filter(_is_settled, given)) == [e for e in entries if e.kind is kind]

    def test_churn_leaves_nothing_open(self, store: StateStorage) -> None:
        """No more files and sockets are open than before, however often it is tidied up."""
        counts = []
        for number in range(3):
            tasks.churn(store, f"S{number}.")
            counts.append(len(open_files()))
        assert counts[-1] <= counts[0], f"files and sockets that are open: {counts}"


class SharedChurnTests(StoreSuite):
    """What others see of it who have the store open."""

    def test_churn_of_another_store(self, open_store: OpenStore) -> None:
        """Whoever only reads finds what is new, each time."""
        with open_store() as one, open_store() as two:
            one.set(MODULE, SENDER, "OLD")
            for word in ("ONE", "TWO"):
                assert two.get(MODULE, SENDER) == "OLD"
                last = tasks.churn(one, word)
                assert [two.get(*key) for key in tasks.CHURNED] == [last] * len(tasks.CHURNED)
                assert len(contents(two)) == len(tasks.CHURNED) + 1

    def test_churn_before_a_childs_first_call(self, others: Sequence[StoreProcess]) -> None:
        """It finds what is new, and what was there when its parent forked."""
        keys = [*tasks.CHURNED, (MODULE, SENDER)]
        others[0].call(tasks.do, "set", MODULE, SENDER, "OLD")
        last = others[0].call(tasks.churn, "ONE")
        assert others[0].call(tasks.get_many, keys) == [last] * len(tasks.CHURNED) + ["OLD"]
        read, churn = partial(tasks.get_many, keys=keys), partial(tasks.churn, word="TWO")
        found = others[0].call(call_in_child, read, churn)
        assert found == [last.replace("ONE", "TWO")] * len(tasks.CHURNED) + ["OLD"]


def _settled(store: StateStorage) -> list[Entry]:
    """Writes entries that nobody touches; there were others between them."""
    entries = [
        Entry(kind, f"{number % 10}@x", f"{number:03}", value, at)
        for number in range(600)
        for kind, value, at in (
            (Kind.STATE, "SETTLED", None if number % 4 else NOON),
            (Kind.OUTGOING, b"mail", NOON + number),
        )
    ]
    stay = [entry for entry in entries if int(entry.name) % 2]
    write(store, (Write(*entry) for entry in entries))
    write(store, (Write(*entry[:3], None) for entry in entries if not int(entry.name) % 2))
    return sorted(stay)


def _is_settled(entry: Entry) -> bool:
    return (entry.name, entry.sender) not in tasks.CHURNED
