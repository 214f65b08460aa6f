"""Stores that are none of ours, or not shared by processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from salmon.routing import MemoryStorage as SalmonMemory
from salmon.routing import ShelveStorage as SalmonShelf

from salmon_state import (
    ConversationBusy,
    MemoryStorage,
    StateStorage,
    attach,
    current_conversation,
)
from salmon_state.testing.mails import held_by_another_thread
from tests.delivery.router import Ring, mail
from tests.faulty import FaultyStorage

ANNA = "anna@example.com"


class Unhashable(SalmonMemory):
    """Such as a dataclass is."""

    def __eq__(self, other: object) -> bool:
        return True


class Slots:
    """Keeps nothing beside its one attribute: it cannot be weakly referred to either."""

    __slots__ = ("states",)

    def __init__(self) -> None:
        self.states: dict[tuple[str, str | None], str] = {}

    def get(self, key: str, sender: str | None) -> str:
        return self.states.get((key, sender), "START")

    def set(self, key: str, sender: str | None, state: str) -> None:
        self.states[key, sender] = state


class DocumentedStorage(StateStorage):
    """Our own base class, with what Salmon's documentation teaches."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, str | None], str] = {}

    def get(self, module: str, sender: str | None) -> str:
        return self.states.get((module, sender), "START")

    def set(self, module: str, sender: str | None, state: str) -> None:
        self.states[module, sender] = state


FOREIGN: dict[str, Callable[[Path], Any]] = {
    "SalmonMemory": lambda path: SalmonMemory(),
    "SalmonShelf": lambda path: SalmonShelf(str(path / "shelf")),
    "Unhashable": lambda path: Unhashable(),
    "Slots": lambda path: Slots(),
    "DocumentedStorage": lambda path: DocumentedStorage(),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_store_gets_the_lock_and_one_line(
    router: Any, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FOREIGN[name](tmp_path)
    ring = Ring()
    attach(router, store, lock_timeout=0)
    for _ in range(3):
        router.deliver(mail(ANNA))
    assert [state for _, state in ring.ran] == ["START", "ONE", "TWO"]
    [warning] = [record for record in caplog.records if record.name == "salmon_state"]
    assert warning.levelno == logging.WARNING
    assert "threads of this process only" in warning.getMessage()
    assert type(store).__name__ in warning.getMessage()

    [conversation] = kept_inside(router, ring)
    with held_by_another_thread(conversation._store, ANNA), pytest.raises(ConversationBusy):
        router.deliver(mail(ANNA))
    assert len(ring.ran) == 4


def kept_inside(router: Any, ring: Ring) -> list[Any]:
    found: list[Any] = []
    ring.before = lambda message, state: found.append(current_conversation())
    router.deliver(mail(ANNA))
    return found


def test_our_store_in_memory_gets_one_line_and_a_shared_one_none(
    router: Any, caplog: pytest.LogCaptureFixture
) -> None:
    Ring()
    attach(router, MemoryStorage())
    for _ in range(3):
        router.deliver(mail(ANNA))
    assert [record.getMessage() for record in caplog.records if record.name == "salmon_state"] == [
        "<MemoryStorage> keeps mails of one sender apart between the threads of this process only"
    ]
    caplog.clear()
    router.STATE_STORE = FaultyStorage()
    router.deliver(mail(ANNA))
    assert [record for record in caplog.records if record.name == "salmon_state"] == []


def test_stores_that_are_swapped_are_told_apart(
    router: Any, caplog: pytest.LogCaptureFixture
) -> None:
    Ring()
    attach(router)
    stores = [Unhashable(), Unhashable(), SalmonMemory()]
    for store in stores * 2:
        router.STATE_STORE = store
        router.deliver(mail(ANNA))
    assert [len(store.states) for store in stores] == [1, 1, 1]
    assert len([record for record in caplog.records if record.name == "salmon_state"]) == 3
