"""The threads that handle mails, without a network."""

from __future__ import annotations

import asyncio
import threading

from salmon_state.mail.receivers.workers import Workers
from tests.mail.receivers.serving import HANG


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
