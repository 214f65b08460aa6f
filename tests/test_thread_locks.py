"""A lock for each name, between threads."""

from __future__ import annotations

import threading

import pytest

from salmon_state import ConversationBusy
from salmon_state.thread_locks import ThreadLocks


def test_names_that_nobody_uses_take_no_memory() -> None:
    locks = ThreadLocks()
    for number in range(100):
        release = locks.acquire(number, 0)
        with pytest.raises(ConversationBusy):
            locks.acquire(number, 0.001)
        release()
    assert locks._locks == {}


def test_a_lock_is_given_to_one_after_the_other() -> None:
    locks = ThreadLocks()
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            release = locks.acquire("name", 60)
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)
            release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(most), max(most)) == (200, 1)
    assert locks._locks == {}
