"""Commits that several ask for at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from salmon_state import MemoryStorage
from salmon_state.entries import ABSENT, Kind, Write
from salmon_state.errors import Overtaken, StorageUnavailable
from salmon_state.mail.claims import Commits
from tests.end_to_end.smtp_sink import wait_for

OTHERS = 7


def put(name: str) -> list[Write]:
    return [Write(Kind.CONFIRMATION, "anna@example.com", name, b"x", 1, ABSENT)]


class Slow(MemoryStorage):
    """Stands still in its first commit until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.is_away = False

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        writes = list(writes)
        self.sizes.append(len(writes))
        self.begun.set()
        self.go_on.wait(30)
        if self.is_away:
            raise StorageUnavailable("away")
        return super()._commit(writes)


def test_those_who_come_during_one_are_the_next() -> None:
    store = Slow()
    commits = Commits(store)
    with ThreadPoolExecutor(OTHERS + 1) as threads:
        first = threads.submit(commits.make, put("first"))
        assert store.begun.wait(30)
        others = [threads.submit(commits.make, put(f"{n}")) for n in range(OTHERS)]
        wait_for(lambda: len(commits._waiting) == OTHERS, "all of them")
        assert not any(each.done() for each in (first, *others))
        store.go_on.set()
        assert [each.result(30) for each in (first, *others)] == [None] * (OTHERS + 1)
    assert store.sizes == [1, OTHERS]
    assert store._count(Kind.CONFIRMATION) == OTHERS + 1
    commits.make(put("alone"))  # without those who came the last time
    assert store.sizes == [1, OTHERS, 1]


def test_who_is_overtaken_takes_nobody_along() -> None:
    store = Slow()
    commits = Commits(store)
    with ThreadPoolExecutor(OTHERS + 1) as threads:
        first = threads.submit(commits.make, put("twice"))
        assert store.begun.wait(30)
        names = ["twice", *(f"{n}" for n in range(OTHERS - 1))]
        overtaken, *others = [threads.submit(commits.make, put(name)) for name in names]
        wait_for(lambda: len(commits._waiting) == OTHERS, "all of them")
        store.go_on.set()
        assert [each.result(30) for each in (first, *others)] == [None] * OTHERS
        with pytest.raises(Overtaken):
            overtaken.result(30)
    assert store._count(Kind.CONFIRMATION) == OTHERS


def test_all_hear_of_an_outage() -> None:
    store = Slow()
    commits = Commits(store)
    store.is_away = True
    with ThreadPoolExecutor(OTHERS + 1) as threads:
        first = threads.submit(commits.make, put("first"))
        assert store.begun.wait(30)
        others = [threads.submit(commits.make, put(f"{n}")) for n in range(OTHERS)]
        wait_for(lambda: len(commits._waiting) == OTHERS, "all of them")
        store.go_on.set()
        for each in (first, *others):
            with pytest.raises(StorageUnavailable):
                each.result(30)
    store.is_away = False
    commits.make(put("later"))
    assert store._count(Kind.CONFIRMATION) == 1
