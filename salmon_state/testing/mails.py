"""What the threads and processes of the kit do in conversations; needs no pytest."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from salmon_state.conversation import Conversation, current_conversation
from salmon_state.errors import ConversationBusy
from salmon_state.keys import Sender
from salmon_state.storage import StateStorage
from salmon_state.testing.forking import ending_of
from salmon_state.testing.keys import MODULE
from salmon_state.testing.processes import PATIENCE

__all__ = ["RING", "can_enter", "held", "held_by_another_thread", "next_state", "walk"]

RING = ("START", *(f"S{number}" for number in range(1, 97)))
"""The states that mails move round.

So many, and a prime number, that workers who all make the same steps, because each overwrites
what the others did, are told from workers who take turns.
"""


def next_state(state: str) -> str:
    """Returns the state after another one in the ring."""
    number = 0 if state == "START" else int(state[1:])
    return RING[(number + 1) % len(RING)]


def walk(
    store: StateStorage, senders: Sequence[Sender], mails: int, timeout: float
) -> Counter[str]:
    """Handles some mails of each sender, each of which moves the state one step round the ring.

    A mail that finds the conversation busy comes again, as mail servers do it.

    Returns:
        How often each state was entered.
    """
    entered: Counter[str] = Counter()
    for number in range(mails * len(senders)):
        sender = senders[number % len(senders)]
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with store.conversation(sender, timeout=timeout):
                    state = next_state(store.get(MODULE, sender))
                    time.sleep(0)  # lets another thread try what it must not
                    store.set(MODULE, sender, state)
                break
            except ConversationBusy:
                if time.monotonic() > deadline:
                    raise
        entered[state] += 1
    return entered


def can_enter(store: StateStorage, senders: Sequence[Sender], timeout: float = 0) -> list[bool]:
    """Returns for each sender whether a conversation can be entered within the timeout."""
    found = []
    for sender in senders:
        try:
            with store.conversation(sender, timeout=timeout):
                found.append(True)
        except ConversationBusy:
            found.append(False)
    return found


def time_to_refuse(store: StateStorage, sender: Sender, timeout: float) -> float:
    """Returns how many seconds it takes to be told that somebody is in a conversation."""
    began = time.monotonic()
    assert can_enter(store, [sender], timeout) == [False]
    return time.monotonic() - began


def stopped_inside(store: StateStorage, sender: Sender) -> bool:
    """Stands still in a conversation until it is told to go on; returns whether it committed."""
    try:
        with store.conversation(sender, timeout=PATIENCE):
            store.set("stopped", sender, "ONE")
            os.kill(os.getpid(), signal.SIGSTOP)
    except ConversationBusy:
        return False
    return True


def held(
    store: StateStorage, sender: Sender, states: Sequence[tuple[str, Sender, str]] = ()
) -> Iterator[str]:
    """Enters a conversation, sets some states, acknowledges, and stays until it is killed."""
    with store.conversation(sender, timeout=PATIENCE):
        for module, whose, state in states:
            store.set(module, whose, state)
        yield "inside"
        time.sleep(PATIENCE)


def pairs_forever(store: StateStorage, sender: Sender) -> Iterator[int]:
    """Sets the same state in two modules in each of its conversations, and acknowledges each."""
    step = 0
    while True:
        with store.conversation(sender, timeout=PATIENCE):
            store.set("one", sender, f"S{step}")
            store.set("two", sender, f"S{step}")
        yield step
        step += 1


def take_turns(store: StateStorage, sender: Sender, last: int) -> int:
    """Handles one mail of a sender after the other until somebody has handled the last one.

    Returns:
        How many it handled; the others did the rest.
    """
    turns = state = 0
    while state < last:
        with store.conversation(sender, timeout=PATIENCE):
            state = int(store.get(MODULE, sender).replace("START", "0")) + 1
            time.sleep(0.005)  # a handler; the others come to wait meanwhile
            store.set(MODULE, sender, str(state))
        turns += 1
    return turns


def wait_forever(store: StateStorage, sender: Sender) -> Iterator[str]:
    """Waits for a conversation that somebody else is in, again and again; tells of each wait.

    Nearly all of its time is waiting, however slowly it runs.
    """
    while True:
        yield "inside" if can_enter(store, [sender], 0.1) == [True] else "busy"


def enter(store: StateStorage, sender: Sender) -> None:
    """Enters a conversation and leaves the process inside, for its next calls."""
    _ENTERED.append(store.conversation(sender, timeout=PATIENCE))
    _ENTERED[-1].__enter__()


def leave(store: StateStorage) -> None:
    """Leaves the conversation that was entered last."""
    _ENTERED.pop().__exit__(None, None, None)


_ENTERED: list[Conversation] = []


def fork_inside(store: StateStorage, sender: str) -> tuple[str, int]:
    """Forks in a conversation; returns what the child saw and its exit status.

    The child leaves the ``with`` block as well, which must not end its parent's conversation.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    child = 0
    try:
        with store.conversation(sender, timeout=PATIENCE):
            store.set(MODULE, sender, "PARENT")
            child = os.fork()
            if child == 0:
                seen = [str(current_conversation()), store.get(MODULE, sender)]
                seen += map(str, can_enter(store, [sender, f"another.{sender}"]))
                store.set("child", sender, "CHILD")
                os.write(writing, " ".join(seen).encode())
                raise _EndOfChild
            os.close(writing)
            status = ending_of(child)
            with open(reading, "rb") as pipe:
                text = pipe.read().decode()
    except _EndOfChild:
        pass
    finally:
        if os.getpid() != parent:
            os._exit(0 if current_conversation() is None else 3)
    return text, status


def close_in_a_child(store: StateStorage) -> int:
    """Forks a child that closes the store and ends; returns how it ended."""
    child = os.fork()
    if child == 0:
        try:
            store.close()
        except BaseException:  # noqa: BLE001 - whatever it is, the child ends here
            os._exit(1)
        os._exit(0)
    return ending_of(child)


def leave_a_child(store: StateStorage, sender: str) -> None:
    """Forks in a conversation, and leaves it; the child stays until `end_children`."""
    reading, writing = os.pipe()
    with store.conversation(sender, timeout=PATIENCE):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # until nobody has the other end, as its parent's death also does
            os._exit(0)
    os.close(reading)
    _CHILDREN.append((child, writing))


def end_children(_: StateStorage) -> None:
    """Ends the children that were left, and waits for that."""
    while _CHILDREN:
        child, writing = _CHILDREN.pop()
        os.close(writing)
        ending_of(child)


_CHILDREN: list[tuple[int, int]] = []


class _EndOfChild(Exception):
    """Takes a child out of its parent's conversation."""


@contextmanager
def held_by_another_thread(store: StateStorage, sender: Sender) -> Iterator[None]:
    """Gives a block during which another thread is in a conversation with a sender."""
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with store.conversation(sender, timeout=PATIENCE):
            inside.set()
            leave.wait(PATIENCE)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    try:
        assert inside.wait(PATIENCE), "the other thread did not win the lock"
        yield
    finally:
        leave.set()
        thread.join(PATIENCE)
