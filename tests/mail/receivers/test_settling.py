"""What mails have written is on the disk before anybody hears of it, several at a time."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from salmon.routing import Router

from salmon_state import SQLAlchemyStorage, attach, detach
from salmon_state.mail.receivers.handling import NOT_NOW, ReceivedMail, handle, settle
from salmon_state.mail.receivers.workers import Workers
from salmon_state.stores.disk import put_off
from tests.forking import in_child
from tests.mail.receivers.serving import HANG

ANNA, BERTA = "anna@example.com", "berta@example.com"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLAlchemyStorage]:
    with SQLAlchemyStorage(f"sqlite:///{tmp_path}/states.db") as store:
        store.set("app", BERTA, "POSTING")
        yield store


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors that were brought to the disk."""
    found: list[int] = []
    fdatasync = os.fdatasync

    def record(descriptor: int) -> None:
        found.append(descriptor)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", record)
    return found


@pytest.fixture
def router(store: SQLAlchemyStorage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(Router, "STATE_STORE", Router.STATE_STORE)
    monkeypatch.setattr(Router, "UNDELIVERABLE_QUEUE", None)
    attach(Router, store)
    yield Router
    detach(Router)


def change_a_state(store: SQLAlchemyStorage) -> None:
    with store.conversation(ANNA):
        store.set("app", ANNA, "CONFIRMING")


# -------------------------------------------------------------------- putting off


def test_one_write_to_the_disk_for_several(store: SQLAlchemyStorage, synced: list[int]) -> None:
    with put_off() as owed:
        for _ in range(3):
            change_a_state(store)
    assert synced == []
    (file,) = owed
    file.sync()
    assert len(synced) == 1
    change_a_state(store)
    assert len(synced) == 2


def test_what_a_handler_writes_beside_does_not_wait(
    store: SQLAlchemyStorage, tmp_path: Path, synced: list[int]
) -> None:
    with SQLAlchemyStorage(f"sqlite:///{tmp_path}/other.db") as other:
        synced.clear()
        with put_off(), store.conversation(ANNA):
            other.set("app", ANNA, "CONFIRMING")
            assert len(synced) == 1
            change_a_state(other)
            assert len(synced) == 2


def test_what_was_only_read_is_owed_as_well(store: SQLAlchemyStorage, synced: list[int]) -> None:
    """Another process may have committed it, and not brought it to the disk yet."""
    with put_off() as owed, store.conversation(ANNA):
        store.get("app", ANNA)
    assert len(owed) == 1
    assert synced == []


def test_the_file_stays_open(store: SQLAlchemyStorage, synced: list[int]) -> None:
    with put_off() as owed:
        change_a_state(store)
    store.close()
    (file,) = owed
    file.sync()
    assert len(synced) == 1


def test_a_child_puts_nothing_off(store: SQLAlchemyStorage, synced: list[int]) -> None:
    def job() -> None:
        change_a_state(store)
        assert synced

    with put_off():
        synced.clear()
        assert in_child(job) == 0


# -------------------------------------------------------------------- mails


def mail(sender: str) -> ReceivedMail:
    return ReceivedMail(("127.0.0.1", 25), sender, ("nobody@example.com",), b"Subject: x\n\nx\n")


@pytest.mark.usefixtures("router")
def test_a_disk_that_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    mails = [handle(mail(ANNA)), handle(mail(BERTA))]
    mails[1].owed.clear()
    before = mails[1].answers
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        settle(mails)
    assert mails[0].answers == [NOT_NOW]
    assert mails[1].answers == before
    assert "not on the disk" in caplog.text


def test_without_conversations_nothing_is_put_off(
    store: SQLAlchemyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(vars(Router), "deliver", raising=False)  # config.testing has attached it
    monkeypatch.setattr(Router, "STATE_STORE", store)
    monkeypatch.setattr(Router, "UNDELIVERABLE_QUEUE", None)
    assert handle(mail(ANNA)).owed == set()


# -------------------------------------------------------------------- workers


def test_none_is_told_before_it_is_settled() -> None:
    settling, go_on = threading.Event(), threading.Event()
    settled: list[int] = []

    def settle(results: list[int]) -> None:
        settling.set()
        assert go_on.wait(HANG)
        settled.extend(results)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        workers = Workers[int](loop, 2, HANG, settle=settle)
        first = workers.submit("a@x", lambda: 1)
        second = workers.submit("a@x", lambda: 2)
        assert await loop.run_in_executor(None, settling.wait, HANG)
        assert not first.done()
        assert not workers.idle.is_set()
        go_on.set()
        assert await first == 1
        assert settled[0] == 1
        assert await second == 2
        await workers.idle.wait()
        assert settled == [1, 2]
        workers.close()

    asyncio.run(asyncio.wait_for(main(), HANG))


@pytest.mark.parametrize("more", [0, 3])
def test_what_is_done_does_not_wait_for_what_takes_long(more: int) -> None:
    """Whether or not there is another mail that wakes a worker."""
    go_on = threading.Event()
    settled: list[int] = []

    async def main() -> None:
        workers = Workers[int](asyncio.get_running_loop(), 3, HANG, settle=settled.extend)
        brief = [workers.submit(f"{number}@x", lambda: 1) for number in range(20)]
        slow = workers.submit("slow@x", lambda: int(go_on.wait(HANG)) + 1)
        brief += [workers.submit(f"{number}@y", lambda: 1) for number in range(more)]
        assert await asyncio.gather(*brief) == [1] * (20 + more)
        assert not slow.done()
        go_on.set()
        assert await slow == 2
        await workers.idle.wait()
        assert sorted(settled) == [1] * (20 + more) + [2]
        workers.close()

    asyncio.run(asyncio.wait_for(main(), HANG))


def test_the_last_worker_settles_before_it_goes_on() -> None:
    """There is none who would do it if the next mail takes long."""
    go_on = threading.Event()
    begun = [threading.Event() for _ in range(3)]

    def take_long(number: int) -> int:
        begun[number].set()
        return int(go_on.wait(HANG))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        workers = Workers[int](loop, 3, HANG, settle=lambda results: None)
        slow = [workers.submit(f"{n}@slow", partial(take_long, n)) for n in range(2)]
        for each in begun[:2]:
            assert await loop.run_in_executor(None, each.wait, HANG)
        brief = [workers.submit(f"{n}@x", lambda: 1) for n in range(5)]
        slow.append(workers.submit("2@slow", partial(take_long, 2)))
        assert await asyncio.gather(*brief) == [1] * 5
        go_on.set()
        assert await asyncio.gather(*slow) == [1] * 3
        workers.close()

    asyncio.run(asyncio.wait_for(main(), HANG))
