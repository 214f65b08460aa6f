"""The threads that handle mails, without a network."""

from __future__ import annotations

import asyncio
import threading
import weakref
from pathlib import Path

import pytest

from salmon_state import open_storage
from salmon_state.mail.receivers import handling
from salmon_state.mail.receivers.workers import Workers
from tests.mail.receivers.serving import HANG, Client, routes, serving
from tests.services import fresh_url


def test_a_worker_takes_the_next_mail_itself() -> None:
    """While the loop stands still."""

    async def main() -> None:
        workers = Workers[None](asyncio.get_running_loop(), 2, HANG)
        handled = [threading.Event() for _ in range(5)]
        futures = [
            workers.submit(f"{number % 3}@x", each.set) for number, each in enumerate(handled)
        ]
        assert all(each.wait(HANG) for each in handled)
        assert not any(each.done() for each in futures)
        await asyncio.gather(*futures)
        await workers.idle.wait()
        workers.close()

    asyncio.run(main())


def test_what_waits_at_the_end_is_not_begun() -> None:
    """Its client hears that it should come again."""
    begun, go_on = threading.Event(), threading.Event()
    handled: list[str] = []

    def handle() -> None:
        begun.set()
        assert go_on.wait(HANG)
        handled.append("first")

    async def main() -> None:
        before = set(threading.enumerate())
        workers = Workers[None](asyncio.get_running_loop(), 2, HANG)
        first = workers.submit("a@x", handle)
        workers.submit("a@x", lambda: handled.append("second"))
        assert begun.wait(HANG)
        workers.close()
        go_on.set()
        await first
        for thread in set(threading.enumerate()) - before:
            thread.join(HANG)

    asyncio.run(main())
    assert handled == ["first"]


@pytest.mark.parametrize("patience", [HANG, 0.0])
def test_a_mail_that_nobody_waits_for_is_let_go(patience: float) -> None:
    """Its client has left, or was told to come again; its sender's turn may come much later."""
    go_on = threading.Event()

    class Mail:
        def handle(self) -> None:
            raise AssertionError

    async def main() -> None:
        workers = Workers[object](asyncio.get_running_loop(), 2, patience)
        first = workers.submit("a@x", lambda: go_on.wait(HANG))
        mail = Mail()
        there = weakref.ref(mail)
        behind = workers.submit("a@x", mail.handle)
        del mail
        if patience:
            behind.cancel()
        await asyncio.gather(behind, return_exceptions=True)
        await asyncio.sleep(0)
        assert there() is None
        go_on.set()
        await first
        await workers.idle.wait()
        workers.close()

    asyncio.run(main())


def test_two_are_begun_where_one_waits_for_a_server_anyway() -> None:
    """While the loop stands still, and so does not know that one of them waits."""

    async def main() -> None:
        workers = Workers[int](asyncio.get_running_loop(), 3, HANG, side_by_side=2)
        both = threading.Barrier(3)
        futures = [workers.submit(sender, lambda: both.wait(HANG)) for sender in ("a@x", "b@x")]
        both.wait(HANG)
        await asyncio.gather(*futures)
        assert await workers.submit("c@x", lambda: 3) == 3
        await workers.idle.wait()
        workers.close()

    asyncio.run(main())


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, KeyboardInterrupt])
def test_whatever_a_handler_raises_there_is_an_answer(error: type[BaseException]) -> None:
    """And the worker goes on."""
    errors = [error()]

    def handle(mail: object) -> None:
        if errors:
            raise errors.pop()

    with routes(handle), serving("smtp", workers=1) as receiver, Client(receiver) as client:
        client.hello()
        for answer in (b"451 4.3.0", b"250 2.0.0"):
            client.envelope("anna@y", "news@x")
            [heard] = client.send(b"Subject: hi\r\n\r\nhello\r\n.\r\n")
            assert heard.startswith(answer)


def test_without_memory_for_a_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot even be looked at, and the worker goes on."""
    shortage = [MemoryError()]

    def look(data: bytes) -> bool:
        if shortage:
            raise shortage.pop()
        return False

    monkeypatch.setattr(handling, "is_too_complex", look)
    everything = routes(lambda mail: None)
    with everything, serving("smtp", workers=1) as receiver, Client(receiver) as client:
        client.hello()
        for answer in (b"451 4.3.0", b"250 2.0.0"):
            client.envelope("anna@y", "news@x")
            [heard] = client.send(b"Subject: hi\r\n\r\nhello\r\n.\r\n")
            assert heard.startswith(answer)


@pytest.mark.parametrize("kind", ["memory", "shelve", "sqlite"])
def test_a_store_without_a_server(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    with open_storage(fresh_url(request, kind, tmp_path)) as store:
        assert not store.is_remote


@pytest.mark.parametrize("kind", ["postgresql", "mariadb", "redis_server"])
def test_a_store_with_a_server(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    with open_storage(fresh_url(request, kind, tmp_path)) as store:
        assert store.is_remote
