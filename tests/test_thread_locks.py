"""A lock for each name, between threads."""

from __future__ import annotations

import threading
import time

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
    assert locks._turns == {}


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
    assert locks._turns == {}


def test_those_who_wait_get_their_turn_in_the_order_in_which_they_came() -> None:
    locks = ThreadLocks()
    release = locks.acquire("name", 0)
    came: list[int] = []

    def wait(number: int) -> None:
        release = locks.acquire("name", 60)
        came.append(number)
        release()

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(locks._turns["name"]) == number:
            time.sleep(0.001)
    with pytest.raises(ConversationBusy):
        locks.acquire("name", 0.001)
    release()
    for thread in threads:
        thread.join(60)
    assert came == [0, 1, 2, 3, 4]
    assert locks._turns == {}


class Interrupted(BaseException):
    """What a signal raises in the middle of a wait."""


@pytest.mark.parametrize("when", ["while it waits", "when its turn has come"])
def test_a_wait_that_a_signal_ends_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    locks = ThreadLocks()
    release = locks.acquire("name", 0)

    class Turn:
        """A lock of which the second `acquire`, which is the wait, is interrupted."""

        def __init__(self) -> None:
            self.acquired = 0

        def acquire(self, timeout: float = -1) -> bool:
            self.acquired += 1
            if self.acquired == 2:
                if when == "when its turn has come":
                    release()
                raise Interrupted
            return True

        def release(self) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Lock", Turn)
        with pytest.raises(Interrupted):
            locks.acquire("name", 60)
    if when == "while it waits":
        release()
    assert locks._turns == {}
